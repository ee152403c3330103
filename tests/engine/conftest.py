"""Tiny models, packages and engines for the engine's tests; torch is only imported by tests that ask for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.domain.package import Expert, LMoEPackage, load_package


@pytest.fixture(scope="session")
def tiny() -> Any:
    return importlib.import_module("tests.tiny")


@pytest.fixture(scope="session")
def model_folder(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model, made once."""
    folders: dict[str, Path] = {}

    def folder(family: str = "llama") -> Path:
        if family not in folders:
            folders[family] = tiny.make_tiny_model(tmp_path_factory.mktemp(family), family)
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def llama(model_folder: Callable[[str], Path]) -> Path:
    return model_folder("llama")


@pytest.fixture(scope="session")
def package(tiny: Any, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LMoEPackage:
    """Six experts for the tiny llama: ranks 2 to 4, then a rank pattern, rsLoRA and attention only."""
    root = tiny.make_tiny_package(tmp_path_factory.mktemp("package"), llama)
    make, adapters = tiny.make_tiny_adapter, root / "adapters"
    patterns = {"rank_pattern": {"q_proj": 8, "layers.1.mlp.up_proj": 1}, "alpha_pattern": {"v_proj": 32}}
    make(llama, adapters / "patterned", seed=11, rank=4, **patterns)
    make(llama, adapters / "rslora", seed=12, rank=4, use_rslora=True)
    make(llama, adapters / "attention", seed=13, rank=3, targets=["q_proj", "v_proj"])
    return load_package(root)


@pytest.fixture(scope="session")
def code(package: LMoEPackage) -> Expert:
    """Rank 2 on every linear."""
    return next(expert for expert in package.experts if expert.name == "code")


@pytest.fixture
def make_engine(llama: Path) -> Iterator[Callable[..., Any]]:
    """Starts an fp32 CPU engine on the tiny llama, or another folder; closed after the test."""
    async_engine = importlib.import_module("lmoe_ray.engine.async_engine")
    settings = importlib.import_module("lmoe_ray.settings")
    engines = []

    def make(folder: Path = llama, *, options: dict[str, Any] | None = None, **knobs: Any) -> Any:
        defaults = {"dtype": "float32", "device": "cpu", "max_model_len": 512, "max_num_seqs": 8}
        knobs = defaults | {"max_batch_tokens": 64} | knobs
        engine = async_engine.AsyncEngine(folder, settings.EngineSettings(**knobs), **(options or {}))
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.close()
