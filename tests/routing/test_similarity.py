from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.routing.router import RoutedModel
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder
from tests.routing.experts import ask, expert

CODE = expert("code", "write a loop in python", "fix this python function", "sort a list in rust", "a regex in python")
POETRY = expert("poetry", "a haiku about rain", "a sonnet about love", "a poem about the sea", "a haiku about spring")
MODEL = RoutedModel("demo", (CODE, POETRY), fallback="code")


async def route(
    model: RoutedModel, request: GenerateRequest, encoder: HashingEncoder | None = None, **settings: object
) -> RoutingDecision:
    router = SimilarityRouter(model, encoder or HashingEncoder(), RouterSettings.model_validate(settings), None)
    return await router.route(request)


async def test_a_request_goes_where_its_likes_are() -> None:
    decision = await route(MODEL, ask("please write a haiku about snow"))

    assert (decision.model, decision.expert, decision.routed_by) == ("demo", "poetry", "similarity")
    assert [c.expert for c in decision.candidates] == ["poetry", "code"]
    assert decision.confidence == decision.candidates[0].score > 0.5
    assert sum(c.score for c in decision.candidates) == pytest.approx(1)


async def test_after_a_change_of_topic_the_new_question_counts() -> None:
    turns = (
        "a poem about the sea",
        ("assistant", "O sea! A haiku about rain, a sonnet about love."),
        "fix this python loop",
    )

    decision = await route(MODEL, ask(("system", "A chat."), *turns))

    assert decision.expert == "code"


async def test_go_on_stays_where_the_conversation_was() -> None:
    request = ask("a sonnet about rain and love", ("assistant", "python python python"), "go on")

    assert (await route(MODEL, request)).expert == "poetry"


async def test_neighbours_are_the_five_nearest_samples() -> None:
    decision = await route(MODEL, ask("a haiku about rain"))

    assert len(decision.neighbours) == 5
    assert (decision.neighbours[0].expert, decision.neighbours[0].text) == ("poetry", "a haiku about rain")
    similarities = [n.similarity for n in decision.neighbours]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] == pytest.approx(1)
    assert "nearest sample is of poetry at cosine 1.00" in decision.reason


async def test_texts_of_samples_are_shown_only_if_allowed_and_never_at_length() -> None:
    long = RoutedModel("demo", (expert("code", "python " * 100), POETRY))

    shown = await route(long, ask("write a python loop"), show_samples=True)
    hidden = await route(long, ask("write a python loop"), show_samples=False)

    assert shown.neighbours[0].text == ("python " * 100)[:200]
    assert {n.text for n in hidden.neighbours} == {""}
    assert [n.similarity for n in hidden.neighbours] == [n.similarity for n in shown.neighbours]


async def test_below_the_threshold_the_fallback_answers_and_the_evidence_stays() -> None:
    decision = await route(MODEL, ask("colourless green ideas sleep furiously"), threshold=0.9)

    assert (decision.expert, decision.routed_by, decision.threshold) == ("code", "abstained", 0.9)
    assert decision.confidence == decision.candidates[0].score < 0.9
    assert len(decision.neighbours) == 5
    assert decision.reason.endswith("below the threshold of 0.90, so code answers")


async def test_without_a_threshold_nothing_is_refused() -> None:
    assert (await route(MODEL, ask("colourless green ideas sleep furiously"))).routed_by == "similarity"


async def test_a_lone_expert_must_be_like_the_request_too() -> None:
    lone = RoutedModel("demo", (POETRY,))

    like = await route(lone, ask("a haiku about the sea"), threshold=0.5)
    unlike = await route(lone, ask("compile kernel modules quickly"), threshold=0.5)

    assert (like.expert, like.confidence) == ("poetry", 1.0)
    assert (unlike.expert, unlike.routed_by, unlike.confidence) == (None, "abstained", 0.0)
    assert "poetry is the only expert, familiarity 0.00" in unlike.reason


async def test_an_expert_without_samples_is_a_candidate_nobody_is_sent_to() -> None:
    model = RoutedModel("demo", (CODE, expert("bare"), POETRY))

    decision = await route(model, ask("a haiku about rain"))

    assert decision.expert == "poetry"
    assert [(c.expert, c.score) for c in decision.candidates][-1] == ("bare", 0.0)


async def test_with_one_sampled_expert_among_others_familiarity_is_the_confidence() -> None:
    model = RoutedModel("demo", (expert("bare"), POETRY))

    assert (await route(model, ask("compile kernel modules quickly"), threshold=0.5)).routed_by == "abstained"


async def test_a_package_without_samples_falls_back_and_says_so_once_at_start(caplog: pytest.LogCaptureFixture) -> None:
    model = RoutedModel("demo", (expert("code"), expert("poetry", "  ")), fallback="poetry")
    encoder = HashingEncoder()
    with caplog.at_level(logging.WARNING):
        router = SimilarityRouter(model, encoder, RouterSettings(), None)
        at_start = caplog.text.count("every request goes to the fallback model=demo")
        decisions = [await router.route(ask("a haiku about rain")) for _ in range(3)]

    assert at_start == caplog.text.count("every request goes to the fallback") == 1
    assert {(d.expert, d.routed_by) for d in decisions} == {("poetry", "abstained")}
    assert decisions[0].reason == "no expert has routing samples, so poetry answers"
    assert encoder.embedded == []


async def test_a_request_without_text_falls_back() -> None:
    decision = await route(MODEL, ask(("system", "A chat.")))

    assert decision.reason == "the request has no text to route by, so code answers"


async def test_a_restart_routes_exactly_as_before(tmp_path: Path) -> None:
    many = tuple(f"{verb} a {noun}" for verb in ("sort", "print", "join", "cut") for noun in ("list", "file", "string"))
    shuffled = RoutedModel("demo", (POETRY, expert("code", *many[::-1])))
    ordered = RoutedModel("demo", (expert("code", *many), POETRY))
    settings = RouterSettings(max_samples=5)

    decisions = [
        await SimilarityRouter(model, HashingEncoder(), settings, tmp_path).route(ask("sort a haiku about a list"))
        for model in (ordered, ordered, shuffled)
    ]

    assert decisions[0] == decisions[1] == decisions[2]


async def test_no_more_than_max_samples_of_an_expert_are_embedded() -> None:
    encoder = HashingEncoder()

    SimilarityRouter(MODEL, encoder, RouterSettings(max_samples=2), None)

    assert len(encoder.embedded) == 4


def test_there_is_one_documented_default_for_k_and_samples() -> None:
    assert (RouterSettings().k, RouterSettings().max_samples) == (20, 1000)


async def test_k_of_the_settings_is_the_number_of_neighbours_looked_at() -> None:
    one_hit = expert("code", "rain snow hail", "alpha", "beta", "gamma")
    all_near = expert("poetry", "rain one", "rain two", "rain three", "rain four")
    model = RoutedModel("demo", (one_hit, all_near))

    by_one = await route(model, ask("rain snow hail sleet"), scoring="airoboros", k=1)
    by_four = await route(model, ask("rain snow hail sleet"), scoring="airoboros", k=4)

    assert (by_one.expert, by_four.expert) == ("code", "poetry")


async def test_a_long_system_text_does_not_hide_the_message() -> None:
    request = ask(("system", "unrelated " * 500), "a haiku about rain and spring")

    decision = await route(MODEL, request, HashingEncoder(max_tokens=32))

    assert decision.expert == "poetry"


async def test_two_models_share_an_embedder_and_nothing_else() -> None:
    encoder = HashingEncoder()
    ours = SimilarityRouter(MODEL, encoder, RouterSettings(), None)
    theirs = SimilarityRouter(
        RoutedModel("other", (expert("poems", "a haiku about rain"),)), encoder, RouterSettings(), None
    )

    request = ask("a haiku about rain")

    assert (await ours.route(request)).expert == "poetry"
    assert (await theirs.route(request)).expert == "poems"
