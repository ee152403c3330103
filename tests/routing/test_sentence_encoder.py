"""Our arithmetic against sentence-transformers', and what a vector must not depend on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmoe_ray.routing.bert_weights import Affine, UnsupportedEncoder, read_bert
from lmoe_ray.routing.compiled_bert import CompiledBert
from lmoe_ray.routing.flat_bert import FlatBert, pack, plain_linear
from lmoe_ray.routing.reference_encoder import ReferenceEncoder
from lmoe_ray.routing.sentence_encoder import (
    PASS_TOKENS,
    TOLERANCE,
    Forward,
    SentenceEncoder,
    encode_together,
    pass_by_pass,
)
from lmoe_ray.routing.text_tokens import TextTokens
from tests.routing.encoder_folders import WORDS, make_encoder, module, write_json

pytestmark = pytest.mark.torch

#: Of every length that a tile of rows or of columns can leave over.
TEXTS = [" ".join((WORDS * 20)[n : n + length]) for n, length in enumerate([*range(20), 31, 64, 100, 254, 300])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def kernel_dir(cache_dir: Path) -> Path:
    return cache_dir / "kernels"


def compiled(folder: Path, kernel_dir: Path, width: int | None = None, num_threads: int = 1) -> Forward:
    macros = [f"WIDTH={width}"] if width else []
    return CompiledBert(read_bert(folder), kernel_dir, num_threads, macros)


ARITHMETICS: dict[str, Callable[[Path, Path], Forward]] = {
    "compiled": compiled,
    "narrow vectors": lambda folder, kernel_dir: compiled(folder, kernel_dir, width=4),
    "torch": lambda folder, _: FlatBert(read_bert(folder)),
    "plain torch": lambda folder, _: FlatBert(read_bert(folder), plain_linear),
}


def encode(forward: Forward, folder: Path, texts: list[str]) -> np.ndarray:
    return encode_together(forward, TextTokens(folder, 256, num_ids=100)(texts))


@pytest.mark.parametrize("name", ARITHMETICS)
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_vectors_are_those_of_sentence_transformers(name: str, pooling: str, tmp_path: Path, kernel_dir: Path) -> None:
    folder = make_encoder(tmp_path / "encoder", pooling=pooling)
    expected = ReferenceEncoder(folder, 256).encode(TEXTS)

    vectors = encode(ARITHMETICS[name](folder, kernel_dir), folder, TEXTS)

    assert np.abs(vectors - expected).max() < TOLERANCE
    assert (vectors * expected).sum(1).min() > 0.9999


@pytest.mark.parametrize("name", ["compiled", "narrow vectors"])
def test_a_vector_is_the_same_to_its_last_bit_in_any_company(name: str, folder: Path, kernel_dir: Path) -> None:
    forward = ARITHMETICS[name](folder, kernel_dir)
    together = encode(forward, folder, TEXTS)

    assert np.array_equal(encode(forward, folder, TEXTS[::-1]), together[::-1])
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.array_equal(encode(forward, folder, [text])[0], vector)


def test_a_vector_is_the_same_to_its_last_bit_on_any_number_of_threads(folder: Path, kernel_dir: Path) -> None:
    one, three = (encode(compiled(folder, kernel_dir, num_threads=n), folder, TEXTS) for n in (1, 3))

    assert np.array_equal(one, three)


def test_an_encoder_cuts_what_is_too_long_and_keeps_the_order(folder: Path, kernel_dir: Path) -> None:
    encoder = SentenceEncoder(folder, 8, 1, kernel_dir)
    reference = ReferenceEncoder(folder, 8)

    assert encoder.max_tokens == reference.max_tokens == 8
    assert np.abs(encoder.encode(TEXTS) - reference.encode(TEXTS)).max() < TOLERANCE
    assert np.array_equal(*encoder.encode(["rain " * 6, "rain " * 7_000_000]))
    assert encoder.encode([]).shape == reference.encode([]).shape == (0, 64)


def test_the_models_own_limit_caps_the_tokens(folder: Path, kernel_dir: Path) -> None:
    assert SentenceEncoder(folder, 100_000, 1, kernel_dir).max_tokens == 256


def test_a_pass_takes_what_fits_and_a_text_of_any_length() -> None:
    lengths = [PASS_TOKENS // 2, PASS_TOKENS // 2, 1, PASS_TOKENS + 1, 2]

    passes = pass_by_pass([np.zeros(length, np.int32) for length in lengths])

    assert [[len(text) for text in texts] for texts in passes] == [lengths[:2], [1], [PASS_TOKENS + 1], [2]]


def test_without_a_compiler_torch_computes_and_the_log_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))

    with caplog.at_level(logging.INFO):
        encoder = SentenceEncoder(folder, 256, 1, tmp_path / "empty")

    assert "arithmetic=torch" in caplog.text
    assert np.abs(encoder.encode(TEXTS) - ReferenceEncoder(folder, 256).encode(TEXTS)).max() < TOLERANCE


def test_a_weight_that_float16_cannot_hold_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    linear = Affine(torch.tensor([[1e6, 1.0]]), torch.tensor([0.5]))

    with caplog.at_level(logging.INFO):
        product = pack(linear)(torch.tensor([[1.0, 2.0]]))

    assert product.tolist() == [[1_000_002.5]]
    assert "stays plain shape=(1, 2): a weight is above 65504" in caplog.text


def other(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: other(f, "config.json", model_type="mpnet"), "model_type is mpnet"),
        (lambda f: other(f, "config.json", hidden_act="relu"), "hidden_act is relu"),
        (lambda f: other(f, "config.json", num_attention_heads=4), "head size of 16 is no multiple of 32"),
        (lambda f: other(f, "1_Pooling/config.json", pooling_mode_max_tokens=True), "pooling is"),
        (lambda f: other(f, "sentence_bert_config.json", do_lower_case=True), "lowers the case"),
        (
            lambda f: write_json(f / "modules.json", module("Transformer", 0, ""), module("WordWeights", 1, "")),
            "modules",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"no weights"), "not those of a plain BERT"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
    ],
)
def test_what_is_not_ours_is_named(change: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")
    change(folder)

    with pytest.raises(UnsupportedEncoder, match=reason):
        SentenceEncoder(folder, 256, 1, tmp_path)


def test_a_tokenizer_of_another_model_never_reads_beyond_the_vectors(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder", num_words=len(WORDS) - 1)

    with pytest.raises(UnsupportedEncoder, match=r"has 22 tokens, the model 21"):
        SentenceEncoder(folder, 256, 1, tmp_path)
