"""The sample doctor on small packages with one planted fault each."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.expert_index import build_index
from lmoe_ray.routing.head_inputs import head_inputs
from lmoe_ray.routing.sample_doctor import examine
from lmoe_ray.routing.sample_findings import Diagnosis, Sample
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.task_head import TaskHead, fit_task_head
from tests.fakes import HashingEncoder
from tests.routing.experts import expert

pytestmark = pytest.mark.slow


def words(text: str) -> list[str]:
    return text.split()


CODE = words("python function loop array compile debug list class string sort integer module")
POETRY = words("haiku verse rhyme moon autumn sonnet stanza river longing petal lyric dusk")
MATH = words("sum fraction equation angle triangle divide percent prime root square ratio slope")
MUSIC = words("tune chord tempo choir fugue drum flute opera hymn bass")


def sentences(vocabulary: list[str], count: int = 60, *, seed: int = 0) -> tuple[str, ...]:
    """Texts of six words each, no two of them equal or nearly so."""
    shuffle = random.Random(seed)
    return tuple(" ".join(shuffle.sample(vocabulary, 6)) + f" case{i} part{i}" for i in range(count))


def healthy() -> dict[str, tuple[str, ...]]:
    return {"code": sentences(CODE), "math": sentences(MATH, seed=1), "poetry": sentences(POETRY, seed=2)}


def diagnose(
    samples: dict[str, tuple[str, ...]], task_head: TaskHead | None = None, max_samples: int = 1000
) -> Diagnosis:
    return diagnose_experts([expert(name, *texts) for name, texts in samples.items()], task_head, max_samples)


def diagnose_experts(experts: list[Expert], task_head: TaskHead | None = None, max_samples: int = 1000) -> Diagnosis:
    encoder = HashingEncoder()
    index = build_index(choose_samples(experts, max_samples, seed=0), encoder)
    return examine(experts, index, task_head, encoder.max_tokens)


def kinds(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    return {(remark.kind, remark.expert) for remark in diagnosis.remarks}


def tasks_of(**prompts: tuple[str, ...]) -> TaskHead:
    """A task head that was fitted on these prompts of each task."""
    texts = [text for some in prompts.values() for text in some]
    names = [task for task, some in prompts.items() for _ in some]
    return fit_task_head(head_inputs(texts, HashingEncoder().embed(texts)), texts, names, "hashing")


def test_a_healthy_package_has_no_findings() -> None:
    diagnosis = diagnose(healthy())

    assert diagnosis.errors == ()
    assert diagnosis.agreement == 1.0
    empty = (field.name for field in dataclasses.fields(diagnosis) if getattr(diagnosis, field.name) == ())
    assert {"repeats", "near_duplicates", "doubts", "overlaps", "remarks"} <= set(empty)


def test_one_text_in_two_experts_is_an_error_whatever_its_case_and_spaces() -> None:
    samples = healthy()
    text = samples["code"][7]
    samples["math"] = (*samples["math"], "  " + text.upper().replace(" ", "  "))

    (repeat,) = diagnose(samples).errors

    assert (repeat.text, repeat.experts, repeat.num_times) == (text, ("code", "math"), 2)


def test_one_text_twice_in_an_expert_is_no_error_but_is_told() -> None:
    samples = healthy()
    samples["code"] = (*samples["code"], samples["code"][7])

    diagnosis = diagnose(samples)

    assert diagnosis.errors == ()
    assert [repeat.experts for repeat in diagnosis.repeats] == [("code",)]
    assert "code: 1 samples that the router does not use" in diagnosis.not_examined[0]


def test_samples_in_use_are_not_the_only_ones_compared() -> None:
    samples = healthy()
    samples["math"] = (*samples["math"], *samples["code"])

    assert len(diagnose(samples, max_samples=20).errors) == 60


def test_the_same_in_nearly_the_same_words_is_told_and_the_pair_across_experts_comes_first() -> None:
    samples = healthy()
    long = "sort the array in python with a loop and a function and debug the class"
    samples["code"] = (*samples["code"], f"{long} now", f"{long} then")
    samples["poetry"] = (*samples["poetry"], f"{long} later")

    pairs = [{pair.first.expert, pair.second.expert} for pair in diagnose(samples).near_duplicates]

    assert pairs == [{"code", "poetry"}, {"code", "poetry"}, {"code"}]


def test_a_sample_filed_under_the_wrong_expert_is_doubted_with_its_reasons() -> None:
    samples = healthy()
    planted = "moon river haiku petal dusk lyric stray"
    samples["code"] = (*samples["code"], planted)

    (doubt,) = diagnose(samples).doubts

    assert doubt.sample == Sample("code", planted)
    assert doubt.suggested == "poetry"
    assert doubt.confidence > 0.8 > 0.2 > doubt.own_confidence
    assert doubt.num_agreeing == doubt.num_neighbours == 10
    assert doubt.nearest in samples["poetry"]
    assert doubt.likeness > 0.5


def test_others_that_are_all_beyond_doubt_do_not_hide_the_one_that_is_not() -> None:
    samples = healthy()
    samples["code"] = (*samples["code"], "moon river haiku under a roof")

    assert [doubt.suggested for doubt in diagnose(samples).doubts] == ["poetry"]


def test_near_duplicates_do_not_vouch_for_one_anothers_label() -> None:
    samples = healthy()
    planted = tuple(f"moon river haiku petal dusk lyric verse rhyme autumn sonnet {i}" for i in range(12))
    samples["code"] = (*samples["code"], *planted)

    doubted = {doubt.sample.text for doubt in diagnose(samples).doubts}

    assert doubted == set(planted)


def test_experts_taken_for_each_other_overlap() -> None:
    samples = healthy()
    samples["verses"] = sentences(POETRY, seed=3)

    (overlap,) = diagnose(samples).overlaps

    assert (overlap.first, overlap.second) == ("poetry", "verses")
    assert overlap.first_as_second > 0.2
    assert overlap.second_as_first > 0.2
    assert {example.expert for example in overlap.examples} == {"poetry", "verses"}


def test_an_expert_with_few_samples_is_told_and_sentences_of_its_description_are_no_samples() -> None:
    samples = healthy()
    experts = [expert(name, *texts) for name, texts in samples.items()]
    experts.append(expert("music", *sentences(MUSIC, 9), description="A. B."))

    diagnosis = diagnose_experts(experts)

    assert kinds(diagnosis) == {("few samples", "music")}
    assert [(c.num_written, c.num_used) for c in diagnosis.counts if c.expert == "music"] == [(9, 9)]


def test_an_expert_without_samples_is_told() -> None:
    diagnosis = diagnose({**healthy(), "music": ()})

    assert kinds(diagnosis) == {("few samples", "music")}


def test_an_expert_with_a_sixth_of_anothers_samples_is_out_of_balance() -> None:
    samples = healthy()
    samples["code"] = sentences(CODE, 361)

    assert kinds(diagnose(samples)) == {("imbalance", "math"), ("imbalance", "poetry")}


def test_samples_of_one_kind_are_a_clump() -> None:
    samples = healthy()
    samples["lights"] = tuple(f"please switch the big light in room number {i} off" for i in range(60))

    assert ("one clump", "lights") in kinds(diagnose(samples))


def test_an_opening_that_many_samples_share_is_told() -> None:
    samples = healthy()
    samples["math"] = tuple(
        f"you are a calculator {text}" if i < 20 else text for i, text in enumerate(samples["math"])
    )

    (remark,) = diagnose(samples).remarks

    assert (remark.kind, remark.expert, remark.sample) == ("shared opening", "math", "you are a calculator")
    assert remark.sentence.startswith("20 of 60")


def test_samples_that_are_too_long_or_say_nothing_are_told() -> None:
    samples = healthy()
    samples["code"] = (*samples["code"], "?!", "array " * 257)

    assert kinds(diagnose(samples)) == {("empty", "code"), ("too long", "code")}


def test_a_task_that_nobody_shows_and_one_that_two_claim_weakly_are_holes() -> None:
    head = tasks_of(
        coding=sentences(CODE, seed=4),
        verse=sentences(POETRY, seed=5),
        sums=sentences(MATH, seed=6),
        cooking=sentences(words("flour oven butter whisk simmer dough salt knead broth pan"), seed=7),
        music=sentences(MUSIC, seed=8),
    )
    samples = healthy()
    samples["math"] = (
        *samples["math"],
        *sentences(MUSIC, 3, seed=9),
    )
    samples["code"] = (
        *samples["code"],
        *sentences(MUSIC, 3, seed=10),
    )

    diagnosis = diagnose(samples, head)

    assert diagnosis.unshown_tasks == ("cooking",)
    (contested,) = diagnosis.contested_tasks
    assert contested.task == "music"
    assert {claim.expert for claim in contested.claims[:2]} == {"code", "math"}
    (suggestion,) = diagnosis.suggestions
    assert suggestion.task == "music"
    assert suggestion.owner.share >= suggestion.rival.share > 0.3
    assert suggestion.owner.num_samples == pytest.approx(3, abs=1)


def test_without_a_task_head_the_tasks_are_said_to_be_left_out() -> None:
    assert any(sentence.startswith("tasks:") for sentence in diagnose(healthy()).not_examined)


def test_samples_that_shaped_the_encoder_are_said_to_be_no_strangers_to_it() -> None:
    head = tasks_of(coding=healthy()["code"], verse=sentences(POETRY, seed=5))

    assert any(sentence.startswith("60 samples as a stranger") for sentence in diagnose(healthy(), head).not_examined)
    assert not any("stranger" in sentence for sentence in diagnose(healthy()).not_examined)


def test_a_lone_expert_is_examined_as_far_as_it_can_be() -> None:
    diagnosis = diagnose({"code": sentences(CODE)})

    assert diagnosis.agreement is None
    assert any(sentence.startswith("labels and overlaps:") for sentence in diagnosis.not_examined)


def test_two_samples_are_enough_not_to_fail() -> None:
    diagnosis = diagnose({"code": ("sort a list",), "math": ()})

    assert [count.num_used for count in diagnosis.counts] == [1, 0]


def test_the_diagnosis_is_json_with_whole_texts() -> None:
    samples = healthy()
    samples["math"] = (*samples["math"], samples["code"][0])

    found = json.loads(json.dumps(diagnose(samples, tasks_of(a=("x",), b=("y",))).as_dict()))

    assert found["num_errors"] == 1
    assert found["repeats"][0]["text"] == samples["code"][0]


def test_every_stage_is_reported_to_its_end() -> None:
    experts = [expert(name, *texts) for name, texts in healthy().items()]
    index = build_index(choose_samples(experts, 1000, seed=0), HashingEncoder())
    told: dict[str, tuple[int, int]] = {}

    examine(experts, index, None, 256, lambda what, done, total: told.update({what: (done, total)}))

    assert told == {"reading samples": (180, 180), "comparing samples": (180, 180), "cross-validating": (5, 5)}
