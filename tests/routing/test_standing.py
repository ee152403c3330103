"""What the evidence says of a text is looked up once, and a message is weighed against its conversation."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from numpy.typing import NDArray

from lmoe_ray.routing import standing as module
from lmoe_ray.routing.calibration import lead_of
from lmoe_ray.routing.expert_index import build_index
from lmoe_ray.routing.fitted_index import FittedIndex, fit_index
from lmoe_ray.routing.reading import read
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.standing import Look, Standing, Verdict
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder
from tests.routing.experts import expert, poems, programs

CHORES = tuple(f"book a {room} for {day}" for room in ("hotel", "table", "flight") for day in ("monday", "may", "june"))
ALL = ("bare", "chores", "code", "poetry")


def fit(**samples: tuple[str, ...]) -> FittedIndex:
    chosen = choose_samples([expert(name, *texts) for name, texts in samples.items()], 1000, seed=0)
    return fit_index(build_index(chosen, HashingEncoder()), "c0ffee", HashingEncoder())


@pytest.fixture(scope="module")
def fitted() -> FittedIndex:
    return fit(code=programs(), poetry=poems(), chores=CHORES, bare=())


def standing_of(fitted: FittedIndex, **settings: object) -> Standing:
    return Standing(fitted, RouterSettings.model_validate(settings), HashingEncoder().space)


def look(standing: Standing, text: str) -> Look:
    encoder = HashingEncoder()
    return standing.look(read(text, encoder), encoder.embed([text])[0])


def test_a_text_that_came_lately_is_recalled(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)

    first, other = (look(standing, text) for text in ("fix a loop", "haiku about rain"))

    assert standing.recall("fix a loop") is first
    assert standing.recall("haiku about rain") is other
    assert standing.recall("fix a loop ") is None


def test_the_look_unused_for_longest_goes_first(fitted: FittedIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOOKS", 2)
    standing = standing_of(fitted)

    for text in ("one", "two"):
        look(standing, text)
    standing.recall("one")
    look(standing, "three")

    assert [text for text in ("one", "two", "three") if standing.recall(text)] == ["one", "three"]


def test_no_text_stays_in_memory_because_it_was_routed(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    secret = "fix a " + "very secret " * 1000

    look(standing, secret)

    assert not [found for found in gc.get_referrers(secret) if isinstance(found, dict) and secret in found]


def test_familiarity_looks_at_five_samples_whatever_the_scorer_looks_at() -> None:
    fitted = fit(code=programs(), poetry=poems())

    one, twenty = (look(standing_of(fitted, k=k, scoring="airoboros"), "fix a parser in rust") for k in (1, 20))

    assert one.familiarity == twenty.familiarity == 1.0
    assert one.log_probabilities.tolist() != twenty.log_probabilities.tolist()


def test_two_standings_share_no_looks(fitted: FittedIndex) -> None:
    one, other = standing_of(fitted), standing_of(fitted)

    look(one, "fix a loop")

    assert one.recall("fix a loop")
    assert other.recall("fix a loop") is None


@pytest.mark.parametrize("scoring", ["fused", "density"])
@pytest.mark.parametrize("stays", [0.0, 0.3, 1.0])
def test_a_message_counts_as_much_as_it_turns_and_the_conversation_as_much_as_it_stays(
    fitted: FittedIndex, scoring: str, stays: float
) -> None:
    standing = standing_of(fitted, scoring=scoring)
    message, whole = (look(standing, text) for text in ("fix a loop in rust", "ballad about late snow"))

    both = standing.verdict([message, whole], ALL, stays)

    def scores(verdict: Verdict) -> NDArray[np.float64]:
        return np.array([candidate.score for candidate in sorted(verdict.candidates, key=lambda c: c.expert)])

    alone, together = (scores(standing.verdict([seen], ALL)) for seen in (message, whole))
    assert scores(both) == pytest.approx((1 - stays) * alone + stays * together, abs=1e-6)
    assert both.stays == stays


def test_a_mixture_is_made_among_the_experts_that_may_answer(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    looks = [look(standing, text) for text in ("fix a loop in rust", "ballad about late snow")]

    verdict = standing.verdict(looks, ("chores", "poetry"), 0.5)

    assert sum(candidate.score for candidate in verdict.candidates) == pytest.approx(1)
    assert verdict.candidates[0].expert == "poetry"


def test_where_both_possibilities_name_others_nobody_is_sure(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    looks = [look(standing, text) for text in ("fix a loop in rust", "ballad about late snow")]

    surely, perhaps = (standing.verdict(looks, ALL, stays) for stays in (0.01, 0.5))

    assert surely.candidates[0].expert == "code"
    assert perhaps.confidence < surely.confidence


def test_a_single_text_neither_stays_nor_turns(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    only = look(standing, "fix a loop in rust")

    assert standing.verdict([only], ALL, 0.9) == standing.verdict([only], ALL)


def test_each_text_of_a_conversation_has_the_same_say_if_nobody_knows_whether_it_stays(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    looks = [look(standing, text) for text in ("fix a loop in rust", "ballad about late snow")]

    verdict = standing.verdict(looks, ALL)

    scores = {candidate.expert: candidate.score for candidate in verdict.candidates}
    mean = (looks[0].log_probabilities + looks[1].log_probabilities) / 2
    assert fitted.calibration is not None
    experts = list(fitted.index.experts)
    for one, other in (("code", "poetry"), ("poetry", "chores")):
        lead = mean[experts.index(one)] - mean[experts.index(other)]
        assert np.log(scores[one] / scores[other]) == pytest.approx(fitted.calibration.slope * lead, abs=1e-6)
    assert verdict.confidence == fitted.calibration.confidence(float(lead_of(mean)))


def test_the_order_of_texts_changes_no_score(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    looks = [look(standing, text) for text in ("fix a loop in rust", "ballad about late snow")]

    forwards, backwards = standing.verdict(looks, ALL), standing.verdict(looks[::-1], ALL)

    assert forwards.candidates == backwards.candidates


def test_a_conversation_is_as_familiar_as_its_most_familiar_text(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    usual, strange = look(standing, "fix a loop in rust"), look(standing, "zxq4 wvv9 qq7")

    assert (usual.is_readable, strange.is_readable) == (True, False)
    together = standing.verdict([strange, usual], ALL)
    assert (together.familiarity, together.is_readable) == (usual.familiarity, True)
    alone = standing.verdict([strange], ALL)
    assert (alone.familiarity, alone.is_readable) == (strange.familiarity, False)
    assert strange.familiarity < 0.5 <= usual.familiarity


def test_only_experts_that_are_asked_about_are_candidates(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)
    said = look(standing, "fix a loop in rust")

    verdict = standing.verdict([said], ("poetry", "chores"))

    assert {candidate.expert for candidate in verdict.candidates} == {"poetry", "chores"}
    assert sum(candidate.score for candidate in verdict.candidates) == pytest.approx(1)
    among = said.log_probabilities[[fitted.index.experts.index(name) for name in ("poetry", "chores")]]
    assert fitted.calibration is not None
    assert verdict.confidence == pytest.approx(fitted.calibration.confidence(float(np.abs(np.diff(among))[0])))
    for kind in ("neighbours", "words"):
        assert sum(candidate.opinions[kind] for candidate in verdict.candidates) == pytest.approx(1)


def test_every_kind_of_evidence_says_how_probable_an_expert_is(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)

    verdict = standing.verdict([look(standing, "fix a loop in rust")], ALL)

    assert verdict.evidence == pytest.approx({"neighbours": 3.8 / 4.4, "words": 0.6 / 4.4})
    for kind in verdict.evidence:
        assert sum(candidate.opinions[kind] for candidate in verdict.candidates) == pytest.approx(1)
        assert max(verdict.candidates, key=lambda c: c.opinions[kind]).expert == "code"
    assert verdict.candidates[-1].opinions == {"neighbours": 0.0, "words": 0.0}


@pytest.mark.parametrize("rule", ["density", "airoboros"])
def test_a_rule_that_was_not_calibrated_is_as_sure_as_its_score(fitted: FittedIndex, rule: str) -> None:
    standing = standing_of(fitted, scoring=rule)

    verdict = standing.verdict([look(standing, "fix a loop in rust")], ALL)

    assert verdict.confidence == verdict.candidates[0].score
    assert (verdict.evidence, verdict.candidates[0].opinions) == ({}, {})


def test_a_lone_expert_is_as_sure_as_the_request_is_familiar() -> None:
    standing = standing_of(fit(code=programs(), bare=()))

    usual, strange = (
        standing.verdict([look(standing, text)], ("bare", "code")) for text in (programs()[7], "zxq4 wvv9 qq7")
    )

    assert (usual.confidence, usual.familiarity) == (1.0, 1.0)
    assert strange.confidence == strange.familiarity < 0.5
    assert strange.candidates[0].score == 1.0


def test_an_expert_with_samples_is_known_and_one_without_is_not(fitted: FittedIndex) -> None:
    standing = standing_of(fitted)

    assert standing.knows_any(("bare", "code"))
    assert not standing.knows_any(("bare", "stranger"))
    assert not standing.knows_any(())


def test_neighbours_are_of_experts_that_are_asked_about(fitted: FittedIndex) -> None:
    text = "fix a loop in rust"
    standing = standing_of(fitted)

    neighbours = standing.neighbours(look(standing, text), ("poetry", "chores"))

    assert {neighbour.expert for neighbour in neighbours} <= {"poetry", "chores"}
    assert len(neighbours) == 5
