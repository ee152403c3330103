"""A router learns of other samples while it routes: requests meet the old ones or the new ones, and never wait."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lmoe_ray.routing.index_cache import load_or_build
from lmoe_ray.routing.router import RoutedModel
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.routing.threshold import CalibrationFile
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder
from tests.routing.experts import ask, expert, poems, programs

pytestmark = pytest.mark.slow

#: Of samples without a source, each expert's would be held out all together.
SOURCES = ("book", "forum", "mail", "notes", "chat") * 5
CODE = expert("code", *programs()[::4], sources=SOURCES)
POETRY = expert("poetry", *poems()[::4], sources=SOURCES)
COOKING = expert("cooking", "bake bread with rye flour", "roast a chicken with thyme", "stew beans with bacon")
BEFORE = RoutedModel("demo", (CODE, POETRY))
AFTER = RoutedModel("demo", (CODE, COOKING, POETRY))
RECIPE = ask("bake bread with thyme and bacon")
#: Nothing is left to the fallback for being unusual.
PLAIN = RouterSettings(min_familiarity=0)


class Gated(HashingEncoder):
    """Embeds many texts at once only while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        if len(texts) > 1:
            self.waits.set()
            assert self.gate.wait(10)
        return super().embed(texts, progress)


class Held(HashingEncoder):
    """Reads queries only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = False
        self.release = asyncio.Event()

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        if self.is_held:
            await self.release.wait()
        return await super().embed_one(text)


class Broken(HashingEncoder):
    """Fails at a text about beans."""

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        if any("beans" in text for text in texts):
            raise OSError("out of beans")
        return super().embed(texts, progress)


async def test_what_is_new_is_known_after_an_update_and_nothing_else_was_embedded() -> None:
    router = SimilarityRouter(BEFORE, encoder := HashingEncoder(), PLAIN, None)
    encoder.embedded.clear()

    await router.update(AFTER)

    assert sorted(encoder.embedded) == sorted(COOKING.samples)
    decision = await router.route(RECIPE)
    assert (decision.expert, len(decision.candidates)) == ("cooking", 3)


async def test_an_updated_router_decides_as_one_that_started_with_the_same_samples() -> None:
    settings = RouterSettings(precision=0.9)
    updated = SimilarityRouter(BEFORE, HashingEncoder(), settings, None)
    await updated.update(AFTER)

    fresh = SimilarityRouter(AFTER, HashingEncoder(), settings, None)

    for request in (RECIPE, ask("fix a loop in rust"), ask("haiku about bread"), ask("zxq4 wvv9")):
        assert await updated.route(request) == await fresh.route(request)


async def test_while_a_slow_update_lasts_requests_are_routed_as_before_and_at_once() -> None:
    router = SimilarityRouter(BEFORE, encoder := Gated(), PLAIN, None)
    before = await router.route(RECIPE)
    encoder.gate.clear()
    encoder.waits.clear()
    update = asyncio.create_task(router.update(AFTER))
    await asyncio.to_thread(encoder.waits.wait, 10)

    meanwhile = await asyncio.wait_for(asyncio.gather(*(router.route(RECIPE) for _ in range(20))), 5)
    assert not update.done()
    encoder.gate.set()
    await update

    assert meanwhile == [before] * 20
    assert (await router.route(RECIPE)).expert == "cooking"


async def test_requests_around_the_change_meet_one_set_of_experts_and_none_fails() -> None:
    router = SimilarityRouter(BEFORE, HashingEncoder(), PLAIN, None)
    updates = asyncio.create_task(swap_back_and_forth(router))
    known = [{"code", "poetry"}, {"code", "cooking", "poetry"}]
    seen = []

    while not updates.done():
        decision = await router.route(RECIPE)
        seen.append({candidate.expert for candidate in decision.candidates})
        assert decision.expert in seen[-1]
        await asyncio.sleep(0.005)
    await updates

    assert all(experts in known for experts in seen)
    assert all(experts in seen for experts in known)


async def swap_back_and_forth(router: SimilarityRouter) -> None:
    for model in (AFTER, BEFORE):
        await router.update(model)


async def test_a_request_that_is_being_read_meets_the_threshold_of_its_own_samples() -> None:
    router = SimilarityRouter(BEFORE, encoder := Held(), RouterSettings(precision=0.9, min_familiarity=0), None)
    before = await router.route(RECIPE)
    encoder.is_held = True
    reading = asyncio.create_task(router.route(RECIPE))
    await asyncio.sleep(0)

    await router.update(RoutedModel("demo", (CODE, expert("poetry", *CODE.samples, sources=SOURCES))))
    encoder.release.set()

    assert await reading == before
    assert (await router.route(RECIPE)).threshold != before.threshold


async def test_an_update_that_fails_leaves_everything_as_it_was() -> None:
    router = SimilarityRouter(BEFORE, Broken(), RouterSettings(precision=0.9), None)
    before = await router.route(RECIPE)

    with pytest.raises(OSError, match="out of beans"):
        await router.update(AFTER)

    assert await router.route(RECIPE) == before
    await router.update(RoutedModel("demo", (CODE, expert("cooking", *COOKING.samples[:2]), POETRY)))
    assert len((await router.route(RECIPE)).candidates) == 3


async def test_an_experts_samples_may_change_and_an_expert_may_go() -> None:
    router = SimilarityRouter(AFTER, encoder := HashingEncoder(), PLAIN, None)
    encoder.embedded.clear()

    await router.update(RoutedModel("demo", (CODE, expert("poetry", *POETRY.samples[1:], "verses on bread"))))

    assert encoder.embedded == ["verses on bread"]
    assert {candidate.expert for candidate in (await router.route(RECIPE)).candidates} == {"code", "poetry"}


async def test_samples_may_come_to_a_model_that_had_none_and_go_again() -> None:
    router = SimilarityRouter(RoutedModel("demo", (expert("code"),)), HashingEncoder(), PLAIN, None)
    assert (await router.route(RECIPE)).reason == "no expert has routing samples, so the base model answers"

    await router.update(AFTER)
    assert (await router.route(RECIPE)).expert == "cooking"

    await router.update(RoutedModel("demo", (expert("code"),)))
    assert (await router.route(RECIPE)).reason == "no expert has routing samples, so the base model answers"


async def test_a_stale_calibration_stops_a_start_but_no_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = digest_of(BEFORE)
    CalibrationFile(digest, precision=0.5, threshold=0.99, coverage=0.1, num_judged=50).write(tmp_path / "file")
    settings = RouterSettings(calibration=str(tmp_path / "file"), min_familiarity=0)
    router = SimilarityRouter(BEFORE, HashingEncoder(), settings, None)
    at_start = await router.route(RECIPE)

    with caplog.at_level(logging.INFO):
        await router.update(AFTER)

    decision = await router.route(RECIPE)
    assert at_start.threshold == 0.99
    assert decision.threshold < 0.99
    assert decision.expert == "cooking"
    assert f"routing threshold precision=0.5 threshold={decision.threshold:.3f}" in caplog.text


def digest_of(model: RoutedModel) -> str:
    """The digest that ``lmoe calibrate`` would write."""
    samples = choose_samples(model.experts, PLAIN.max_samples, PLAIN.seed)
    return load_or_build(samples, HashingEncoder(), None).digest


async def test_an_updated_index_is_kept_for_the_next_start(tmp_path: Path) -> None:
    router = SimilarityRouter(BEFORE, HashingEncoder(), PLAIN, tmp_path)
    await router.update(AFTER)

    SimilarityRouter(AFTER, encoder := HashingEncoder(), PLAIN, tmp_path)

    assert encoder.embedded == []
