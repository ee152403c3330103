from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lmoe_ray.bench.labelled_prompts import read_experts, read_prompts
from lmoe_ray.bench.routing_accuracy import print_report, run
from lmoe_ray.bench.routing_quality import quality_of
from lmoe_ray.domain.decision import Candidate, RoutingDecision
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder


def write(file: Path, *rows: object) -> Path:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return file


def said(expert: str, text: str) -> dict[str, object]:
    return {"expert": expert, "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package" / "routing_data"
    folder.mkdir(parents=True)
    write(folder / "expert_code.jsonl", {"instruction": "write a python loop"}, {"instruction": "fix a python bug"})
    write(folder / "expert_poetry.jsonl", {"instruction": "a haiku about rain"}, {"instruction": "a sonnet on love"})
    return folder.parent


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write(
        tmp_path / "test.jsonl",
        said("code", "a python loop please"),
        said("code", "a haiku about python and rain"),
        said("poetry", "a haiku about rain, quickly"),
        said("poetry", "a sonnet on love and rain"),
    )


def test_the_report_counts_who_was_taken_for_whom(package: Path, labelled: Path, tmp_path: Path) -> None:
    # Four samples make most things look unfamiliar.
    settings = RouterSettings(min_familiarity=0.0)

    report = run(read_experts(package, 256), labelled, settings, HashingEncoder(), tmp_path / "cache")

    assert report.confusion == {"code": {"code": 1, "poetry": 1}, "poetry": {"poetry": 2}}
    row = report.as_dict()
    assert (row["n"], row["num_samples"], row["scoring"], row["accuracy"]) == (4, 4, "fused", 0.75)
    assert row["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert {"ece", "coverage_at_95", "baseline_accuracy", "baseline_macro_f1"} <= row.keys()
    assert 0 < row["after_encoder_p50_ms"] < row["p50_ms"] <= row["p95_ms"]
    json.dumps(row)


def test_every_text_is_embedded_once_for_both_columns(package: Path, labelled: Path) -> None:
    encoder = HashingEncoder()

    run(read_experts(package, 256), labelled, RouterSettings(), encoder, None)

    assert len(encoder.embedded) == len(set(encoder.embedded)) == 4 + 4 + 1


def test_a_samples_file_does_what_a_package_does(package: Path, labelled: Path, tmp_path: Path) -> None:
    rows = [said("code", "write a python loop"), said("code", "fix a python bug")]
    rows += [{"expert": "poetry", "instruction": text} for text in ("a haiku about rain", "a sonnet on love")]
    samples = write(tmp_path / "samples.jsonl", *rows)

    by_file = run(read_experts(samples, 256), labelled, RouterSettings(), HashingEncoder(), None)

    assert (
        by_file.quality == run(read_experts(package, 256), labelled, RouterSettings(), HashingEncoder(), None).quality
    )


def test_the_table_shows_figures_and_confusion(package: Path, labelled: Path) -> None:
    console = Console(file=io.StringIO(), width=100)

    print_report(
        run(read_experts(package, 256), labelled, RouterSettings(threshold=0.999), HashingEncoder(), None), console
    )

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "routing of 4 prompts by 4 samples" in text
    assert "accuracy" in text
    assert "(base)" in text


def test_sample_rows_are_read_as_queries_are(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant. Answer in Latin."},
        {"role": "user", "content": "Where is the farmer?"},
    ]

    (expert,) = read_experts(write(tmp_path / "samples.jsonl", {"expert": "qa", "messages": messages}), 256)

    assert (expert.name, expert.samples) == ("qa", ("Answer in Latin.\nWhere is the farmer?",))


@pytest.mark.parametrize(
    "row", ["no json", "[]", {"messages": []}, {"expert": 3, "instruction": "x"}, {"expert": "qa", "instruction": None}]
)
def test_a_row_that_cannot_be_read_is_named(row: object, tmp_path: Path) -> None:
    file = write(tmp_path / "test.jsonl", said("code", "fine"), row)

    with pytest.raises(TrainingDataError, match=r"test\.jsonl:2: is not"):
        read_prompts(file)


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")

    with pytest.raises(TrainingDataError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(TrainingDataError, match="holds no routing samples"):
        read_experts(tmp_path, 256)
    with pytest.raises(TrainingDataError, match="cannot be read"):
        read_prompts(tmp_path / "missing.jsonl")


def decide(expert: str | None, confidence: float, best: str | None = None) -> RoutingDecision:
    candidates = (Candidate(best or expert or "", confidence),)
    return RoutingDecision("bench", expert, "similarity", confidence, candidates if best or expert else ())


def test_accuracy_and_f1_are_of_answers() -> None:
    quality = quality_of(
        ["a", "a", "b", "b"], [decide("a", 1.0), decide("b", 1.0), decide("b", 1.0), decide(None, 0.0)]
    )

    assert quality.accuracy == 0.5
    assert quality.macro_f1 == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_calibration_error_is_the_mean_gap_between_confidence_and_truth() -> None:
    honest = [decide("a", 0.75)] * 3 + [decide("b", 0.75)]
    boastful = [decide("a", 0.95), decide("b", 0.95)]

    assert quality_of(["a"] * 4, honest).ece == pytest.approx(0)
    assert quality_of(["a"] * 2, boastful).ece == pytest.approx(0.45)


def test_an_abstention_is_judged_by_its_best_candidate() -> None:
    quality = quality_of(["a", "a"], [decide(None, 1.0, best="a"), decide("a", 1.0)])

    assert (quality.accuracy, quality.ece, quality.coverage_at_95) == (0.5, 0.0, 1.0)


def test_coverage_is_the_largest_share_one_threshold_answers_precisely() -> None:
    decisions = [decide("a", 0.9)] * 20 + [decide("b", 0.8)] * 2
    tied = [decide("a", 0.9), decide("b", 0.9)]

    assert quality_of(["a"] * 22, decisions).coverage_at_95 == pytest.approx(20 / 22)
    assert quality_of(
        ["a"] * 22, [*decisions[:20], decide("b", 0.85), decide("b", 0.8)]
    ).coverage_at_95 == pytest.approx(21 / 22)
    assert quality_of(["a", "a"], tied).coverage_at_95 == 0.0


def test_declared_tools_of_a_labelled_prompt_reach_the_router(tmp_path: Path) -> None:
    experts = tuple(
        read_experts(_file(tmp_path / "samples.jsonl", [{"expert": name, "instruction": text}]), 256)[0]
        for name, text in (("function", "call a tool"), ("poetry", "a haiku about rain"))
    )
    tool = {"type": "function", "function": {"name": "rain"}}
    turns = [{"role": "user", "content": "a haiku about rain"}, {"role": "assistant", "content": None}]
    row = {"expert": "function", "messages": [*turns, turns[0]], "tools": [tool]}

    report = run(experts, _file(tmp_path / "test.jsonl", [row]), RouterSettings(), HashingEncoder(), None)

    assert report.quality.accuracy == 1.0


def _file(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize("nobody", [None, "none", "(base)"])
def test_a_prompt_may_be_no_experts(nobody: object, tmp_path: Path) -> None:
    row = {"expert": nobody, "instruction": "good morning", "source": " letters ", "slice": None}

    (prompt,) = read_prompts(write(tmp_path / "test.jsonl", row))

    assert (prompt.expert, prompt.source, prompt.slice) == (None, "letters", "")


def test_a_sample_of_no_expert_is_refused_and_so_is_a_test_of_nothing_else(package: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "strangers.jsonl", {"expert": None, "instruction": "good morning"})

    with pytest.raises(TrainingDataError, match="a sample of no expert"):
        read_experts(file, 256)
    with pytest.raises(TrainingDataError, match="holds no prompt that has an expert"):
        run(read_experts(package, 256), file, RouterSettings(), HashingEncoder(), None)


def test_samples_keep_their_sources(tmp_path: Path) -> None:
    rows = [{"expert": "qa", "instruction": text, "source": source} for text, source in (("where", "a"), ("why", ""))]

    (expert,) = read_experts(write(tmp_path / "samples.jsonl", *rows), 256)

    assert expert.sources == ("a", "")


def test_every_rule_sees_every_prompt_and_progress_is_told_of_ours(package: Path, labelled: Path) -> None:
    told: list[tuple[int, int]] = []
    experts = read_experts(package, 256)

    report = run(
        experts, labelled, RouterSettings(threshold=0.999), HashingEncoder(), routed=lambda *at: told.append(at)
    )

    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(report.columns) == ["fused", "airoboros", "centroid", "majority", "regression", "density"]
    assert report.quality.answered < 1
    assert [column.quality.answered for column in list(report.columns.values())[1:]] == [1] * 5
    assert report.columns["centroid"].quality.accuracy == 0.75


def test_a_lone_expert_can_be_measured_too(labelled: Path, tmp_path: Path) -> None:
    samples = write(tmp_path / "samples.jsonl", said("code", "write a python loop"), said("code", "fix a python bug"))

    report = run(read_experts(samples, 256), labelled, RouterSettings(), HashingEncoder())

    assert report.columns["regression"].quality.accuracy == 0.5
