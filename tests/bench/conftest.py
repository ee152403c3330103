"""What the speed bench needs of a model on disk, without torch: a vocabulary and a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """``tokenizer.json`` with some words of one token each, and a two-layer ``config.json``; no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["the quick brown fox jumps over the lazy dog"], trainer)
    bpe.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(sizes | heads))
    return folder
