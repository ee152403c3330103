"""``lmoe bench engine``, ``gpu`` and ``structured``: how fast the engine answers, beside whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lmoe_ray.cli.bench_progress import err_console, say

if TYPE_CHECKING:
    from lmoe_ray.bench.speed_cells import Workload

console = Console()

#: What the engines are measured with: dense, small, and installed with this package.
BENCH_MODEL = "smollm2-135m-instruct"


def engine(
    quick: Annotated[bool, typer.Option("--quick", help="About two minutes: fewer engines, cells and tokens.")] = False,
    engines: Annotated[str, typer.Option(help="Names with commas; default: all that are there.")] = "",
    concurrency: Annotated[str, typer.Option(help="Requests at once; default 1,4,16,32.")] = "",
    mixes: Annotated[str, typer.Option(help="Distinct adapters; default base,one,six,32.")] = "",
    shape: Annotated[str, typer.Option(help="Prompt and new tokens of each request; default 64/64.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each engine.")] = 1,
    rounds: Annotated[int | None, typer.Option(min=1, help="Runs of each cell; default 5, 2 if quick.")] = None,
    environments: Annotated[Path | None, typer.Option(help="Folder of the peers; default: in the cache.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line per cell on standard output.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the throughput, into this SVG file.")] = None,
    setup: Annotated[bool, typer.Option("--setup", help="Make the peers' environments with uv, and end.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder of models and adapters.")] = Path("~/.cache/lmoe_ray"),
) -> None:
    """Speed of the engine beside its peers, in interleaved rounds on this machine."""
    from lmoe_ray.bench.engine_report import as_dict, print_table
    from lmoe_ray.bench.engine_speed import run
    from lmoe_ray.bench.peer_environments import set_up
    from lmoe_ray.bench.speed_engines import PeerPlaces, choose_engines, quick_engines
    from lmoe_ray.bench.speed_plot import draw
    from lmoe_ray.pretrained.model_source import resolve

    cache = cache_dir.expanduser()
    workload = _workload(quick, concurrency, mixes, shape, threads, rounds)
    places = PeerPlaces((environments or cache / "peers").expanduser().absolute())
    kinds = quick_engines(places) if quick and not engines else choose_engines(engines)
    with err_console.status("resolving the model") as display:
        model = resolve(f"builtin:{BENCH_MODEL}", None, cache)
        if setup:
            set_up(kinds, places, model, BENCH_MODEL, say)
            return
        results = run(kinds, workload, model, places, cache, progress=display.update, warn=say)
    if as_json:
        for result in results:
            print(json.dumps(as_dict(result, workload)))
    else:
        print_table(results, workload, console)
    if plot:
        draw(results, workload, plot)


def gpu(
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model; the default shape is Llama-2-7B's.")] = 32,
    hidden: Annotated[int, typer.Option(min=64, help="Width of the model.")] = 4096,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the six adapters, on all linears.")] = 64,
    concurrency: Annotated[str, typer.Option(help="Requests at once.")] = "1,32",
    mixes: Annotated[str, typer.Option(help="Distinct adapters.")] = "base,one,six",
    shape: Annotated[str, typer.Option(help="Prompt and new tokens of each request.")] = "256/128",
    prefill: Annotated[int, typer.Option(min=1, help="Tokens of each of four prompts, for the prefill rate.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each cell.")] = 3,
    engines: Annotated[str, typer.Option(help="Names with commas.")] = "lmoe,hf-peft,predecessor",
    device: Annotated[str, typer.Option(help="cuda; or cpu, with a small model, to see that it runs.")] = "cuda",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line per cell on standard output.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder of model and adapters.")] = Path("~/.cache/lmoe_ray"),
) -> None:
    """Speed on a GPU of our engine, of transformers with PEFT and of the predecessor, beside the GPU's own limits."""
    from lmoe_ray.bench.gpu_model import LlamaSize
    from lmoe_ray.bench.gpu_report import as_dict, print_table
    from lmoe_ray.bench.gpu_speed import GpuWorkload, choose_gpu_engines, run
    from lmoe_ray.bench.speed_cells import choose_cells, parse_shape
    from lmoe_ray.engine.base_model import choose_device

    if device == "cuda" and choose_device("auto").type != "cuda":
        say("no CUDA device on this machine; --device cpu --layers 2 --hidden 64 shows that the measurement runs")
        raise typer.Exit(2)
    chosen = choose_gpu_engines(engines)
    size, cells = LlamaSize(layers, hidden, rank), choose_cells(concurrency, mixes)
    workload = GpuWorkload(size, cells, *parse_shape(shape), prefill_tokens=prefill, rounds=rounds, device=device)
    with err_console.status("starting") as display:
        cache = cache_dir.expanduser().absolute()
        ceilings, results = run(workload, chosen, cache, progress=display.update, warn=say)
    if as_json:
        for result in results:
            print(json.dumps(as_dict(result, workload, ceilings)))
    else:
        print_table(results, workload, ceilings, console)


def structured(
    model: Annotated[str, typer.Option(help="builtin:…, a local folder or a hub id.")] = f"builtin:{BENCH_MODEL}",
    prompts: Annotated[int, typer.Option(min=1, max=500, help="Prompts, each with a strict JSON schema.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 512,
    streams: Annotated[str, typer.Option(help="Answers decoded at once, for the cost.")] = "1,16",
    new_tokens: Annotated[int, typer.Option(min=2, help="Of each of them.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line on standard output.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder of models.")] = Path("~/.cache/lmoe_ray"),
) -> None:
    """How many answers satisfy their JSON schema, and what keeping to one costs."""
    from lmoe_ray.bench.structured_output import print_report, run
    from lmoe_ray.pretrained.model_source import resolve

    with err_console.status("resolving the model") as display:
        report = run(
            resolve(model, None, cache_dir.expanduser()),
            num_prompts=prompts,
            max_tokens=max_tokens,
            streams=[int(number) for number in streams.split(",")],
            new_tokens=new_tokens,
            rounds=rounds,
            threads=threads,
            progress=display.update,
        )
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print_report(report, console)


def _workload(quick: bool, concurrency: str, mixes: str, shape: str, threads: int, rounds: int | None) -> Workload:
    """The named workload with what the options change."""
    from lmoe_ray.bench.speed_cells import QUICK, STANDARD, choose_cells, parse_shape
    from lmoe_ray.engine.base_model import choose_device, choose_dtype

    named = QUICK if quick else STANDARD
    cells = named.cells
    if concurrency or mixes:
        cells = choose_cells(
            concurrency or ",".join(dict.fromkeys(str(cell.concurrency) for cell in cells)),
            mixes or ",".join(dict.fromkeys(cell.mix for cell in cells)),
        )
    prompt_tokens, new_tokens = parse_shape(shape) if shape else (named.prompt_tokens, named.new_tokens)
    return replace(
        named,
        cells=cells,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds or named.rounds,
        threads=threads,
        dtype=str(choose_dtype("auto", choose_device("cpu"))).removeprefix("torch."),
    )
