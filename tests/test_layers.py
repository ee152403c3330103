"""The house stands: imports point down, heavy libraries stay where they belong, names are addresses."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lmoe_ray"
BELOW = {"errors", "settings", "domain"}

#: What each floor may import of ours.
LAYERS = {
    "errors": set[str](),
    "settings": {"errors"},
    "domain": {"errors"},
    "native": set(),
    "pretrained": BELOW,
    "api": BELOW,
    "routing": BELOW | {"native"},
    "engine": BELOW | {"native"},
    "training": BELOW | {"pretrained"},
    "serving": BELOW | {"pretrained", "api", "routing", "engine"},
    "bench": BELOW | {"pretrained", "api", "routing", "engine"},
    "demo": BELOW | {"pretrained", "routing", "training"},
    "cli": BELOW | {"pretrained", "api", "routing", "engine", "training", "serving", "bench", "demo"},
}

#: Who alone may import a heavy library.
HEAVY = {
    "ray": {"serving"},
    "starlette": {"api", "serving"},
    "torch": {"engine", "training", "pretrained", "routing", "native", "peers"},
    "llguidance": {"engine"},
    "transformers": {"engine", "training", "pretrained", "peers"},
    "peft": {"training", "engine", "peers"},
    "faiss": {"routing"},
    "sklearn": {"routing"},
    "sentence_transformers": {"routing"},
    "pydantic": {"settings", "api", "serving"},
    "typer": {"cli"},
    "vllm": {"peers"},
    "openvino": {"peers"},
    "openvino_genai": {"peers"},
    "llama_cpp": {"peers"},
}

#: The engine decides without tensors; only what computes may see torch.
BOOKKEEPING = {
    "adapter_slots",
    "admission",
    "block_manager",
    "mailbox",
    "scheduler",
    "sequence",
    "step",
    "step_budget",
    "stopping",
    "waiting_queue",
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.stem not in ("__init__", "__main__"))


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def room_of(path: Path) -> str:
    """The floor; but the scripts of ``bench/peers`` run in other environments, each with its own heavy library."""
    return "peers" if path.parent.name == "peers" else floor_of(path)


def statements_in(node: ast.AST) -> Iterator[ast.AST]:
    """All of them, however deep; unlike :func:`ast.walk` it does not enter expressions, where no import can be."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, block, ())
        for statement in inner if isinstance(inner, list) else ():
            yield statement
            yield from statements_in(statement)


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in statements_in(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(str(node.module))
    return tuple(names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    floor = floor_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "lmoe_ray" and len(parts) > 1 and parts[1] != floor:
            assert parts[1] in LAYERS[floor], f"{floor} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    for name in imports_of(path):
        library = name.split(".")[0]
        assert room_of(path) in HEAVY.get(library, {room_of(path)}), f"{room_of(path)} may not import {name}"
        if path.parent.name == "engine" and path.stem in BOOKKEEPING:
            assert library != "torch", f"{path.stem} decides; it may not compute"


@pytest.mark.slow
def test_the_http_surface_loads_neither_torch_nor_ray_nor_transformers() -> None:
    heavy = "{'torch', 'ray', 'transformers', 'sentence_transformers', 'faiss', 'numpy'}"
    code = f"import sys, lmoe_ray.api.http_app, lmoe_ray.api.client; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_file_name_is_an_address() -> None:
    names = Counter(path.name for path in modules())

    assert [name for name, count in names.items() if count > 1] == []


def test_init_files_are_empty() -> None:
    filled = [p for p in ROOT.rglob("__init__.py") if p.parent != ROOT and p.read_text().strip()]

    assert filled == []
