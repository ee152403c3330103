from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.domain.chat import GenerateRequest, RouteOptions
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.errors import StaleCalibration
from lmoe_ray.routing.linear_head import LinearHead
from lmoe_ray.routing.router import RoutedModel
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.routing.text_features import NUM_TEXT_FEATURES
from lmoe_ray.routing.threshold import CalibrationFile
from lmoe_ray.routing.turn_head import TurnHead
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder
from tests.routing.experts import ask, expert, poems, programs

CODE = expert("code", "write a loop in python", "fix this python function", "sort a list in rust", "a regex in python")
POETRY = expert("poetry", "a haiku about rain", "a sonnet about love", "a poem about the sea", "a haiku about spring")
MODEL = RoutedModel("demo", (CODE, POETRY), fallback="code")


Route = Callable[..., Awaitable[RoutingDecision]]


@pytest.fixture(scope="module")
def route(tmp_path_factory: pytest.TempPathFactory) -> Route:
    """Where a new router sends a request. What several tests fit alike is fitted once."""
    cache_dir = tmp_path_factory.mktemp("fitted")

    async def route(
        model: RoutedModel, request: GenerateRequest, encoder: HashingEncoder | None = None, **settings: object
    ) -> RoutingDecision:
        router = SimilarityRouter(
            model, encoder or HashingEncoder(), RouterSettings.model_validate(settings), cache_dir
        )
        return await router.route(request)

    return route


async def test_a_request_goes_where_its_likes_are(route: Route) -> None:
    decision = await route(MODEL, ask("please write a haiku about snow"))

    assert (decision.model, decision.expert, decision.routed_by) == ("demo", "poetry", "similarity")
    assert [c.expert for c in decision.candidates] == ["poetry", "code"]
    assert min(decision.confidence, decision.candidates[0].score) > 0.5
    assert sum(c.score for c in decision.candidates) == pytest.approx(1)


async def test_after_a_change_of_topic_the_new_question_counts(route: Route) -> None:
    turns = (
        "a poem about the sea",
        ("assistant", "O sea! A haiku about rain, a sonnet about love."),
        "fix this python loop",
    )

    decision = await route(MODEL, ask(("system", "A chat."), *turns))

    assert decision.expert == "code"


async def test_go_on_stays_where_the_conversation_was(route: Route) -> None:
    request = ask("a sonnet about rain and love", ("assistant", "python python python"), "go on")

    assert (await route(MODEL, request)).expert == "poetry"


class Counting(HashingEncoder):
    """Remembers whose words it was asked to look up, and in which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_up: list[str] = []
        self.threads: set[int] = set()

    def known_share(self, text: str) -> float:
        self.looked_up.append(text)
        self.threads.add(threading.get_ident())
        return super().known_share(text)


async def test_a_text_is_read_once_and_beside_the_event_loop(tmp_path: Path) -> None:
    router = SimilarityRouter(MODEL, encoder := Counting(), RouterSettings(), tmp_path)
    encoder.looked_up.clear()
    encoder.threads.clear()

    first, again = [await router.route(ask("a haiku about rain and snow")) for _ in range(2)]

    assert first == again
    assert encoder.looked_up == ["a haiku about rain and snow"]
    assert threading.get_ident() not in encoder.threads


@pytest.mark.parametrize(("stays", "says"), [(0.9, "goes on with"), (0.1, "turns from")])
async def test_how_likely_a_message_goes_on_decides_and_is_told(
    route: Route, monkeypatch: pytest.MonkeyPatch, stays: float, says: str
) -> None:
    num_inputs = NUM_TEXT_FEATURES + 256 + 7
    bias = np.array([0.0, np.log(stays / (1 - stays))], np.float32)
    head = TurnHead(LinearHead(np.zeros((num_inputs, 2), np.float32), bias))
    monkeypatch.setattr("lmoe_ray.routing.similarity.load_turn_head", {"hashing": head}.get)
    messages = (
        "a haiku about rain, a sonnet about love, a poem about the sea",
        ("assistant", "O!"),
        "a regex in python",
    )

    decision = await route(MODEL, ask(*messages))
    alone = await route(MODEL, ask(messages[-1]))
    whole = await route(MODEL, ask("\n".join((messages[-1], messages[0]))))

    def code(decision: RoutingDecision) -> float:
        return next(candidate.score for candidate in decision.candidates if candidate.expert == "code")

    assert code(decision) == pytest.approx((1 - stays) * code(alone) + stays * code(whole), abs=1e-5)
    assert decision.stays == pytest.approx(stays)
    assert f"the message {says} what was said before" in decision.reason
    assert alone.stays is None


async def test_neighbours_are_the_five_nearest_samples(route: Route) -> None:
    decision = await route(MODEL, ask("a haiku about rain"))

    assert len(decision.neighbours) == 5
    assert (decision.neighbours[0].expert, decision.neighbours[0].text) == ("poetry", "a haiku about rain")
    similarities = [n.similarity for n in decision.neighbours]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] == pytest.approx(1)
    assert "nearest sample is of poetry at cosine 1.00" in decision.reason


async def test_texts_of_samples_are_shown_only_if_allowed_and_never_at_length(route: Route) -> None:
    long = RoutedModel("demo", (expert("code", "python " * 100), POETRY))

    shown = await route(long, ask("write a python loop"), show_samples=True)
    hidden = await route(long, ask("write a python loop"), show_samples=False)

    assert shown.neighbours[0].text == ("python " * 100)[:200]
    assert {n.text for n in hidden.neighbours} == {""}
    assert [n.similarity for n in hidden.neighbours] == [n.similarity for n in shown.neighbours]


async def test_below_the_threshold_the_fallback_answers_and_the_evidence_stays(route: Route) -> None:
    decision = await route(MODEL, ask("colourless green ideas sleep furiously"), threshold=0.9, min_familiarity=0)

    assert (decision.expert, decision.routed_by, decision.threshold) == ("code", "abstained", 0.9)
    assert max(decision.confidence, decision.candidates[0].score) < 0.9
    assert len(decision.neighbours) == 5
    assert decision.reason.endswith("below the threshold of 0.90, so code answers")


async def test_without_a_threshold_and_whatever_is_familiar_nothing_is_refused(route: Route) -> None:
    decision = await route(MODEL, ask("colourless green ideas sleep furiously"), min_familiarity=0)

    assert decision.routed_by == "similarity"


async def test_a_request_may_bring_its_own_threshold(route: Route) -> None:
    doubtful = "a python poem in a loop about rain"

    strict = await route(MODEL, ask(doubtful, routing=RouteOptions(threshold=1.0)), threshold=0.1)
    lax = await route(MODEL, ask(doubtful, routing=RouteOptions(threshold=0.0)), threshold=1.0)

    assert (strict.routed_by, strict.threshold) == ("abstained", 1.0)
    assert (lax.routed_by, lax.threshold) == ("similarity", 0.0)


async def test_a_request_may_ask_for_its_last_message_alone(route: Route) -> None:
    turns = ("write a loop in python", ("assistant", "done"), "fix it and sort the rain about spring")

    sticky = await route(MODEL, ask(*turns))
    alone = await route(MODEL, ask(*turns, routing=RouteOptions(is_sticky=False)))
    fresh = await route(MODEL, ask(turns[-1]))

    assert alone == fresh
    assert sticky.candidates != fresh.candidates


async def test_what_is_unlike_all_samples_is_left_to_the_fallback_however_sure_the_router_is(route: Route) -> None:
    known = RoutedModel("demo", (expert("code", *programs()), expert("poetry", *poems())), fallback="poetry")

    usual, strange = [await route(known, ask(text)) for text in ("fix a parser in rust", "compile quickly in rust")]

    assert (usual.expert, usual.routed_by, usual.familiarity) == ("code", "similarity", 1.0)
    assert (strange.expert, strange.routed_by, strange.candidates[0].expert) == ("poetry", "abstained", "code")
    assert strange.familiarity < 0.5 < strange.confidence
    assert strange.reason.endswith("; this is unlike all samples, so poetry answers")


async def test_what_the_embedder_cannot_read_is_left_to_the_fallback_and_the_reason_says_so(route: Route) -> None:
    known = RoutedModel("demo", (expert("code", *programs()), expert("poetry", *poems())), fallback="poetry")
    request = ask("fix4 a9 parser in r9st")

    decision = await route(known, request)

    assert (decision.expert, decision.routed_by) == ("poetry", "abstained")
    assert decision.reason.endswith("; too few of the words are known, so poetry answers")
    assert (await route(known, request, min_familiarity=0)).expert == "code"


async def test_a_threshold_measured_on_another_index_stops_the_start(tmp_path: Path) -> None:
    CalibrationFile("c0ffee", precision=0.9, threshold=0.6, coverage=0.8, num_judged=50).write(tmp_path / "file")

    with pytest.raises(StaleCalibration, match="measured on the routing index c0ffee"):
        SimilarityRouter(MODEL, HashingEncoder(), RouterSettings(calibration=str(tmp_path / "file")), None)


async def test_a_wanted_precision_sets_the_threshold_that_decisions_show(route: Route) -> None:
    shared = poems()[::4]
    known = RoutedModel("demo", (expert("code", *programs(), *shared), expert("poetry", *poems())))

    sure, torn = [await route(known, ask(text), precision=0.95) for text in (programs()[3], shared[3])]

    assert sure.confidence >= sure.threshold == torn.threshold > torn.confidence
    assert (sure.routed_by, torn.routed_by) == ("similarity", "abstained")


async def test_a_lone_expert_must_be_like_the_request_too(route: Route) -> None:
    lone = RoutedModel("demo", (expert("poetry", *poems()),))

    like, unlike = [
        await route(lone, ask(text), threshold=0.6, min_familiarity=0)
        for text in ("haiku about early rain", "compile kernel modules quickly")
    ]

    assert (like.expert, like.confidence) == ("poetry", 1.0)
    assert (unlike.expert, unlike.routed_by) == (None, "abstained")
    assert unlike.confidence == unlike.familiarity < 0.6
    assert f"poetry is the only expert, familiarity {unlike.familiarity:.2f}" in unlike.reason


async def test_an_expert_without_samples_is_a_candidate_nobody_is_sent_to(route: Route) -> None:
    model = RoutedModel("demo", (CODE, expert("bare"), POETRY))

    decision = await route(model, ask("a haiku about rain"))

    assert decision.expert == "poetry"
    assert [(c.expert, c.score) for c in decision.candidates][-1] == ("bare", 0.0)


async def test_with_one_sampled_expert_among_others_familiarity_is_the_confidence(route: Route) -> None:
    model = RoutedModel("demo", (expert("bare"), expert("poetry", *poems())))

    decision = await route(model, ask("compile kernel modules quickly"), threshold=0.6, min_familiarity=0)

    assert decision.routed_by == "abstained"


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


async def test_a_request_without_text_falls_back(route: Route) -> None:
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


async def test_a_restart_is_as_sure_as_before_of_what_was_measured_on_held_out_samples(tmp_path: Path) -> None:
    known = RoutedModel("demo", (expert("code", *programs()), expert("poetry", *poems())))
    settings = RouterSettings(precision=0.9)
    request = ask("fix a haiku about late rain in rust")

    built = await SimilarityRouter(known, HashingEncoder(), settings, tmp_path).route(request)
    loaded = await SimilarityRouter(known, encoder := HashingEncoder(), settings, tmp_path).route(request)

    assert built == loaded
    assert len(encoder.embedded) == 1


async def test_no_more_than_max_samples_of_an_expert_are_embedded() -> None:
    encoder = HashingEncoder()

    SimilarityRouter(MODEL, encoder, RouterSettings(max_samples=2), None)

    assert len(encoder.embedded) == 4


def test_there_is_one_documented_default_for_k_and_samples() -> None:
    assert (RouterSettings().k, RouterSettings().max_samples) == (20, 1000)


async def test_k_of_the_settings_is_the_number_of_neighbours_looked_at(route: Route) -> None:
    one_hit = expert("code", "rain snow hail", "alpha", "beta", "gamma")
    all_near = expert("poetry", "rain one", "rain two", "rain three", "rain four")
    model = RoutedModel("demo", (one_hit, all_near))

    by_one = await route(model, ask("rain snow hail sleet"), scoring="airoboros", k=1)
    by_four = await route(model, ask("rain snow hail sleet"), scoring="airoboros", k=4)

    assert (by_one.expert, by_four.expert) == ("code", "poetry")


async def test_a_long_system_text_does_not_hide_the_message(route: Route) -> None:
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
