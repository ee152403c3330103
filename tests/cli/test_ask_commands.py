"""``lmoe route``: what it shows of a decision."""

from __future__ import annotations

import io
import json
from typing import Any, Self

import pytest
from rich.console import Console

from lmoe_ray.api.decision_reply import decode_decision
from lmoe_ray.cli import ask_commands
from lmoe_ray.cli.ask_commands import route
from lmoe_ray.cli.decision_view import print_decision
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision

DECISION = RoutingDecision(
    "demo",
    None,
    "abstained",
    0.5,
    candidates=(
        Candidate("code", 0.5, {"neighbours": 0.875, "words": 0.25}),
        Candidate("math", 0.375, {"neighbours": 0.125, "words": 0.75}),
    ),
    neighbours=(Neighbour("code", 0.625, "write a\n[bold]loop[/]\x1b[2J"),),
    threshold=0.75,
    familiarity=0.25,
    evidence={"neighbours": 0.75, "words": 0.25},
    reason="its confidence 0.50 is below 0.75, so the base model answers",
    duration_s=0.0125,
)


def shown(decision: RoutingDecision) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_decision(decision, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_decision_says_who_why_and_what_it_was_held_against() -> None:
    lines = shown(DECISION).splitlines()

    assert lines[0] == f"demo · abstained · {DECISION.reason}"
    assert lines[-1] == "confidence 0.50 (threshold 0.75) · margin 0.12 · familiarity 0.25 · 12.5 ms"


def test_each_kind_of_evidence_has_a_column_with_its_share_and_opinions() -> None:
    head, code, math = [
        line.replace("┃", " ").replace("│", " ") for line in shown(DECISION).splitlines() if "┃" in line or "│" in line
    ]

    assert head.split() == ["expert", "probability", "neighbours", "(75%)", "words", "(25%)"]
    assert [word for word in code.split() if "█" not in word] == ["code", "0.500", "0.875", "0.250"]
    assert [word for word in math.split() if "█" not in word] == ["math", "0.375", "0.125", "0.750"]


def test_samples_are_one_line_of_text_and_neither_markup_nor_control_characters() -> None:
    assert "0.625       code  write a [bold]loop[/][2J\n" in shown(DECISION)


def test_where_nothing_was_weighed_there_is_no_table() -> None:
    assert "probability" not in shown(RoutingDecision("demo", "code", "explicit", reason="the client named it"))


class OneDecision:
    """A client that knows the answer."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def route(self, text: str, *, model: str | None = None) -> RoutingDecision:
        return DECISION


def test_as_json_it_is_the_servers_reply(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(ask_commands, "Client", OneDecision)
    route("a loop", is_json=True)

    assert decode_decision(json.loads(capsys.readouterr().out)) == DECISION
