from __future__ import annotations

import logging

import pytest

from lmoe_ray.routing.sample_set import DESCRIPTION, MIN_SAMPLES, choose_samples
from tests.routing.experts import expert

MANY = tuple(f"sample number {i}" for i in range(50))


def test_experts_are_sorted_and_each_keeps_its_own_samples() -> None:
    samples = choose_samples([expert("math", "1 + 1"), expert("code", "a loop")], 10, seed=0)

    assert samples.experts == ("code", "math")
    assert samples.texts == (("a loop",), ("1 + 1",))
    assert samples.rows == ("a loop", "1 + 1")


def test_a_restart_chooses_the_same_samples_in_the_same_order() -> None:
    first, second = (choose_samples([expert("code", *MANY)], 5, seed=1) for _ in range(2))

    assert first == second
    assert len(first.rows) == 5


def test_the_order_of_lines_in_the_file_does_not_matter() -> None:
    assert choose_samples([expert("code", *MANY)], 5, seed=1) == choose_samples(
        [expert("code", *MANY[::-1])], 5, seed=1
    )


def test_another_seed_chooses_other_samples() -> None:
    assert set(choose_samples([expert("code", *MANY)], 5, 1).rows) != set(
        choose_samples([expert("code", *MANY)], 5, 2).rows
    )


def test_one_new_sample_displaces_at_most_one() -> None:
    before = set(choose_samples([expert("code", *MANY)], 5, seed=1).rows)
    after = set(choose_samples([expert("code", *MANY, "a new one")], 5, seed=1).rows)

    assert len(before - after) <= 1


def test_duplicates_inside_an_expert_count_once_but_two_experts_may_share_a_sample() -> None:
    samples = choose_samples([expert("code", "a loop", "A chat. a loop", " a loop\n"), expert("math", "a loop")], 10, 0)

    assert samples.texts == (("a loop",), ("a loop",))


def test_blank_samples_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        samples = choose_samples([expert("code", "", "  \n", "A chat. "), expert("math", "1 + 1", "")], 10, seed=0)

    assert samples.texts == ((), ("1 + 1",))
    assert "only a client that names it reaches it expert=code" in caplog.text
    assert "expert=math" not in caplog.text


def test_the_digest_tells_owners_apart() -> None:
    ours = choose_samples([expert("code", "a loop"), expert("math", "1 + 1")], 10, seed=0)
    swapped = choose_samples([expert("code", "1 + 1"), expert("math", "a loop")], 10, seed=0)

    assert ours.digest("model", 256) == ours.digest("model", 256)
    assert len({ours.digest("model", 256), ours.digest("model", 128), swapped.digest("model", 256)}) == 3


def test_a_new_expert_is_known_by_each_sentence_of_its_description() -> None:
    text = "Reads maps.  Finds the way: on foot!\nKnows v1.2 of them\n\nIs new"

    samples = choose_samples([expert("maps", "where is Oslo?", description=text)], 1000, seed=0)

    assert samples.rows == (
        "where is Oslo?",
        "Reads maps.",
        "Finds the way:",
        "on foot!",
        "Knows v1.2 of them",
        "Is new",
    )
    assert samples.row_sources == ("", *[DESCRIPTION] * 5)


def test_an_expert_may_have_nothing_but_a_description(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        samples = choose_samples([expert("maps", description="Reads maps."), expert("bare")], 10, seed=0)

    assert samples.texts == ((), ("Reads maps.",))
    assert "reaches it expert=bare" in caplog.text
    assert "expert=maps" not in caplog.text


def test_where_there_are_samples_enough_the_description_says_nothing() -> None:
    enough = tuple(f"sample {i}" for i in range(MIN_SAMPLES))

    few, many = (
        choose_samples([expert("code", *samples, description="Writes code.")], 1000, 0).rows
        for samples in (enough[1:], enough)
    )

    assert "Writes code." in few
    assert "Writes code." not in many


def test_a_limit_below_what_counts_as_enough_is_no_lack_of_samples() -> None:
    samples = choose_samples([expert("code", *MANY, description="Writes code.")], 5, seed=0)

    assert len(samples.rows) == 5
    assert "Writes code." not in samples.rows


def test_a_sample_keeps_its_source_through_choice_and_cleaning() -> None:
    texts = ("A chat. a loop", "a list", " a loop\n", "")
    samples = choose_samples([expert("code", *texts, sources=("forum", "book", "book", "void"))], 10, seed=0)

    assert dict(zip(samples.rows, samples.row_sources, strict=True)) == {"a loop": "book", "a list": "book"}


def test_the_digest_tells_sources_apart() -> None:
    ours, theirs = (
        choose_samples([expert("code", "a loop", sources=(source,))], 10, seed=0) for source in ("book", "forum")
    )

    assert ours.digest() != theirs.digest()
