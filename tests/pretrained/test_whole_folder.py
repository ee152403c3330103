"""A folder is complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmoe_ray.pretrained.whole_folder import may_replace, whole_folder


def test_a_finished_folder_takes_its_place(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a" / "out") as unfinished:
        (unfinished / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()

    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "x").read_text() == "1"


def test_an_older_folder_is_replaced_and_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()

    with whole_folder(tmp_path / "out") as unfinished:
        (unfinished / "new").touch()

    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_the_older_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()

    def stop_half_way() -> None:
        with whole_folder(tmp_path / "out") as unfinished:
            (unfinished / "new").touch()
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        stop_half_way()

    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["old"]


def test_only_what_is_absent_empty_or_an_older_result_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("empty", "result", "foreign"):
        (tmp_path / name).mkdir()
    (tmp_path / "result" / "marker").touch()
    (tmp_path / "foreign" / "thesis.tex").touch()

    names = ("absent", "empty", "result", "foreign", "file")
    assert [name for name in names if may_replace(tmp_path / name, "marker")] == ["absent", "empty", "result"]
