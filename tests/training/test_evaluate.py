"""One table tells what every adapter is worth, and it agrees with what tuning reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.evaluate import EvaluateSettings, evaluate, heldout_by_expert
from lmoe_ray.training.instruct_rows import InstructRow, write_rows
from lmoe_ray.training.tune import TuneSettings, tune
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.torch,
    # transformers and PEFT among themselves.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

ROWS = [InstructRow("c", f"what follows {i}?", f"after {i} comes {i + 1}") for i in range(12)]
OTHERS = [InstructRow("d", f"sing {i}", "la " * (i + 1)) for i in range(6)]
FAST = TuneSettings(rank=4, alpha=8, lr=1e-2, epochs=8, batch_tokens=256, dtype="float32", device="cpu")
EXACT = EvaluateSettings(batch_tokens=256, dtype="float32", device="cpu", num_threads=1)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def test_the_table_holds_base_and_adapters_on_every_set(model_folder: Path, tmp_path: Path) -> None:
    reports = {
        "numbers": tune(model_folder, ROWS, ROWS, tmp_path / "numbers", FAST, base_name="x"),
        "songs": tune(model_folder, OTHERS, OTHERS, tmp_path / "songs", FAST, base_name="x"),
    }
    told: list[tuple[str, str, float]] = []

    table = evaluate(
        model_folder,
        {name: tmp_path / name for name in reports},
        {"numbers": ROWS, "songs": OTHERS, "empty": []},
        EXACT,
        progress=lambda *cell: told.append(cell),
    )

    assert list(table.losses) == ["base", "numbers", "songs"]
    for name, report in reports.items():
        assert table.losses["base"][name] == pytest.approx(report.heldout_loss_before, rel=1e-5)
        assert table.losses[name][name] == pytest.approx(report.heldout_loss_after, rel=1e-5)
        assert table.num_targets[name] == report.num_heldout_targets
        assert table.gain(name, name) > 0.5
    assert set(table.num_targets) == {"numbers", "songs"}
    assert told == [(a, s, loss) for a, row in table.losses.items() for s, loss in row.items()]


def test_the_base_can_be_measured_alone(model_folder: Path) -> None:
    table = evaluate(model_folder, {}, {"numbers": ROWS}, EXACT)

    assert list(table.losses) == ["base"]


def test_an_adapter_cannot_be_called_base(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="base: names the base model"):
        evaluate(model_folder, {"base": tmp_path}, {"numbers": ROWS}, EXACT)


def test_rows_of_one_file_are_dealt_out_by_category(tmp_path: Path) -> None:
    rows = [InstructRow(category, "q", "a") for category in ("coding", "joke", "song", "unheard of")]
    write_rows(tmp_path / "rows.jsonl", rows)

    assert heldout_by_expert(tmp_path / "rows.jsonl") == {"creative": tuple(rows[1:3]), "code": (rows[0],)}


def test_files_of_a_folder_are_named_after_their_expert(tmp_path: Path) -> None:
    write_rows(tmp_path / "expert_fun.jsonl", OTHERS)
    (tmp_path / "notes.jsonl").write_text("not rows")

    assert heldout_by_expert(tmp_path) == {"fun": tuple(OTHERS)}


def test_rows_of_no_expert_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="holds no rows of the experts"):
        heldout_by_expert(tmp_path)
