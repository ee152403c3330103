"""What every engine is asked: prompts of words, and adapters of random weights; seeded, so equal for all.

A prompt is a chain of words that are one token each, so that its text and its ids say the same thing to an
engine that takes text and to one that takes ids. Each request and each round has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.pretrained.whole_folder import whole_folder

RANK = 16
ALPHA = 32
#: Standard deviation of the B matrices: enough to change the answer, not enough to break the arithmetic.
B_SCALE = 0.05
#: Part of the folder's name: adapters of other rules are not taken for these.
FOLDER = f"speed-adapters-r{RANK}-1"

_WORD = re.compile(r"\u0120[a-z]+")


class PromptMaker:
    """Draws prompts from the words of a byte-level BPE vocabulary."""

    def __init__(self, model_folder: Path) -> None:
        """
        Raises:
            ModelSourceError: the vocabulary has no words, or they do not survive a round trip.
        """
        self._tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
        vocabulary = self._tokenizer.get_vocab()
        self._words = sorted(token_id for token, token_id in vocabulary.items() if _WORD.fullmatch(token))
        self._words = [word for word in self._words if self._round_trips([word])]
        if not self._words:
            raise ModelSourceError(str(model_folder), "has no words of one token; use a model with byte-level BPE")

    def make(self, num_prompts: int, num_tokens: int, seed: Sequence[int]) -> list[list[int]]:
        """``[num_prompts][num_tokens]`` ids; different seeds give different prompts.

        Raises:
            ModelSourceError: a prompt's text would be encoded to other ids.
        """
        random = np.random.default_rng(seed)
        prompts: list[list[int]] = random.choice(self._words, (num_prompts, num_tokens)).tolist()
        if not all(self._round_trips(prompt) for prompt in prompts):
            raise ModelSourceError("tokenizer", "joins words across spaces; use a model with byte-level BPE")
        return prompts

    def _round_trips(self, ids: list[int]) -> bool:
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return bool(self._tokenizer.encode(text).ids == ids)


def make_adapters(model_folder: Path, count: int, cache_dir: Path) -> list[Path]:
    """PEFT folders of a package ``<cache_dir>/<FOLDER>/<model>``; those that are there already are kept.

    All seven linears, rank 16, alpha 32, A uniform as PEFT draws it, B normal. 10 MB each for a 135M model.
    """
    root = cache_dir / FOLDER / model_folder.name / "adapters"
    folders = [root / f"speed-{seed:02}" for seed in range(count)]
    for seed, folder in enumerate(folders):
        if not folder.exists():
            with whole_folder(folder) as unfinished:
                _write_adapter(model_folder, unfinished, seed)
    return folders


def linear_sizes(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    """``(out_features, in_features)`` of a layer's linears by their place in it, of a Llama-like ``config.json``."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }


def _write_adapter(model_folder: Path, folder: Path, seed: int) -> None:
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    random = np.random.default_rng(seed)
    sizes = linear_sizes(config)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for place, (out_features, in_features) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{place}"
            bound = in_features**-0.5
            tensors[f"{name}.lora_A.weight"] = random.uniform(-bound, bound, (RANK, in_features)).astype(np.float16)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, B_SCALE, (out_features, RANK)).astype(np.float16)
    save_file(tensors, folder / "adapter_model.safetensors")
    lora = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": [place.split(".")[1] for place in sizes],
        "bias": "none",
        "base_model_name_or_path": model_folder.name,
    }
    (folder / "adapter_config.json").write_text(json.dumps(lora, indent=2) + "\n", encoding="utf-8")
