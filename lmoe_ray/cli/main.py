"""The ``lmoe`` command. Verbs are functions here; what they do lives below.

Heavy libraries are imported inside the verbs, so that ``lmoe --help`` answers at once.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from lmoe_ray import __version__
from lmoe_ray.cli import (
    ask_commands,
    calibrate_command,
    chat_command,
    demo_command,
    engine_bench_commands,
    key_commands,
    make_commands,
    router_bench_commands,
    routing_bench_command,
    serve_command,
)
from lmoe_ray.errors import LMoEError

app = typer.Typer(
    name="lmoe",
    help="A local mixture of LoRA experts behind an OpenAI-style API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure: accuracy of the router, speed of the engine.", no_args_is_help=True)

keys = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

app.command("serve")(serve_command.serve)
app.command("check")(serve_command.check)
app.command("calibrate")(calibrate_command.calibrate)
app.command("chat")(chat_command.chat)
app.command("route")(ask_commands.route)
app.command("segment")(make_commands.segment)
app.command("tune")(make_commands.tune)
app.command("evaluate")(make_commands.evaluate)
app.command("pack")(make_commands.pack)
app.command("demo")(demo_command.demo)
bench.command("routing")(routing_bench_command.routing)
bench.command("encoder")(router_bench_commands.encoder)
bench.command("index")(router_bench_commands.index)
bench.command("engine")(engine_bench_commands.engine)
bench.command("gpu")(engine_bench_commands.gpu)
bench.command("structured")(engine_bench_commands.structured)
app.add_typer(bench, name="bench")
keys.command("create")(key_commands.create)
keys.command("list")(key_commands.show)
keys.command("revoke")(key_commands.revoke)
app.add_typer(keys, name="keys")


@app.command("version")
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit status 1."""
    try:
        app()
    except LMoEError as exc:
        Console(stderr=True).print(f"lmoe: {exc}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
