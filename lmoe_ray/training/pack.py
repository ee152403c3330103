"""Adapters, descriptions and routing samples → an LMoE package, checked as serving will check it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from lmoe_ray.domain.package import EXPERT_NAME, MANIFEST, WEIGHT_FILES, LMoEPackage, Manifest, load_package
from lmoe_ray.errors import PackageError
from lmoe_ray.pretrained.whole_folder import may_replace, whole_folder
from lmoe_ray.training.instruct_rows import write_samples


def pack(
    out: Path,
    adapters: Mapping[str, Path],
    descriptions: Mapping[str, str],
    samples: Mapping[str, Sequence[str]],
    manifest: Manifest | None = None,
) -> LMoEPackage:
    """Write a package and read it back.

    Args:
        out: the package's folder; an older package is replaced, and stays if anything goes wrong.
        adapters: expert → PEFT folder; only its configuration and weights are copied.
        descriptions: expert → what it is good at; experts may be left out.
        samples: expert → routing texts; experts may be left out.
        manifest: written as ``lmoe.yaml``.

    Raises:
        PackageError: naming the expert or file that is wrong.
    """
    for what, names in (("a description", descriptions), ("routing samples", samples)):
        if strangers := sorted(names.keys() - adapters.keys()):
            raise PackageError(strangers[0], f"has {what} but no adapter; there are: {', '.join(sorted(adapters))}")
    if not may_replace(out, "adapters"):
        raise PackageError(str(out), "holds something else than an LMoE package; choose a new or empty folder")
    with whole_folder(out) as unfinished:
        for name, adapter in adapters.items():
            _copy_adapter(name, adapter, unfinished / "adapters" / name)
        for name, text in descriptions.items():
            (unfinished / "adapters" / name / "description.txt").write_text(text.strip() + "\n", encoding="utf-8")
        for name, texts in samples.items():
            write_samples(unfinished / "routing_data" / f"expert_{name}.jsonl", texts)
        _write_manifest(unfinished / MANIFEST, manifest or Manifest())
        load_package(unfinished)
    return load_package(out)


def _copy_adapter(name: str, source: Path, target: Path) -> None:
    if not EXPERT_NAME.fullmatch(name):
        raise PackageError(name, "cannot be an expert's name; use 1 to 64 letters, digits, '_', '-' and '.'")
    files = [source / "adapter_config.json", source / WEIGHT_FILES[0]]
    if missing := [file.name for file in files if not file.is_file()]:
        raise PackageError(name, f"{source} lacks {' and '.join(missing)}; give a PEFT adapter in safetensors")
    target.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, target / file.name)


def _write_manifest(file: Path, manifest: Manifest) -> None:
    fields = {key: str(value) for key, value in asdict(manifest).items() if value}
    file.write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8")
