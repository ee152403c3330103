"""A converted GGUF is the same model and splits text in the same places."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmoe_ray.pretrained.gguf_model import convert
from lmoe_ray.pretrained.model_source import BUILTINS, _inside_distribution, resolve
from tests.tiny import CHAT_TEMPLATE, make_tiny_model

# transformers' own calls, not ours.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

TEXTS = [
    "<|im_start|>user\nhello<|im_end|>\n",
    "line one\n\n\tline two  \r\n",
    "def f(x):\n    return x  +   1\n\n    2024\n",
    "0123456789 45",
    "in 1984, 3.14159 or 1,000,000 ½ ²",
    "naïve café 你好 🙂👩‍👩‍👧 \u00a0 end",
    "I'll don't we've THEY'RE",
]


class SlowTokenizer:
    """Byte-level BPE written out from the GGUF's vocabulary, merges and rule: the oracle."""

    def __init__(self, gguf: Path) -> None:
        reader = GGUFReader(gguf)
        tokens, kinds, merges = (
            reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("tokens", "token_type", "merges")
        )
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        self.letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in regex.split("(" + "|".join(map(regex.escape, self.special)) + ")", text):
            if part in self.special:
                ids.append(self.ids[part])
                continue
            for piece in regex.split(r"(\p{N})", part):
                words = regex.findall(
                    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", piece
                )
                ids += [self.ids[token] for word in words for token in self._merge(word)]
        return ids

    def _merge(self, word: str) -> list[str]:
        parts = [self.letters[b] for b in word.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            at = min(range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], len(self.ranks)))
            if pairs[at] not in self.ranks:
                break
            parts[at : at + 2] = ["".join(pairs[at])]
        return parts


def write_tiny_gguf(file: Path, source: Path, *, rule: str = "smollm") -> None:
    """The tiny llama of ``source`` as GGUF: linear layers in Q8_0, embeddings and norms in F32."""
    config = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(file, "llama")
    writer.add_name("internal name")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(512)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()), rule)
    for name, tensor in load_file(source / "model.safetensors").items():
        add_tensor(writer, name, tensor.numpy(), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: GGUFWriter, tokenizer: Any, rule: str) -> None:
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def add_tensor(writer: GGUFWriter, name: str, tensor: np.ndarray[Any, Any], config: Any) -> None:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for projection, num_heads in heads.items():
        if projection in name:  # llama.cpp keeps rotary halves interleaved
            half = tensor.shape[0] // num_heads // 2
            tensor = tensor.reshape(num_heads, 2, half, -1).swapaxes(1, 2).reshape(tensor.shape)
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    if "blk" in name and tensor.ndim == 2:
        writer.add_tensor(name, quantize(tensor, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, tensor)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``source``, ``tiny.gguf`` and ``out``."""
    root = tmp_path_factory.mktemp("gguf")
    make_tiny_model(root / "source")
    write_tiny_gguf(root / "tiny.gguf", root / "source")
    (root / "out").mkdir()
    convert(root / "tiny.gguf", root / "out", "tiny")
    return root


def test_the_converted_model_computes_what_the_original_does(converted: Path) -> None:
    ids = torch.arange(40)[None]
    logits = [
        AutoModelForCausalLM.from_pretrained(converted / name, dtype=torch.float32)(ids).logits
        for name in ("source", "out")
    ]

    error = (logits[0] - logits[1]).abs().mean() / logits[0].abs().mean()
    assert error < 0.05  # 8-bit weights, kept in bfloat16


def test_a_tensor_is_the_files_own_rounded_to_bfloat16(converted: Path) -> None:
    tensor = next(t for t in GGUFReader(converted / "tiny.gguf").tensors if t.name == "blk.1.ffn_down.weight")
    expected = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)

    assert torch.equal(
        load_file(converted / "out" / "model.safetensors")["model.layers.1.mlp.down_proj.weight"], expected
    )


def test_nothing_of_the_quantisation_is_left_in_the_config(converted: Path) -> None:
    config = json.loads((converted / "out" / "config.json").read_text())

    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config
    assert config["dtype"] == "bfloat16"


def test_both_end_tokens_end_an_answer(converted: Path) -> None:
    assert json.loads((converted / "out" / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_the_chat_template_comes_along(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted / "out")

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("text", TEXTS)
def test_the_tiny_tokenizer_splits_as_the_file_says(converted: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted / "out")

    ids = tokenizer.encode(text)

    assert ids == SlowTokenizer(converted / "tiny.gguf").encode(text)
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_rule_we_cannot_rebuild_is_refused(converted: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "other.gguf", converted / "source", rule="llama-bpe")

    with pytest.raises(ValueError, match=r"'llama-bpe' is none of gpt-2, smollm"):
        convert(tmp_path / "other.gguf", tmp_path, "other")


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_the_builtin_tokenizer_splits_as_its_file_says(cache_dir: Path, text: str) -> None:
    folder = resolve("builtin:smollm2-135m-instruct", None, cache_dir)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    ids = tokenizer.encode(text)

    gguf = _inside_distribution("builtin", *BUILTINS["smollm2-135m-instruct"])
    assert ids == SlowTokenizer(gguf).encode(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.model
def test_the_builtin_model_speaks_chatml_with_its_own_system_text(cache_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("builtin:smollm2-135m-instruct", None, cache_dir))

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )

    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.model
def test_the_builtin_model_knows_the_capital_of_france(cache_dir: Path) -> None:
    folder = resolve("builtin:smollm2-135m-instruct", None, cache_dir)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, return_tensors="pt")

    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]

    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
