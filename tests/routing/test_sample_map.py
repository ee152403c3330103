from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.routing.sample_map import draw_map
from tests.routing.experts import index_of, unit

RNG = np.random.default_rng(0)


def cloud(axis: int, num: int = 40) -> np.ndarray:
    return unit(np.eye(16)[axis] + 0.2 * RNG.normal(size=(num, 16)))


@pytest.mark.parametrize("num_experts", [1, 2, 3])
def test_every_expert_and_the_request_are_on_the_map(tmp_path: Path, num_experts: int) -> None:
    names = ("code", "creative", "qa")[:num_experts]
    index = index_of(**{name: cloud(axis) for axis, name in enumerate(names)})

    draw_map(index, [("a haiku", cloud(0, 1)[0].astype(np.float32))], tmp_path / "map.svg")

    picture = (tmp_path / "map.svg").read_text()
    for text in (*names, "a haiku"):
        assert f">{text}</text>" in picture


def test_the_same_samples_make_the_same_picture(tmp_path: Path) -> None:
    index = index_of(code=cloud(0), qa=cloud(1), creative=cloud(2))

    for name in ("a.svg", "b.svg"):
        draw_map(index, [], tmp_path / name)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_an_expert_without_samples_is_left_out(tmp_path: Path) -> None:
    index = index_of(code=cloud(0), empty=np.zeros((0, 16)), qa=cloud(1))

    draw_map(index, [], tmp_path / "map.svg")

    assert ">empty</text>" not in (tmp_path / "map.svg").read_text()
