from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.routing.index_cache import FORMAT, build_fitted, load_or_build, rebuild, save_shipped
from lmoe_ray.routing.sample_set import SampleSet, choose_samples
from tests.fakes import HashingEncoder
from tests.routing.experts import expert

EXPERTS = (expert("code", "write a loop", "sort a list"), expert("math", "add two numbers"))
SAMPLES = choose_samples(EXPERTS, 10, seed=0)


def ship(folder: Path, samples: SampleSet) -> None:
    save_shipped(folder, build_fitted(samples, HashingEncoder()))


def entries(cache_dir: Path) -> list[str]:
    return sorted(path.name for path in (cache_dir / "routing").iterdir())


def test_a_restart_embeds_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first, encoder = load_or_build(SAMPLES, HashingEncoder(), tmp_path), HashingEncoder()

    second = load_or_build(SAMPLES, encoder, tmp_path)

    assert encoder.embedded == []
    query = HashingEncoder().embed(["sort a list of numbers"])
    for ours, theirs in zip(first.index.per_expert(query, 5), second.index.per_expert(query, 5), strict=True):
        assert np.array_equal(ours, theirs)
    assert second.index.texts == first.index.texts
    assert first.heads is not None
    assert first.calibration is not None
    assert second.digest == first.digest == entries(tmp_path)[0]
    for part, arrays in first.arrays().items():
        for name, array in arrays.items():
            assert np.array_equal(array, second.arrays()[part][name])


def test_an_entry_is_its_files_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    load_or_build(SAMPLES, HashingEncoder(), tmp_path)

    (name,) = entries(tmp_path)
    assert not name.startswith(".")
    assert sorted(p.name for p in (tmp_path / "routing" / name).iterdir()) == [
        "calibration.npz",
        "familiarity.npz",
        "heads.npz",
        "index.faiss",
        "meta.json",
    ]


def test_a_lone_expert_has_nothing_to_be_told_apart_from(tmp_path: Path) -> None:
    load_or_build(choose_samples(EXPERTS[:1], 10, seed=0), HashingEncoder(), tmp_path)

    assert sorted(p.name for p in (tmp_path / "routing").glob("*/*")) == [
        "familiarity.npz",
        "index.faiss",
        "meta.json",
    ]


@pytest.mark.parametrize(
    ("experts", "encoder"),
    [
        (EXPERTS, HashingEncoder(identity="another model")),
        (EXPERTS, HashingEncoder(max_tokens=2)),
        ((*EXPERTS, expert("poetry", "a haiku")), HashingEncoder()),
        ((expert("code", "write a loop"), EXPERTS[1]), HashingEncoder()),
        ((expert("code", *EXPERTS[0].samples, sources=("book", "forum")), EXPERTS[1]), HashingEncoder()),
    ],
    ids=["model", "max_tokens", "expert", "sample", "source"],
)
def test_whatever_shapes_the_vectors_makes_another_entry(
    experts: tuple, encoder: HashingEncoder, tmp_path: Path
) -> None:
    load_or_build(SAMPLES, HashingEncoder(), tmp_path)
    encoder.embedded.clear()

    load_or_build(choose_samples(experts, 10, seed=0), encoder, tmp_path)

    assert len(encoder.embedded) > 0
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("file", ["index.faiss", "familiarity.npz", "heads.npz", "calibration.npz", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_entry_is_noticed_and_built_again(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_or_build(SAMPLES, HashingEncoder(), tmp_path)
    (victim,) = (tmp_path / "routing").glob(f"*/{file}")
    content = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(content[:-9] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])

    encoder = HashingEncoder()
    with caplog.at_level(logging.WARNING):
        load_or_build(SAMPLES, encoder, tmp_path)
    again = HashingEncoder()
    load_or_build(SAMPLES, again, tmp_path)

    assert "damaged and built again" in caplog.text
    assert sorted(encoder.embedded) == sorted(SAMPLES.rows)
    assert again.embedded == []
    assert len(entries(tmp_path)) == 1


def test_an_entry_of_another_format_is_left_alone_and_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as past:
        past.setattr("lmoe_ray.routing.index_cache.FORMAT", FORMAT - 1)
        load_or_build(SAMPLES, HashingEncoder(), tmp_path)
    (old,) = entries(tmp_path)

    load_or_build(SAMPLES, encoder := HashingEncoder(), tmp_path)

    assert len(encoder.embedded) == 3
    assert old in entries(tmp_path)
    assert len(entries(tmp_path)) == 2


def test_what_a_former_index_holds_is_not_embedded_again(tmp_path: Path) -> None:
    encoder = HashingEncoder()
    before = load_or_build(SAMPLES, encoder, None)
    encoder.embedded.clear()
    more = choose_samples((*EXPERTS, expert("poetry", "a haiku", "sort a list")), 10, seed=0)

    (after,) = rebuild(more, encoder, tmp_path, None, before)

    assert encoder.embedded == ["a haiku"]
    assert np.array_equal(after.index.vectors, HashingEncoder().embed(more.rows))
    assert after.digest == load_or_build(more, encoder, tmp_path).digest
    assert encoder.embedded == ["a haiku"]


def many_samples(*names: str) -> SampleSet:
    """400 of each expert, in words of its own and of all."""
    weather = ("rain", "snow", "sun", "wind")
    experts = [
        expert(name, *(f"{name} {i % 40} of {name}{i % 7} and {weather[i % 4]} {i}" for i in range(400)))
        for name in names
    ]
    return choose_samples(experts, 1000, seed=0)


@pytest.mark.slow
def test_many_samples_are_fitted_in_another_process_as_they_would_be_in_this_one(tmp_path: Path) -> None:
    encoder = HashingEncoder()
    before = load_or_build(many_samples("code", "math"), encoder, None)
    more = many_samples("code", "math", "poetry")

    first, second = rebuild(more, encoder, tmp_path, None, before)
    alone = build_fitted(more, HashingEncoder())

    assert first.calibration is before.calibration
    for name, arrays in alone.arrays().items():
        for key, array in arrays.items():
            assert np.allclose(array, second.arrays()[name][key], atol=1e-5), (name, key)
    assert np.array_equal(first.arrays()["heads"]["weight"], second.arrays()["heads"]["weight"])
    assert second.digest == alone.digest == load_or_build(more, encoder, tmp_path).digest


def test_a_process_that_dies_leaves_an_error_and_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    # More than a pipe holds, so that the process is dead before all is sent.
    samples = many_samples(*(f"{kind} {'so ' * 100}" for kind in ("code", "math", "poetry")))

    with pytest.raises((EOFError, OSError)):
        list(rebuild(samples, HashingEncoder(), tmp_path, None, None))

    assert not list(tmp_path.rglob("meta.json"))


def test_a_cache_that_cannot_be_written_costs_time_but_not_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "routing").write_text("a file where a folder should be")

    with caplog.at_level(logging.WARNING):
        fitted = load_or_build(SAMPLES, HashingEncoder(), tmp_path)

    assert fitted.index.num_samples == 3
    assert "not cached" in caplog.text


def test_without_a_cache_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert load_or_build(SAMPLES, HashingEncoder(), None).index.num_samples == 3
    assert list(tmp_path.iterdir()) == []


def test_a_shipped_index_is_found_when_the_cache_has_none(tmp_path: Path) -> None:
    ship(tmp_path / "shipped", SAMPLES)
    encoder = HashingEncoder()

    fitted = load_or_build(SAMPLES, encoder, tmp_path / "cache", shipped_dir=tmp_path / "shipped")

    assert encoder.embedded == []
    assert fitted.index.num_samples == 3
    assert not (tmp_path / "cache").exists()


def test_a_shipped_index_of_other_samples_is_not_taken(tmp_path: Path) -> None:
    ship(tmp_path / "shipped", choose_samples(EXPERTS[:1], 10, seed=0))
    encoder = HashingEncoder()

    load_or_build(SAMPLES, encoder, None, shipped_dir=tmp_path / "shipped")

    assert len(encoder.embedded) == 3


def test_shipping_again_leaves_only_the_newest_index(tmp_path: Path) -> None:
    ship(tmp_path / "shipped", choose_samples(EXPERTS[:1], 10, seed=0))
    ship(tmp_path / "shipped", SAMPLES)

    assert len(list((tmp_path / "shipped").iterdir())) == 1
