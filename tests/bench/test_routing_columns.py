from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pytest
from rich.console import Console

from lmoe_ray.bench.labelled_prompts import LabelledPrompt
from lmoe_ray.bench.routing_columns import OURS, Measured, report_of
from lmoe_ray.bench.routing_report import PREDECESSOR, RoutingReport
from lmoe_ray.bench.routing_tables import print_report
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.decision import Candidate, RoutingDecision


def prompt(expert: str | None, source: str = "", slice: str = "") -> LabelledPrompt:
    return LabelledPrompt(expert, (Message("user", "hello"),), source=source, slice=slice)


def chosen(expert: str, confidence: float = 0.9, threshold: float = 0.0) -> RoutingDecision:
    candidates = (Candidate(expert, confidence),)
    return RoutingDecision("bench", expert, "similarity", confidence, candidates, threshold=threshold)


def abstained(best: str, fallback: str | None = None) -> RoutingDecision:
    return RoutingDecision("bench", fallback, "abstained", 0.2, (Candidate(best, 0.2),), threshold=0.5)


def report(
    prompts: Sequence[LabelledPrompt],
    ours: Sequence[RoutingDecision],
    predecessor: Sequence[RoutingDecision] | None = None,
    scoring: str = "fused",
) -> RoutingReport:
    decisions = {OURS: ours, PREDECESSOR: predecessor or ours, "centroid": ours}
    return report_of(Measured(prompts, decisions, [0.0] * len(prompts), scoring, 10, "general"))


def test_abstentions_are_counted_at_the_threshold_in_use() -> None:
    row = report(
        [prompt("a")] * 5, [chosen("a"), chosen("a"), chosen("b"), abstained("a"), abstained("a", "a")]
    ).as_dict()

    assert (row["answered"], row["precision_answered"], row["threshold"]) == (0.6, pytest.approx(2 / 3), 0.5)
    # The last one went to its label, if only because that is the fallback.
    assert row["accuracy"] == 0.6


def test_the_threshold_is_the_one_that_the_decisions_name() -> None:
    by_tools = RoutingDecision("bench", "function", "tools")

    row = report([prompt("a")] * 2, [by_tools, chosen("a", threshold=0.25)], [chosen("a")] * 2).as_dict()

    assert (row["threshold"], row["baseline_threshold"]) == (0.25, 0.0)


def test_precision_is_unknown_if_nothing_is_answered() -> None:
    row = report([prompt("a")], [abstained("a")]).as_dict()

    assert (row["answered"], row["precision_answered"]) == (0.0, None)


def test_out_of_domain_prompts_are_caught_by_abstaining_or_by_the_fallback_expert_and_count_nowhere_else() -> None:
    strangers = [prompt(None)] * 4
    answers = [abstained("a"), chosen("general"), chosen("a"), chosen("b")]

    row = report([prompt("a"), *strangers], [chosen("a"), *answers], [chosen("a")] * 5).as_dict()

    assert (row["n"], row["num_out_of_domain"]) == (1, 4)
    assert (row["out_of_domain_caught"], row["baseline_out_of_domain_caught"]) == (0.5, 0.0)
    assert (row["accuracy"], row["answered"], row["confusion"]) == (1.0, 1.0, {"a": {"a": 1}})


def test_without_out_of_domain_prompts_nothing_is_said_of_them() -> None:
    row = report([prompt("a")], [chosen("a")]).as_dict()

    assert (row["num_out_of_domain"], row["out_of_domain_caught"]) == (0, None)


def test_two_equal_columns_differ_by_exactly_nothing() -> None:
    row = report([prompt("a")] * 4, [chosen("a"), chosen("b", 0.7), chosen("a", 0.3), chosen("b")]).as_dict()

    for name in ("accuracy", "macro_f1", "ece", "coverage_at_95"):
        bounds = [row[f"{name}_difference{end}"] for end in ("", "_low", "_high")]
        assert bounds == [0, 0, 0], name
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]


def test_the_difference_is_paired() -> None:
    """Ours is right on one prompt in ten more, in whatever prompts are drawn: never worse than the predecessor."""
    ours = [chosen("a")] * 60 + [chosen("b")] * 40
    predecessor = [chosen("a")] * 50 + [chosen("b")] * 50

    row = report([prompt("a")] * 100, ours, predecessor).as_dict()

    assert row["accuracy_difference"] == pytest.approx(0.1)
    # Unpaired, the interval would be twice as wide: 2 · 1.96 · √(0.5 / 100).
    assert 0.03 <= row["accuracy_difference_low"] < row["accuracy_difference_high"] <= 0.17


def test_sources_are_resampled_where_there_are_several_and_the_report_says_so() -> None:
    answers = [chosen("a")] * 2 + [chosen("b")] * 2

    by_source = report([prompt("a", "x"), prompt("a", "x"), prompt("a", "y"), prompt("a", "y")], answers).as_dict()
    by_prompt = report([prompt("a")] * 4, answers).as_dict()
    one_source = report([prompt("a", "x")] * 4, answers).as_dict()

    assert (by_source["resampled"], by_source["accuracy_low"], by_source["accuracy_high"]) == ("sources", 0.0, 1.0)
    assert (by_prompt["resampled"], one_source["resampled"]) == ("prompts", "prompts")
    assert one_source["accuracy_low"] == by_prompt["accuracy_low"] < one_source["accuracy_high"]


def test_parts_of_the_test_are_told_apart_the_largest_first() -> None:
    prompts = [prompt("a", "y", "hard"), prompt("a", "x", "easy"), prompt("b", "x", "easy"), prompt("b", "", "hard")]
    ours = [chosen("a"), chosen("a"), chosen("a"), chosen("a")]

    row = report(prompts, ours, [chosen("b")] * 4).as_dict()

    assert list(row["by_source"]) == ["x", "(not said)", "y"]
    assert row["by_source"]["x"] == {"n": 2, "accuracy": 0.5, "baseline_accuracy": 0.5}
    assert row["by_source"]["y"] == {"n": 1, "accuracy": 1.0, "baseline_accuracy": 0.0}
    assert {name: part["n"] for name, part in row["by_slice"].items()} == {"easy": 2, "hard": 2}


def test_a_test_without_parts_has_no_breakdown() -> None:
    row = report([prompt("a")], [chosen("a")]).as_dict()

    assert (row["by_slice"], row["by_source"]) == ({}, {})


def test_the_report_is_json_with_an_interval_beside_every_figure_of_every_column() -> None:
    row = json.loads(json.dumps(report([prompt("a"), prompt("b")], [chosen("a")] * 2).as_dict(), allow_nan=False))

    for name in ("accuracy", "macro_f1", "ece", "coverage_at_95"):
        keys = {name, f"{name}_low", f"{name}_high"}
        assert keys <= row.keys()
        assert keys <= row["baselines"]["centroid"].keys()
        assert {f"baseline_{key}" for key in keys} <= row.keys()


def test_the_tables_fit_a_terminal_and_say_how_they_are_meant() -> None:
    console = Console(file=io.StringIO(), width=80)
    prompts = [prompt("a", "x", "easy"), prompt("a", "y", "easy"), prompt(None)]

    print_report(report(prompts, [chosen("a"), abstained("a"), chosen("general")]), console)

    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("1000 resamples of sources", "0.500", "difference", "+0.000", "centroid", "accuracy by slice"):
        assert words in text
    assert "share of 1 prompts out of every domain" in text
    assert "airoboros" in text


def test_the_predecessors_rule_as_our_own_has_two_columns_still() -> None:
    columns = report([prompt("a")], [chosen("a")], scoring="airoboros").columns

    assert len(columns) == 3
