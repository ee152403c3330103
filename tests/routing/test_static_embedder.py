"""The table of token vectors: made once, learnt from the encoder, and the same after a restart."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.routing import static_embedder
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.reference_encoder import ReferenceEncoder
from lmoe_ray.routing.static_distillation import frequency_weights
from lmoe_ray.routing.static_embedder import StaticEmbedder
from tests.routing.encoder_folders import WORDS, make_encoder

pytestmark = pytest.mark.torch

TEXTS = [" ".join(WORDS[n : n + 4]) for n in range(len(WORDS) - 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "encoder")


@pytest.fixture
def place(tmp_path: Path, cache_dir: Path) -> Path:
    """A cache without tables, but with what was compiled before."""
    kernels = cache_dir / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "kernels").symlink_to(kernels)
    return tmp_path / "place"


def test_vectors_have_length_one_and_keep_the_order_of_texts(folder: Path, place: Path) -> None:
    embedder = StaticEmbedder(folder, num_threads=1, cache_dir=place)

    vectors = embedder.embed([*TEXTS, "rain"])

    assert vectors.shape == (len(TEXTS) + 1, 64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vectors[-1], embedder.embed(["rain"])[0])
    assert embedder.embed([]).shape == (0, 64)


async def test_one_text_has_the_same_vector_as_among_others(folder: Path, place: Path) -> None:
    embedder = StaticEmbedder(folder, cache_dir=place)

    assert np.array_equal(await embedder.embed_one(TEXTS[3]), embedder.embed(TEXTS)[3])
    embedder.close()


def test_a_text_without_tokens_has_a_vector_too(folder: Path, place: Path) -> None:
    assert StaticEmbedder(folder, cache_dir=place).embed([" "]).tolist() == [[1.0] + [0.0] * 63]


def likeness(embedder: StaticEmbedder, folder: Path) -> float:
    """How well cosines between texts follow the encoder's."""
    vectors, expected = embedder.embed(TEXTS), ReferenceEncoder(folder, 256).encode(TEXTS)
    expected = expected - expected.mean(0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    return float((vectors * expected).sum(1).mean())


def test_its_space_is_that_of_the_encoder_it_imitates(folder: Path, place: Path) -> None:
    table, encoder = StaticEmbedder(folder, cache_dir=place), Embedder(folder, cache_dir=place)

    assert table.space == encoder.space == encoder.identity != table.identity
    encoder.close()


def test_texts_to_learn_from_bring_their_vectors_nearer_to_the_encoders(folder: Path, place: Path) -> None:
    taught = StaticEmbedder(folder, TEXTS * 20, cache_dir=place)
    untaught = StaticEmbedder(folder, cache_dir=place)

    assert likeness(taught, folder) > likeness(untaught, folder) + 0.02


def test_a_restart_finds_the_table_and_the_same_vectors(
    folder: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first, second = (StaticEmbedder(folder, TEXTS, cache_dir=place) for _ in range(2))

    assert caplog.text.count("static table made") == 1
    assert first.identity == second.identity
    assert np.array_equal(first.embed(TEXTS), second.embed(TEXTS))


def test_other_texts_make_another_table(folder: Path, place: Path) -> None:
    identities = {StaticEmbedder(folder, texts, cache_dir=place).identity for texts in ([], TEXTS, TEXTS[:2])}

    assert len(identities) == 3


def test_of_very_many_texts_every_so_many_counts(folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_embedder, "MAX_TEXTS", 5)

    few = StaticEmbedder(folder, TEXTS[:10:2], cache_dir=place)
    many = StaticEmbedder(folder, TEXTS[:10], cache_dir=place)

    assert many.identity == few.identity


def test_a_damaged_table_is_made_again(folder: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = StaticEmbedder(folder, cache_dir=place)
    (file,) = (place / "static").iterdir()
    file.write_bytes(file.read_bytes()[:500])

    after = StaticEmbedder(folder, cache_dir=place)

    assert "static table is damaged" in caplog.text
    assert after.identity == before.identity


def test_a_table_that_cannot_be_kept_is_used_and_the_log_says_so(
    folder: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "static").touch()

    assert StaticEmbedder(folder, cache_dir=place).embed(["rain"]).shape == (1, 64)
    assert "static table not kept" in caplog.text


def test_a_text_beyond_the_encoders_limit_teaches_with_its_beginning(folder: Path, place: Path) -> None:
    embedder = StaticEmbedder(folder, ["rain " * 600], max_tokens=1000, cache_dir=place)

    assert embedder.max_tokens == 1000


def test_an_encoder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder", hidden_act="relu")

    with pytest.raises(ModelSourceError, match="gives no static table: its hidden_act is relu"):
        StaticEmbedder(folder, cache_dir=tmp_path)


def test_frequent_words_count_less() -> None:
    weights = frequency_weights({"[CLS]": 0, "!": 1, "the": 2, "rain": 3, "plains": 4})

    assert weights[2] < weights[3] < weights[4]
    assert weights[1] == weights[2]
