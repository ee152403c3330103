"""Models small enough to build on disk in a second: random weights, a real tokenizer, PEFT adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog", "USER: hello ASSISTANT: how are you?", "0123456789 {}[]()"]

#: Extra configuration per family; the rest is shared and tiny.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "gemma": {"head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": True},
    # Not of the Llama family: transformers computes them.
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"sliding_window": 8, "pad_token_id": 0},
    "gpt_neox": {},
    "gpt2": {},
    "granite": {"attention_multiplier": 0.2, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"head_dim": 16, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_tiny_model(folder: Path, family: str = "llama", seed: int = 0, **overrides: Any) -> Path:
    """A two-layer fp32 model of ``family`` with 4 query and 2 key-value heads, saved as safetensors."""
    tokenizer = make_tiny_tokenizer(folder)
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": None,
            **FAMILIES[family],
            **overrides,
        },
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def make_tiny_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE with 400 entries: any text round-trips, most characters are several tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_tiny_adapter(
    model_folder: Path, folder: Path, *, seed: int, rank: int = 4, targets: list[str] | None = None, **config: Any
) -> Path:
    """A PEFT LoRA adapter whose B matrices are random, so that it visibly acts."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets or LINEARS, task_type="CAUSAL_LM", **config)
    peft_model = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    peft_model.save_pretrained(folder)
    return folder


def make_tiny_package(
    root: Path, model_folder: Path, names: tuple[str, ...] = ("code", "creative", "reasoning")
) -> Path:
    """An LMoE package of experts with ranks 2, 3, 4 …, descriptions and three routing samples each."""
    for seed, name in enumerate(names):
        folder = make_tiny_adapter(model_folder, root / "adapters" / name, seed=seed + 1, rank=seed + 2)
        (folder / "description.txt").write_text(f"Answers questions about {name}.\n")
        lines = [json.dumps({"instruction": f"{verb} some {name} for me"}) for verb in ("write", "explain", "improve")]
        samples = root / "routing_data" / f"expert_{name}.jsonl"
        samples.parent.mkdir(parents=True, exist_ok=True)
        samples.write_text("\n".join(lines) + "\n")
    return root
