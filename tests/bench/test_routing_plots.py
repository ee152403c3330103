from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lmoe_ray.bench.routing_plots import draw, draw_confusion, reliability, risk_coverage
from lmoe_ray.bench.routing_quality import NUM_BINS, outcomes_of
from lmoe_ray.bench.routing_report import RoutingReport
from tests.bench.test_routing_columns import abstained, chosen, prompt, report

pytestmark = pytest.mark.slow


@pytest.fixture
def measured() -> RoutingReport:
    prompts = [prompt("code"), prompt("code"), prompt("poetry"), prompt("poetry")]
    ours = [chosen("code"), chosen("poetry", 0.6), chosen("poetry", 0.8), abstained("code")]
    return report(prompts, ours, [chosen("code")] * 4)


def test_three_pictures_are_written_and_are_the_same_every_time(measured: RoutingReport, tmp_path: Path) -> None:
    first, second = draw(measured, tmp_path / "first"), draw(measured, tmp_path / "deep" / "second")

    assert [file.name for file in first] == ["confusion.svg", "reliability.svg", "risk_coverage.svg"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_pictures_have_no_background_and_take_the_readers_ink(measured: RoutingReport, tmp_path: Path) -> None:
    for file in draw(measured, tmp_path):
        text = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)

        style = root.find("{http://www.w3.org/2000/svg}style")
        assert style is not None
        assert "prefers-color-scheme: dark" in (style.text or "")
        assert text.count("#24292f") == 1
        assert "#ffffff" not in text
        assert "<image" not in text
        for words in root.iter("{http://www.w3.org/2000/svg}text"):
            assert "currentColor" in words.get("style", ""), words.text


def test_cells_of_the_confusion_are_as_opaque_as_their_share_of_the_row(measured: RoutingReport) -> None:
    axes = draw_confusion(measured).axes[0]

    assert [label.get_text() for label in axes.get_xticklabels()] == ["(base)", "code", "poetry"]
    # Rows code and poetry: 0, 1, 1 and 1, 0, 1 of two prompts each; a full row is 0.6.
    assert [patch.get_alpha() for patch in axes.patches] == [0, 0.3, 0.3, 0.3, 0, 0.3]
    assert [text.get_text() for text in axes.texts] == ["1"] * 4


def test_a_bin_holds_how_many_prompts_how_sure_and_how_often_right() -> None:
    outcomes = outcomes_of(["a"] * 4, [chosen("a", 0.92), chosen("b", 0.88), chosen("a", 0.99), chosen("a", 1.0)])

    counts, confidence, share_right = reliability(outcomes)

    assert (len(counts), counts.sum(), counts[-1], counts[-3]) == (NUM_BINS, 4, 2, 0)
    assert (confidence[-1], share_right[-1]) == (pytest.approx(0.995), 1)
    assert (confidence[-2], share_right[-2]) == (pytest.approx(0.9), 0.5)


def test_risk_rises_with_coverage_and_ties_are_answered_together() -> None:
    outcomes = outcomes_of(["a"] * 4, [chosen("b", 0.5), chosen("a", 0.9), chosen("b", 0.7), chosen("a", 0.7)])

    coverage, risk = risk_coverage(outcomes)

    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 3, 0.5])


def test_without_matplotlib_the_way_out_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None; from lmoe_ray.cli.main import main; "
        "sys.argv = ['lmoe', 'bench', 'routing', '--test', 'missing.jsonl', '--plot', sys.argv[1]]; main()"
    )

    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "plots")], capture_output=True, text=True)

    assert ended.returncode == 1
    assert "pip install 'lmoe_ray[plot]'" in ended.stderr
    assert "Traceback" not in ended.stderr
