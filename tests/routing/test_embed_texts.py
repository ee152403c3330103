"""Vectors for whoever asks are the router's own, and whoever routes meanwhile does not wait for all of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.domain.embedding import EmbedRequest
from lmoe_ray.errors import InvalidField, UnsupportedValue
from lmoe_ray.routing.embed_texts import GROUP, LazyEmbedder, embed_texts, embedder_name
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.reference_encoder import ReferenceEncoder
from lmoe_ray.routing.static_embedder import StaticEmbedder
from lmoe_ray.settings import RouterSettings
from tests.routing.encoder_folders import make_encoder

pytestmark = pytest.mark.torch

TEXTS = (
    "the rain in spain",
    "write a loop",
    "a haiku about snow \0",
    "sum numbers",
    "falls mainly on the plains",
    "é🦊",
)
#: With the two marks around each text; NUL is no token, and what nobody knows is one.
COUNTS = [6, 5, 6, 4, 7, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def embedder(folder: Path, cache_dir: Path) -> Embedder:
    return Embedder(folder, max_tokens=16, num_threads=1, cache_dir=cache_dir)


async def test_vectors_and_tokens_are_the_embedders_own(embedder: Embedder) -> None:
    found = await embed_texts(EmbedRequest("id", TEXTS, dimensions=64), embedder, "tiny")

    assert np.array_equal([np.frombuffer(vector, "<f4") for vector in found.vectors], embedder.embed(TEXTS))
    assert (found.embedder, found.num_tokens) == ("tiny", sum(COUNTS))


@pytest.mark.parametrize("make", [ReferenceEncoder, lambda folder, _: StaticEmbedder(folder, TEXTS, max_tokens=16)])
def test_every_kind_of_embedder_counts_tokens(
    make: Callable[[Path, int], ReferenceEncoder | StaticEmbedder], folder: Path
) -> None:
    counter = make(folder, 16)
    marks = 2 if isinstance(counter, ReferenceEncoder) else 0

    assert counter.count_tokens([*TEXTS[:2], "rain " * 40]) == [4 + marks, 3 + marks, 17]


@pytest.mark.parametrize("text", ["rain " * 15, " " * 600])
async def test_a_text_that_is_too_long_is_refused_or_cut(embedder: Embedder, text: str) -> None:
    with pytest.raises(InvalidField, match="text 1 has more than the 16 tokens that count"):
        await embed_texts(EmbedRequest("id", ("a", text)), embedder, "tiny")
    found = await embed_texts(EmbedRequest("id", (text,), truncate=True), embedder, "tiny")

    assert found.num_tokens <= 16
    assert np.array_equal(np.frombuffer(found.vectors[0], "<f4"), embedder.embed([text])[0])


async def test_vectors_of_another_length_are_refused(embedder: Embedder) -> None:
    with pytest.raises(UnsupportedValue, match="tiny makes vectors of 64 numbers and no others"):
        await embed_texts(EmbedRequest("id", ("a",), dimensions=32), embedder, "tiny")


async def test_a_request_to_be_routed_waits_for_a_few_texts_only() -> None:
    class Slow:
        max_tokens, dim = 16, 1
        waiting = most = 0

        async def embed_one(self, text: str) -> np.ndarray:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            await asyncio.sleep(0)
            self.waiting -= 1
            return np.zeros(1, dtype=np.float32)

        def count_tokens(self, texts: object) -> list[int]:
            return [1] * 50

    slow = Slow()
    await embed_texts(EmbedRequest("id", ("a",) * 50), slow, "slow")

    assert slow.most == GROUP


def test_an_embedder_is_made_once_and_only_when_it_is_needed() -> None:
    made: list[Embedder] = []

    def make() -> Embedder:
        time.sleep(0.05)
        made.append(object())  # type: ignore[arg-type]
        return made[-1]

    lazy = LazyEmbedder(make)
    assert made == []
    threads = [threading.Thread(target=lazy.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), lazy.get()) == (1, made[0])


@pytest.mark.parametrize(
    ("source", "embedding", "name"),
    [
        ("builtin:all-minilm-l6-v2", "encoder", "all-minilm-l6-v2"),
        ("thenlper/gte-small", "static", "gte-small-static"),
        ("/home/alice/secret/mine/", "encoder", "mine"),
    ],
)
def test_an_embedder_is_called_by_its_own_name(source: str, embedding: str, name: str) -> None:
    assert embedder_name(RouterSettings.model_validate({"embedder": source, "embedding": embedding})) == name
