"""Settings refuse what would not work, name the place, and have a default for everything but the models."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from lmoe_ray import settings
from lmoe_ray.errors import SettingsError
from lmoe_ray.settings import PoolSettings, Settings, parse_router, parse_settings


def args(**fields: Any) -> dict[str, Any]:
    return {"models": [model()], **fields}


def model(name: str = "base", **fields: Any) -> dict[str, Any]:
    return {"name": name, "source": "some/model", "pools": [{"name": f"{name}-pool"}], **fields}


def test_a_model_and_a_pool_are_enough() -> None:
    parsed = parse_settings(args())

    assert parsed.models[0].pools[0].engine.max_num_seqs == 32
    assert parsed.router.kind == "similarity"


def test_every_setting_but_a_bare_name_says_its_meaning() -> None:
    """A field without a description is one whose name and type already say everything."""
    bare = {
        field
        for _, schema in vars(settings).items()
        if isinstance(schema, type) and issubclass(schema, BaseModel)
        for field, info in schema.model_fields.items()
        if info.description is None
    }

    assert bare <= {
        "max_replicas", "engine", "pools", "embedder_revision", "seed", "num_cpus", "num_replicas",
        "max_body_bytes", "max_messages", "cors_origins", "max_ongoing_requests", "models", "router", "api",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "place", "problem"),
    [
        ({}, "args.models", "Field required"),
        (args(modells=[]), "args.modells", "no such setting"),
        (args(models=[]), "args.models", "at least 1"),
        (args(router={"kind": "magic"}), "args.router.kind", "'magic'"),
        (args(models=[model(pools=[])]), "args.models.0.pools", "at least 1"),
        (args(models=[model("a b")]), "args.models.0.name", "'a b'"),
        (args(models=[model(), model()]), "args", "model names must differ; repeated: base"),
        (args(models=[model("a"), model("b", pools=[{"name": "a-pool"}])]), "args", "pool names must differ"),
        (args(models=[model("a"), model("b", aliases=["a"])]), "args", "leads to one model; repeated: a"),
        (args(models=[model(pools=[{"name": "p", "min_replicas": 3}])]), "args.models.0.pools.0", "exceeds"),
        (args(models=[model(pools=[{"name": "p", "gpu_fraction": 1.5}])]), "args.models.0.pools.0", "whole GPUs"),
        (
            args(models=[model(pools=[{"name": "p", "engine": {"max_batch_tokens": 8}}])]),
            "args.models.0.pools.0.engine",
            "max_batch_tokens=8 is below max_num_seqs=32",
        ),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], place: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(wrong)

    assert refused.value.place == place
    assert problem in refused.value.problem


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(SettingsError, match=r"\(and 1 more\)"):
        parse_settings(args(a=1, b=2))


def test_nothing_writes_to_settings() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_settings(args()).models[0].pools[0].name = "other"  # type: ignore[misc]


def test_a_pool_without_experts_serves_all_and_one_with_strangers_is_refused() -> None:
    assert PoolSettings(name="p").experts_of(("a", "b")) == ("a", "b")
    assert PoolSettings(name="p", experts=("b",)).experts_of(("a", "b")) == ("b",)
    with pytest.raises(SettingsError, match="has no expert 'c'; it has: a, b"):
        PoolSettings(name="p", experts=("c",)).experts_of(("a", "b"))


def test_whole_gpus_above_one_are_fine() -> None:
    assert PoolSettings(name="p", gpu_fraction=2).gpu_fraction == 2


def test_the_router_can_be_parsed_alone() -> None:
    assert parse_router({"k": 7}).k == 7
    with pytest.raises(SettingsError, match=r"router\.kk"):
        parse_router({"kk": 7})


@pytest.mark.parametrize(
    ("router", "named"),
    [
        ({"threshold": 0.5, "precision": 0.9}, "threshold and precision"),
        ({"threshold": 0.5, "calibration": "a.json"}, "threshold and calibration"),
        ({"precision": 0.9, "calibration": "a.json"}, "precision and calibration"),
    ],
)
def test_only_one_setting_says_when_to_abstain(router: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"router: {named} both say when to abstain; keep one"):
        parse_router(router)


@pytest.mark.parametrize("router", [{}, {"threshold": 0.5}, {"threshold": 0.0, "precision": 0.9}, {"calibration": "a"}])
def test_one_way_to_abstain_is_enough_and_none_is_fine(router: dict[str, Any]) -> None:
    assert parse_router(router).min_familiarity == 0.5


@pytest.mark.parametrize("precision", [0, 1, 1.5, -0.5])
def test_a_precision_that_nothing_or_everything_has_is_refused(precision: float) -> None:
    with pytest.raises(SettingsError, match=r"router\.precision"):
        parse_router({"precision": precision})


@pytest.mark.parametrize("router", [{"precision": 0.9}, {"calibration": "a.json"}])
def test_what_is_measured_with_one_rule_is_no_threshold_for_another(router: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="measured with scoring=fused, not density; set threshold"):
        parse_router({**router, "scoring": "density"})


def test_the_calibration_file_is_expanded_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/somebody")

    assert str(parse_router({"calibration": "~/calibration.json"}).calibration_path) == (
        "/home/of/somebody/calibration.json"
    )
    assert parse_router({}).calibration_path is None


def test_the_cache_folder_is_expanded_where_it_is_used() -> None:
    assert "~" not in str(Settings.model_validate(args()).cache_path)
