"""A sentence encoder small enough to build on disk in a moment: random weights, a real WordPiece tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *("the", "a", "rain", "in", "spain", "falls", "mainly", "on"),
    *("plains", "write", "loop", "python", "haiku", "about", "snow", "sum", "numbers"),
)
MAX_TOKENS = 256


def make_encoder(folder: Path, *, pooling: str = "mean_tokens", num_words: int = len(WORDS), **config: Any) -> Path:
    """A BERT of two layers, 64 wide, in the layout of sentence-transformers; ``config`` overrides BertConfig's."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128}
    vocabulary = len(MARKS) + num_words
    settings = {"vocab_size": vocabulary, "max_position_embeddings": MAX_TOKENS, "initializer_range": 0.2}
    BertModel(BertConfig(**{**shape, **settings, **config}), add_pooling_layer=False).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)
    write_json(folder / "modules.json", module("Transformer", 0, ""), module("Pooling", 1, "1_Pooling"))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, **modes})
    return folder


def make_tokenizer() -> Tokenizer:
    tokens = [*MARKS, *WORDS]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [("[CLS]", tokens.index("[CLS]")), ("[SEP]", tokens.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return tokenizer


def module(kind: str, index: int, path: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}


def write_json(file: Path, *content: dict[str, Any]) -> None:
    """One object as it is, several as a list."""
    file.write_text(json.dumps(content[0] if len(content) == 1 else content))
