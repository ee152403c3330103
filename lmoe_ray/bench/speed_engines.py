"""Which engines are compared, what each of them can do, and where it lives.

An engine runs in a process of its own. Where an engine is faster without adapters loaded, its base cells run
in a second process that has none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmoe_ray.bench.speed_cells import MIXES, Cell
from lmoe_ray.errors import SettingsError

PEERS = Path(__file__).parent / "peers"

#: What makes the environments of engines that are not installed with this package.
SETUP_COMMAND = "lmoe bench engine --setup"


#: One process, threads as told, one GB of cache, nothing sent home.
VLLM_VARIABLES = (
    ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
    ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
    ("VLLM_CPU_KVCACHE_SPACE", "1"),
    ("VLLM_NO_USAGE_STATS", "1"),
)


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine as the bench knows it.

    Attributes:
        script: in ``peers/``, with its ``arguments``.
        environment: folder of its virtual environment; empty: it lives in ours.
        model_form: what it reads: the model's folder, an OpenVINO folder or a GGUF file.
        mixes: those it can compute.
        max_concurrency: ``None``: any.
        is_serial: it answers one request after the other, so one request tells all.
        has_bare_base: its base cells run without adapters loaded.
        variables: environment of its process, ``(name, value)``.
    """

    name: str
    script: str
    arguments: tuple[str, ...] = ()
    environment: str = ""
    model_form: Literal["folder", "openvino", "gguf"] = "folder"
    mixes: tuple[str, ...] = tuple(MIXES)
    max_concurrency: int | None = None
    is_serial: bool = False
    has_bare_base: bool = True
    variables: tuple[tuple[str, str], ...] = ()

    def can_run(self, cell: Cell) -> bool:
        return cell.mix in self.mixes and (self.max_concurrency is None or cell.concurrency <= self.max_concurrency)


ENGINES = {
    kind.name: kind
    for kind in (
        EngineKind("lmoe", "lmoe_peer.py", has_bare_base=False),
        EngineKind("lmoe-http", "lmoe_http_peer.py", has_bare_base=False),
        EngineKind("predecessor", "transformers_peer.py", ("predecessor",), is_serial=True),
        EngineKind("hf-peft", "transformers_peer.py", ("hf-peft",)),
        EngineKind("hf-continuous", "transformers_peer.py", ("hf-continuous",), mixes=("base", "one")),
        EngineKind("vllm-cpu", "vllm_peer.py", environment="vllm-cpu", variables=VLLM_VARIABLES),
        EngineKind("openvino", "openvino_peer.py", environment="openvino", model_form="openvino"),
        EngineKind(
            "llama-cpp",
            "llama_cpp_peer.py",
            environment="llama-cpp",
            model_form="gguf",
            mixes=("base",),
            max_concurrency=1,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class PeerPlaces:
    """Where peers live under one folder: ``<environment>/bin/python`` and ``models/<name>…``."""

    root: Path

    def python(self, environment: str) -> Path:
        return self.root / environment / "bin" / "python" if environment else Path(sys.executable)

    def model(self, kind: EngineKind, folder: Path) -> Path:
        """The model in the engine's form."""
        endings = {"openvino": "-openvino", "gguf": "-bf16.gguf"}
        if kind.model_form == "folder":
            return folder
        return self.root / "models" / (folder.name + endings[kind.model_form])

    def missing(self, kind: EngineKind, folder: Path) -> str | None:
        """What keeps the engine from running here, and what makes it; ``None``: nothing."""
        for needed in (self.python(kind.environment), self.model(kind, folder)):
            if not needed.exists():
                return f"{needed} is not there; `{SETUP_COMMAND}` makes it"
        return None


def choose_engines(names: str) -> tuple[EngineKind, ...]:
    """From a list with commas; empty: all.

    Raises:
        SettingsError: there is no such engine.
    """
    chosen = names.split(",") if names else list(ENGINES)
    if strangers := [name for name in chosen if name not in ENGINES]:
        raise SettingsError("--engines", f"no engine is called {strangers[0]!r}; there are: {', '.join(ENGINES)}")
    return tuple(ENGINES[name] for name in dict.fromkeys(chosen))


def quick_engines(places: PeerPlaces) -> tuple[EngineKind, ...]:
    """Those that load in seconds; the predecessor, which answers slowly, only where no peer is there."""
    peers = ("openvino", "llama-cpp")
    has_peer = any(places.python(ENGINES[name].environment).exists() for name in peers)
    return tuple(ENGINES[name] for name in ("lmoe", "hf-peft", *peers, *(() if has_peer else ("predecessor",))))
