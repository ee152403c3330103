"""Rows are dealt out by rules that hold on every run: nothing held out leaks, nothing vanishes unsaid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.instruct_rows import InstructRow, read_rows
from lmoe_ray.training.segment import CATEGORIES, SegmentSettings, segment, write_segmentation

MAP = {"code": ("coding",), "fun": ("joke", "song"), "qa": ("quiz",)}


def rows_of(category: str, count: int) -> list[InstructRow]:
    return [InstructRow(category, f"{category} number {i}", f"answer {i}") for i in range(count)]


ROWS = [*rows_of("coding", 400), *rows_of("joke", 200), *rows_of("song", 20), *rows_of("quiz", 300)]


def test_the_predecessors_map_has_six_experts_and_23_categories() -> None:
    assert sorted(CATEGORIES) == ["code", "creative", "function", "general", "qa", "reasoning"]
    assert len({name for names in CATEGORIES.values() for name in names}) == 23


def test_every_own_row_is_either_trained_on_or_held_out() -> None:
    split = segment(ROWS, SegmentSettings(foreign_ratio=0), MAP)

    fun = split.experts["fun"]
    assert sorted(r.instruction for r in (*fun.training, *fun.heldout)) == sorted(
        r.instruction for r in ROWS if r.category in ("joke", "song")
    )
    assert fun.num_foreign == 0


def test_held_out_rows_are_neither_trained_nor_routed_on_by_anyone() -> None:
    split = segment(ROWS, SegmentSettings(), MAP)

    held_out = {row for expert in split.experts.values() for row in expert.heldout}
    seen = {row for expert in split.experts.values() for row in (*expert.training, *expert.routing)}
    assert held_out
    assert not held_out & seen


def test_about_eight_in_a_hundred_are_held_out() -> None:
    split = segment(rows_of("coding", 5000) + rows_of("joke", 9) + rows_of("quiz", 9), categories=MAP)

    assert 340 < len(split.experts["code"].heldout) < 460


def test_copies_of_an_instruction_fall_on_one_side() -> None:
    copies = [
        InstructRow(category, text, f"answer {i} {text}")
        for i in range(60)
        for category, text in (("coding", f"Do  thing {i}"), ("coding", f"do thing {i}\n"), ("joke", f"DO THING {i}"))
    ]

    split = segment([*copies, *rows_of("quiz", 9)], SegmentSettings(heldout_share=0.5), MAP)

    def texts(rows: tuple[InstructRow, ...]) -> set[str]:
        return {" ".join(row.instruction.lower().split()) for row in rows}

    held_out = texts(split.experts["code"].heldout) | texts(split.experts["fun"].heldout)
    kept = texts(split.experts["code"].training) | texts(split.experts["fun"].training)
    assert 10 < len([t for t in held_out if t.startswith("do thing")]) < 50
    assert not held_out & kept


def test_new_rows_never_move_old_ones_across() -> None:
    before = segment(ROWS, categories=MAP).experts["code"].heldout
    after = segment([*rows_of("coding", 800)[400:], *ROWS], categories=MAP).experts["code"].heldout

    assert set(before) <= set(after)


def test_routing_rows_are_the_experts_own() -> None:
    split = segment(ROWS, categories=MAP)

    assert {row.category for row in split.experts["fun"].routing} == {"joke", "song"}
    assert {row.category for row in split.experts["fun"].training} == {"coding", "joke", "song", "quiz"}


def test_strangers_rows_are_the_predecessors_number() -> None:
    settings = SegmentSettings(heldout_share=0, pool_share=0.5)

    split = segment(ROWS, settings, MAP)

    # 4 categories, so own / (4 * 0.6) of each foreign one, at most its pool: half of 200, 10 of 20, half of 300
    assert split.experts["code"].num_foreign == min(166, 100) + min(166, 10) + min(166, 150)
    assert split.experts["fun"].num_foreign == min(91, 200) + min(91, 150)


def test_strangers_are_drawn_from_one_small_pool() -> None:
    settings = SegmentSettings(heldout_share=0, max_pool=7)

    split = segment(ROWS, settings, MAP)

    drawn = [{r for r in split.experts[name].training if r.category == "quiz"} for name in ("code", "fun")]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 7


def test_a_small_category_lends_one_row() -> None:
    split = segment(
        [*rows_of("coding", 50), *rows_of("joke", 3), *rows_of("quiz", 50)], SegmentSettings(heldout_share=0), MAP
    )

    assert sum(row.category == "joke" for row in split.experts["code"].training) == 1


def test_an_empty_category_is_said_and_harmless() -> None:
    split = segment([row for row in ROWS if row.category != "song"], categories=MAP)

    assert split.empty == ("song",)


def test_dropped_categories_and_repeated_rows_are_counted() -> None:
    split = segment([*ROWS, *rows_of("editor", 3), *rows_of("awareness", 2), ROWS[0], ROWS[0]], categories=MAP)

    assert split.dropped == {"awareness": 2, "editor": 3}
    assert split.num_repeated == 2


def test_an_expert_without_rows_is_an_error_that_names_its_categories() -> None:
    with pytest.raises(TrainingDataError, match="'fun': has no row to train on; add rows of category joke, song"):
        segment(rows_of("coding", 10), categories=MAP)


def test_a_category_of_two_experts_is_refused() -> None:
    with pytest.raises(TrainingDataError, match="'joke': belongs to 'a' and to 'b'"):
        segment(ROWS, categories={"a": ("joke",), "b": ("joke",)})


def test_another_seed_gives_another_split() -> None:
    one, two = (segment(ROWS, SegmentSettings(seed=seed), MAP).experts["code"] for seed in (1, 2))

    assert set(one.heldout) != set(two.heldout)
    assert one.training != two.training


@pytest.mark.slow
def test_the_files_are_the_same_in_every_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from lmoe_ray.training.segment import segment, write_segmentation\n"
        "from lmoe_ray.training.instruct_rows import InstructRow\n"
        "rows = [InstructRow(c, f'{c} {i}', 'r') for c in ('coding', 'joke', 'quiz') for i in range(60)]\n"
        "split = segment(rows, categories={'code': ('coding',), 'fun': ('joke',), 'qa': ('quiz',)})\n"
        "write_segmentation(split, Path(sys.argv[1]))\n"
    )
    for name, hash_seed in (("a", "1"), ("b", "2")):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True, env=environment)

    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.jsonl"))
    assert [str(f) for f in files] == [
        f"{folder}/expert_{expert}.jsonl"
        for folder in ("heldout", "routing_data", "training_data")
        for expert in ("code", "fun", "qa")
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_written_files_hold_the_split(tmp_path: Path) -> None:
    split = segment(ROWS, categories=MAP)
    (tmp_path / "out" / "heldout").mkdir(parents=True)
    (tmp_path / "out" / "heldout" / "expert_gone.jsonl").touch()
    (tmp_path / "out" / "notes.txt").touch()

    write_segmentation(split, tmp_path / "out")

    assert read_rows(tmp_path / "out" / "training_data" / "expert_qa.jsonl") == split.experts["qa"].training
    assert read_rows(tmp_path / "out" / "heldout" / "expert_qa.jsonl") == split.experts["qa"].heldout
    assert not (tmp_path / "out" / "heldout" / "expert_gone.jsonl").exists()
    assert (tmp_path / "out" / "notes.txt").exists()
    first = (tmp_path / "out" / "routing_data" / "expert_qa.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"instruction": "A chat. " + split.experts["qa"].routing[0].instruction}
