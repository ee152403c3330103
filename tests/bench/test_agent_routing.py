"""The agent router beside the index, with a scripted model and an index that always answers the same."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from lmoe_ray.bench.agent_report import AgentReport, print_agent_report
from lmoe_ray.bench.agent_routing import choose_prompts, run
from lmoe_ray.bench.labelled_prompts import LabelledPrompt
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.decision import Candidate, RoutingDecision
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.routing.router import RoutedModel, abstain
from lmoe_ray.settings import RouterSettings
from tests.routing.experts import expert

MODEL = RoutedModel("bench", (expert("code", description="Writes programs."), expert("poetry")))
THRESHOLD = RouterSettings(threshold=0.5)
PROMPTS = (
    LabelledPrompt("code", (Message("user", "a loop in python"),)),
    LabelledPrompt("code", (Message("user", "a doubtful loop in python"),)),
    LabelledPrompt("poetry", (Message("user", "a doubtful haiku about rain"),)),
    LabelledPrompt("poetry", (Message("user", "a sonnet about love"),)),
)


class Scripted:
    """A model that takes everything about python for code, and 50 tokens and some milliseconds for each question."""

    def __init__(self, latency_s: float = 0.02) -> None:
        self.name = "a model of four words"
        self.num_prompt_tokens: list[int] = []
        self.questions: list[str] = []
        self._latency_s = latency_s

    async def __call__(self, messages: tuple[Message, ...], names: tuple[str, ...]) -> tuple[str, float]:
        await asyncio.sleep(self._latency_s)
        self.questions.append(messages[0].content)
        self.num_prompt_tokens.append(50 if self.questions[1:] else 500)
        return ("code" if "python" in messages[0].content else "poetry"), 0.75


class Index:
    """Takes everything for code, and is not sure where a request says that it is doubtful."""

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        is_sure = "doubtful" not in request.messages[-1].content
        candidates = (Candidate("code", 0.75 if is_sure else 0.25), Candidate("poetry", 0.25))
        decision = RoutingDecision("bench", "code", "similarity", candidates[0].score, candidates, threshold=0.5)
        return decision if is_sure else abstain(MODEL, decision, "not sure")

    async def update(self, model: RoutedModel) -> None:
        raise NotImplementedError


def measure(ask: Scripted, settings: RouterSettings = THRESHOLD) -> AgentReport:
    return run(PROMPTS, MODEL, ask, Index(), settings)


def test_the_three_kinds_are_judged_on_the_same_prompts() -> None:
    row = measure(Scripted()).as_dict()

    assert [row[kind]["n"] for kind in ("similarity", "agent", "hybrid")] == [4, 4, 4]
    # The index: right about one loop, wrong about the sonnet, and two abstentions.
    assert (row["similarity"]["accuracy"], row["similarity"]["answered"]) == (0.25, 0.5)
    assert (row["agent"]["accuracy"], row["agent"]["answered"], row["agent"]["ece"]) == (1.0, 1.0, 0.25)
    # The hybrid keeps the index's mistake about the sonnet: it was sure.
    assert (row["hybrid"]["accuracy"], row["hybrid"]["answered"]) == (0.75, 1.0)
    json.dumps(row)


def test_the_hybrid_asks_about_the_doubtful_prompts_and_pays_for_them() -> None:
    row = measure(Scripted(latency_s=0.05)).as_dict()

    assert [row[kind]["asked_share"] for kind in ("similarity", "agent", "hybrid")] == [0.0, 1.0, 0.5]
    assert row["similarity"]["p95_ms"] < 50 <= row["agent"]["p50_ms"]
    assert row["hybrid"]["p50_ms"] < row["agent"]["p50_ms"]
    assert row["hybrid"]["p95_ms"] >= 50


def test_every_prompt_is_asked_about_once_after_a_question_that_does_not_count() -> None:
    ask, seen = Scripted(), list[tuple[int, int]]()

    report = run(PROMPTS, MODEL, ask, Index(), THRESHOLD, lambda done, total: seen.append((done, total)))

    assert "warm up" in ask.questions[0]
    assert [prompt.messages[0].content in text for prompt, text in zip(PROMPTS, ask.questions[1:], strict=True)] == [
        True
    ] * 4
    assert report.prompt_tokens == 50
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_without_a_threshold_there_is_no_hybrid_and_the_table_says_why() -> None:
    report = measure(Scripted(), RouterSettings())
    out = io.StringIO()

    print_agent_report(report, Console(file=out, width=100))

    assert report.hybrid is None
    assert report.as_dict()["hybrid"] is None
    assert "asked: a model of four words" in out.getvalue()
    assert "give --precision or --threshold" in out.getvalue()


def test_the_table_has_a_row_for_each_kind() -> None:
    out = io.StringIO()

    print_agent_report(measure(Scripted()), Console(file=out, width=100))

    rows = [line.split() for line in out.getvalue().splitlines()]
    assert [row[1] for row in rows if row and row[0] in ("similarity", "agent", "hybrid")] == [
        "0.250",
        "1.000",
        "0.750",
    ]
    assert "hybrid, which asks" not in out.getvalue()


def test_a_prompt_that_declares_tools_is_not_asked_about() -> None:
    model = RoutedModel("bench", (expert("code"), expert("function")))
    tools = LabelledPrompt("function", PROMPTS[0].messages, num_tools=2)
    ask = Scripted()

    report = run((PROMPTS[0], tools), model, ask, Index(), THRESHOLD)

    assert (report.agent.quality.accuracy, report.agent.asked_share) == (1.0, 0.5)
    assert len(ask.questions) == 2


def test_nothing_asked_has_no_tokens() -> None:
    model = RoutedModel("bench", (expert("function"),))

    report = run((LabelledPrompt("function", PROMPTS[0].messages, num_tools=2),), model, Scripted(), Index(), THRESHOLD)

    assert report.prompt_tokens is None


def labelled(file: Path, **counts: int) -> Path:
    rows = [{"expert": name, "instruction": f"{name} {i}"} for name, count in counts.items() for i in range(count)]
    file.write_text("\n".join(map(json.dumps, [*rows, {"expert": None, "instruction": "good morning"}])))
    return file


def test_the_choice_holds_the_same_share_of_every_expert_and_no_stranger(tmp_path: Path) -> None:
    test = labelled(tmp_path / "test.jsonl", code=40, poetry=20, qa=20)

    chosen = choose_prompts(test, 8, seed=1)

    assert Counter(prompt.expert for prompt in chosen) == {"code": 4, "poetry": 2, "qa": 2}


def test_a_smaller_choice_begins_a_larger_one_and_another_seed_makes_another(tmp_path: Path) -> None:
    test = labelled(tmp_path / "test.jsonl", code=40, poetry=20)

    assert choose_prompts(test, 20, seed=1)[:5] == choose_prompts(test, 5, seed=1)
    assert choose_prompts(test, 20, seed=2) != choose_prompts(test, 20, seed=1)


def test_a_choice_of_more_than_there_are_is_all_that_have_an_expert(tmp_path: Path) -> None:
    assert len(choose_prompts(labelled(tmp_path / "test.jsonl", code=3, poetry=2), 100, seed=1)) == 5


def test_a_test_of_strangers_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="accuracy needs at least one"):
        choose_prompts(labelled(tmp_path / "test.jsonl"), 5, seed=1)
