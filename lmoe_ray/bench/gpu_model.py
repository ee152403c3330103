"""A model of any size to measure with: random weights in Llama's shape, adapters on all its linears, and a vocabulary.

What a step costs depends on how many numbers it reads, not on which, so nothing is downloaded. The sums of
those numbers are kept here too: they say what a device could reach at best.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from lmoe_ray.bench.speed_workload import linear_sizes
from lmoe_ray.errors import SettingsError
from lmoe_ray.pretrained.whole_folder import whole_folder

#: Weights are ±2^e to ±2^(e+1): about the spread of a trained model's.
WEIGHT_EXPONENT = -6
#: Bytes of a weight, key or value on the device, and in the files.
ITEM_BYTES = 2
FIRST_WORD_ID = 3


@dataclass(frozen=True, slots=True)
class LlamaSize:
    """Llama-2-7B unless told otherwise; ``rank`` is the adapters'."""

    num_layers: int = 32
    hidden_size: int = 4096
    rank: int = 64
    vocab_size: int = 32_000

    def __post_init__(self) -> None:
        if self.hidden_size % 64:
            raise SettingsError("--hidden", f"{self.hidden_size} is no multiple of 64; take 64, 128, … 4096")

    @property
    def name(self) -> str:
        return f"random-llama-{self.num_layers}x{self.hidden_size}-r{self.rank}"

    @property
    def config(self) -> dict[str, int]:
        """The numbers of ``config.json``: heads of 128, or of 16 in a tiny model, each with its own keys."""
        head_dim = 128 if self.hidden_size >= 512 else 16
        num_heads = self.hidden_size // head_dim
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.hidden_size * 43 // 16,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads,
            "head_dim": head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 4096,
        }

    @property
    def num_linear_weights(self) -> int:
        """Of all layers and the head: those that every step reads and every token is multiplied with."""
        layer = sum(rows * columns for rows, columns in linear_sizes(self.config).values())
        return self.num_layers * layer + self.vocab_size * self.hidden_size

    @property
    def num_adapter_weights(self) -> int:
        """Of one adapter."""
        return self.num_layers * self.rank * sum(map(sum, linear_sizes(self.config).values()))

    @property
    def cache_bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.hidden_size * ITEM_BYTES

    def decode_step_bytes(self, concurrency: int, num_adapters: int, context_tokens: float) -> float:
        """What one step must read: weights once, adapters in use once, every sequence's keys and values."""
        weights = self.num_linear_weights + min(concurrency, num_adapters) * self.num_adapter_weights
        return weights * ITEM_BYTES + concurrency * context_tokens * self.cache_bytes_per_token

    def prefill_flops_per_token(self, has_adapter: bool, prompt_tokens: int) -> float:
        """Two per weight, the head left out; and attention to half of the prompt on average."""
        weights = self.num_linear_weights - self.vocab_size * self.hidden_size
        attention = 2 * self.num_layers * self.hidden_size * prompt_tokens
        return 2 * (weights + has_adapter * self.num_adapter_weights) + attention


def write_model(size: LlamaSize, cache_dir: Path) -> Path:
    """A model folder in float16, a file per layer; kept if it is there. 13.5 GB in the default size."""
    folder = cache_dir / "gpu-models" / size.name
    if not folder.exists():
        with whole_folder(folder) as unfinished:
            _write_config(size, unfinished)
            _write_vocabulary(size, unfinished)
            _write_weights(size, unfinished)
    return folder


def write_adapters(size: LlamaSize, count: int, cache_dir: Path) -> list[Path]:
    """PEFT folders of one package; those that are there are kept. 320 MB each in the default size."""
    root = cache_dir / "gpu-adapters" / size.name / "adapters"
    folders = [root / f"gpu-{seed}" for seed in range(count)]
    for seed, folder in enumerate(folders):
        if not folder.exists():
            with whole_folder(folder) as unfinished:
                _write_adapter(size, unfinished, seed)
    return folders


def random_halves(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Random signs and mantissas under one exponent: as fast as random bits."""
    bits = random.integers(0, 1 << 16, shape, dtype=np.uint16) & np.uint16(0x83FF)
    return (bits | np.uint16((15 + WEIGHT_EXPONENT) << 10)).view(np.float16)


def _write_config(size: LlamaSize, folder: Path) -> None:
    config: dict[str, Any] = size.config | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
    }
    config |= {"bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}, indent=2), encoding="utf-8")


def _write_vocabulary(size: LlamaSize, folder: Path) -> None:
    """Words that are one token each, whatever stands beside them."""
    words = ["<unk>", "<s>", "</s>", *(f"w{token_id}" for token_id in range(FIRST_WORD_ID, size.vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: token_id for token_id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _write_weights(size: LlamaSize, folder: Path) -> None:
    random, hidden = np.random.default_rng(0), size.hidden_size
    places: dict[str, str] = {}

    def save(file: str, tensors: dict[str, NDArray[np.float16]]) -> None:
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, file))

    for layer in range(size.num_layers):
        prefix = f"model.layers.{layer}"
        linears = linear_sizes(size.config).items()
        tensors = {f"{prefix}.{place}.weight": random_halves(random, shape) for place, shape in linears}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(hidden, dtype=np.float16)
        save(f"layer-{layer}.safetensors", tensors)
    ends = {
        f"{name}.weight": random_halves(random, (size.vocab_size, hidden)) for name in ("model.embed_tokens", "lm_head")
    }
    save("ends.safetensors", ends | {"model.norm.weight": np.ones(hidden, dtype=np.float16)})
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def _write_adapter(size: LlamaSize, folder: Path, seed: int) -> None:
    random, tensors = np.random.default_rng(seed + 1), {}
    for layer in range(size.num_layers):
        for place, (out_features, in_features) in linear_sizes(size.config).items():
            name = f"base_model.model.model.layers.{layer}.{place}"
            tensors[f"{name}.lora_A.weight"] = random_halves(random, (size.rank, in_features))
            tensors[f"{name}.lora_B.weight"] = random_halves(random, (out_features, size.rank))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = [place.split(".")[1] for place in linear_sizes(size.config)]
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": size.rank, "lora_alpha": size.rank, "bias": "none"}
    config = json.dumps(lora | {"target_modules": targets, "base_model_name_or_path": size.name})
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")
