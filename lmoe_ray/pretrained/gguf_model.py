"""GGUF file → Hugging Face folder: dense bfloat16 safetensors, tokenizer, chat template.

Run as a program, ``python gguf_model.py <file.gguf> <folder> <name>``: it imports nothing of this package,
and the memory of the conversion returns to the system when it ends.

transformers unpacks the tensors and rebuilds the vocabulary, but gives every byte-level BPE the splitting
rule of GPT-2; the rule the file names in ``tokenizer.ggml.pre`` is put back here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

#: Splitting rules by their name in ``tokenizer.ggml.pre``. smollm: every digit alone, then GPT-2's rule.
_SPLITTERS: dict[str, Any] = {
    "gpt-2": _GPT2,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2]),
}


def convert(gguf: Path, folder: Path, name: str) -> None:
    """Write the dense model and its tokenizer into an existing folder; ``name`` goes into its config.

    Raises:
        ValueError: if the file's tokenizer is of a kind that would be rebuilt wrongly.
    """
    reader = GGUFReader(gguf)
    tokenizer = _tokenizer(reader, gguf)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    # The file's own, often internal, name is left as an extra key.
    vars(model.config).pop("_model_name_or_path", None)
    model.config.name_or_path = name
    model.generation_config = _generation_config(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(reader: GGUFReader, gguf: Path) -> Any:
    rule = _field(reader, "tokenizer.ggml.pre")
    if _field(reader, "tokenizer.ggml.model") != "gpt2" or rule not in _SPLITTERS:
        raise ValueError(f"tokenizer rule {rule!r} is none of {', '.join(_SPLITTERS)}; use the safetensors original")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = _SPLITTERS[rule]
    return tokenizer


def _generation_config(tokenizer: Any) -> GenerationConfig:
    """Either end token ends an answer: the chat turn's, and the document's of pretraining."""
    document_end = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.eos_token_id)
    return GenerationConfig.from_dict(
        {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": sorted({tokenizer.eos_token_id, document_end}, reverse=True),
            "pad_token_id": tokenizer.pad_token_id,
        }
    )


def _field(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else None


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
