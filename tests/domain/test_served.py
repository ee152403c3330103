"""What a client's ``model`` and ``expert`` lead to."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.served import ServedExpert, ServedModel, resolve, wire_names
from lmoe_ray.errors import ExpertNotFound, ModelNotFound

SMALL = ServedModel("small", (ServedExpert("code", "1"), ServedExpert("math", "2")), aliases=("gpt-4", "a:b"))
LARGE = ServedModel("large", (ServedExpert("math", "3"), ServedExpert("law", "4")))
ODD = ServedModel("odd", (ServedExpert("base", "5"),), aliases=("gpt-5",))
MODELS = (SMALL, LARGE)


@pytest.mark.parametrize(
    ("model", "expert", "base", "chosen"),
    [
        ("small", None, "small", None),
        ("large", None, "large", None),
        ("gpt-4", None, "small", None),
        ("small:math", None, "small", "math"),
        ("large:math", None, "large", "math"),
        ("gpt-4:math", None, "small", "math"),
        ("math", None, "small", "math"),
        ("law", None, "large", "law"),
        ("a:b", None, "small", None),
        ("small", "code", "small", "code"),
        ("small:math", "code", "small", "code"),
        ("law", "math", "large", "math"),
    ],
)
def test_a_name_leads_to_a_base_and_perhaps_an_expert(
    model: str, expert: str | None, base: str, chosen: str | None
) -> None:
    address = resolve(MODELS, model, expert)
    assert (address.model.name, address.expert, address.is_base) == (base, chosen, False)


@pytest.mark.parametrize(
    ("model", "expert"),
    [("small", "base"), ("small", "small"), ("small", "gpt-4"), ("small:base", None), ("code", "base")],
)
def test_the_base_model_itself_can_be_named_where_an_expert_can(model: str, expert: str | None) -> None:
    address = resolve(MODELS, model, expert)
    assert (address.model.name, address.expert, address.is_base) == ("small", None, True)


@pytest.mark.parametrize(
    ("name", "expert", "is_base"), [("base", "base", False), ("odd", None, True), ("gpt-5", None, True)]
)
def test_an_expert_called_base_comes_before_the_base_model(name: str, expert: str | None, is_base: bool) -> None:
    address = resolve((ODD,), "odd", name)
    assert (address.expert, address.is_base) == (expert, is_base)


def test_a_model_with_an_expert_called_base_does_not_list_it_twice() -> None:
    with pytest.raises(ExpertNotFound, match=r"this model has: base$"):
        resolve((ODD,), "odd", "law")


@pytest.mark.parametrize("model", ["other", "", "other:code", "small:", ":code"])
def test_an_unknown_name_is_refused_naming_all_known_ones(model: str) -> None:
    with pytest.raises(ModelNotFound, match=r"served: small, small:code, small:math, gpt-4, a:b, large, "):
        resolve(MODELS, model, None)


def test_or_it_leads_to_the_first_base_if_that_is_allowed() -> None:
    address = resolve(MODELS, "gpt-5", "math", use_default=True)
    assert (address.model, address.expert) == (SMALL, "math")


@pytest.mark.parametrize(
    ("model", "expert"), [("small:law", None), ("small", "law"), ("gpt-5", "law"), ("math", "law")]
)
def test_an_expert_of_another_base_is_refused_naming_the_bases_own(model: str, expert: str | None) -> None:
    with pytest.raises(ExpertNotFound, match="'law' does not exist; this model has: code, math, base"):
        resolve(MODELS, model, expert, use_default=True)


def test_every_listed_name_leads_somewhere() -> None:
    assert wire_names((LARGE,)) == ("large", "large:math", "large:law")
    for name in wire_names(MODELS):
        resolve(MODELS, name, None)
