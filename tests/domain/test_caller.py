"""What exists for a caller."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.caller import ANYONE, Caller
from lmoe_ray.domain.served import ServedExpert, ServedModel

LEFT = ServedModel("left", (ServedExpert("code", "1"), ServedExpert("math", "2")), fallback="code")
RIGHT = ServedModel("right", (ServedExpert("code", "3"),))


@pytest.mark.parametrize(
    ("experts", "of_left", "of_right"),
    [
        (None, None, None),
        ((), (), ()),
        (("code",), ("code",), ("code",)),
        (("left:code",), ("code",), ()),
        (("math", "code"), ("code", "math"), ("code",)),
        (("law", "left", "code:left", "*"), (), ()),
    ],
)
def test_an_expert_is_allowed_everywhere_or_of_one_base(
    experts: tuple[str, ...] | None, of_left: tuple[str, ...] | None, of_right: tuple[str, ...] | None
) -> None:
    caller = Caller("alice", experts)

    assert (caller.allowed_of(LEFT), caller.allowed_of(RIGHT)) == (of_left, of_right)


def test_what_is_not_allowed_does_not_exist() -> None:
    left, right = Caller("alice", ("math",)).sees((LEFT, RIGHT))

    assert (left.name, left.expert_names, left.fallback) == ("left", ("math",), "")
    assert (right.name, right.expert_names) == ("right", ())


def test_a_fallback_that_is_allowed_stays_and_anyone_sees_everything() -> None:
    assert Caller("alice", ("code",)).sees((LEFT,))[0].fallback == "code"
    assert ANYONE.sees((LEFT, RIGHT)) == (LEFT, RIGHT)
