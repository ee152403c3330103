"""Architectures that transformers computes, over our cache and with our adapters, against transformers and PEFT."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors_torch
from transformers import AutoConfig, AutoModelForCausalLM

from lmoe_ray.domain.package import Expert, LMoEPackage, load_package
from lmoe_ray.engine import adapter_weights, load_model, transformers_model, transformers_probe
from lmoe_ray.engine.base_model import load_base_model
from lmoe_ray.engine.batch import BatchBuilder, Piece
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.loaded_model import FlatModel
from lmoe_ray.errors import BaseMismatch, ModelSourceError, PackageError
from lmoe_ray.settings import EngineSettings
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

CPU, BLOCK_SIZE, FP32 = torch.device("cpu"), 16, torch.float32
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
#: What adapters change in each architecture.
TARGETS = {
    "gemma2": [*ATTENTION, *MLP],
    "gemma3_text": [*ATTENTION, *MLP],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "granite": [*ATTENTION, *MLP],
    "olmo2": [*ATTENTION, *MLP],
    "mixtral": ATTENTION,
    "gpt_oss": ATTENTION,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "long_factor": [2.0] * 8,
    "short_factor": [1.0] * 8,
    "original_max_position_embeddings": 64,
    "factor": 8.0,
}
PROMPTS = ("the quick", "0123456789 " * 5, "USER: hello", "how are you? " * 4, "x", "over the lazy dog")


def load(folder: Path) -> Any:
    return transformers_model.load_transformers_model(folder, dtype=FP32, device=CPU)


def make_adapters(tiny: Any, model: Path, root: Path, targets: list[str]) -> LMoEPackage:
    """Two experts: one by names, with patterns, one by a regular expression, with rsLoRA."""
    ranks = {"rank_pattern": {targets[0]: 5}, "alpha_pattern": {targets[1]: 3}}
    tiny.make_tiny_adapter(model, root / "adapters" / "named", seed=1, rank=3, targets=targets, **ranks)
    tiny.make_tiny_adapter(model, root / "adapters" / "matched", seed=2, rank=2, targets=targets, use_rslora=True)
    config = root / "adapters" / "matched" / "adapter_config.json"
    pattern = rf".*\.({'|'.join(targets)})"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": pattern}))
    return load_package(root)


class Rig:
    """A model with a cache, and the adapters of a package in slots 1, 2, …"""

    def __init__(self, model: Any, experts: tuple[Expert, ...] = (), num_slots: int = 8) -> None:
        cache = KVCache(model.cache_shape, num_blocks=32, block_size=BLOCK_SIZE, dtype=FP32, device=CPU)
        self.model, self.bank = model, model.make_bank(num_slots, 8)
        for slot, expert in enumerate(experts, 1):
            self.bank.load(slot, model.read_adapter(expert, 8))
        self._runner, self._builder = model.make_runner(cache, self.bank), BatchBuilder(CPU, BLOCK_SIZE)

    def run(self, *pieces: Piece, num_decode: int = 0) -> torch.Tensor:
        """Logits of every token."""
        batch = self._builder.assemble(pieces, range(sum(len(piece.ids) for piece in pieces)), num_decode=num_decode)
        with torch.inference_mode():
            logits: torch.Tensor = self._runner.run(batch)
        return logits


def some_ids(seed: int, num_tokens: int = 30) -> list[int]:
    return torch.randint(3, 330, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("family", TARGETS)
async def test_mixed_requests_answer_as_transformers_and_peft_do(
    family: str, tiny: Any, model_folder: Callable[[str], Path], tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    folder = model_folder(family)
    package = make_adapters(tiny, folder, tmp_path, TARGETS[family])
    engine = make_engine(folder, max_batch_tokens=24)
    await asyncio.gather(*(engine.load_adapter(expert) for expert in package.experts))
    experts = [None, *package.experts] * 2
    requests = [oracles.prompt_request(text, text, ignore_eos=True, max_tokens=12) for text in PROMPTS]
    answers = await asyncio.gather(
        *(
            oracles.answer(engine, request, expert and expert.digest)
            for request, expert in zip(requests, experts, strict=True)
        )
    )
    for request, expert, answered in zip(requests, experts, answers, strict=True):
        ids = engine._tokenizer.encode_request(request)
        expected = oracles.reference_greedy(folder, ids, 12, oracles.expert_folder(expert))
        assert answered.ids == expected, f"{request.prompt!r} with {expert and expert.name}"


def test_a_llama_computed_by_transformers_has_the_logits_of_our_own_forward_pass(
    llama: Path, package: LMoEPackage
) -> None:
    flat = FlatModel(load_base_model(llama, max_model_len=64, dtype=FP32, device=CPU), kernel_dir=None)
    rigs = [Rig(model, package.experts) for model in (flat, load(llama))]
    texts = [some_ids(seed) for seed in range(7)]
    rows = [(slot, range(2 * slot, 2 * slot + 2)) for slot in range(7)]
    steps = [
        ([Piece(texts[slot][:20], 0, blocks, slot) for slot, blocks in rows], 0),
        ([Piece(texts[slot][20:21], 20, blocks, slot) for slot, blocks in rows[:4]], 4),
        ([Piece(texts[slot][20 : 21 + slot], 20, blocks, slot) for slot, blocks in rows[4:]], 0),
    ]
    for pieces, num_decode in steps:
        ours, theirs = (rig.run(*pieces, num_decode=num_decode) for rig in rigs)
        assert torch.allclose(ours, theirs, atol=2e-4)


def test_only_logits_that_are_sampled_are_computed(llama: Path) -> None:
    rig, ids = Rig(load(llama)), some_ids(0)
    batch = BatchBuilder(CPU, BLOCK_SIZE).assemble([Piece(ids, 0, range(2), 0)], [4, 29], num_decode=0)
    with torch.inference_mode():
        logits = rig._runner.run(batch)
    assert torch.allclose(logits, oracles.reference_logits(llama, ids)[[4, 29]], atol=1e-4)


def test_an_adapter_leaves_nothing_behind_in_its_slot(llama: Path, package: LMoEPackage) -> None:
    experts = {expert.name: expert for expert in package.experts}
    model, ids = load(llama), some_ids(3)
    used, fresh = Rig(model, (experts["patterned"],)), Rig(model, (experts["attention"],))
    used.bank.load(1, model.read_adapter(experts["attention"], 8))
    assert torch.equal(used.run(Piece(ids, 0, range(2), 1)), fresh.run(Piece(ids, 0, range(2), 1)))


def test_a_bank_costs_what_all_its_matrices_hold(llama: Path, package: LMoEPackage) -> None:
    model = load(llama)
    widest = model.read_adapter(next(e for e in package.experts if e.name == "code"), 8)
    assert widest.rank == 2
    assert model.bank_bytes(3, 2) == 3 * widest.num_bytes


def test_it_says_who_computes_and_what_that_costs(
    model_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(model_folder("olmo2"))
    assert "architecture Olmo2ForCausalLM is computed by transformers' own class" in caplog.text
    assert "slower" in caplog.text


def settings() -> EngineSettings:
    return EngineSettings(dtype="float32", device="cpu", max_model_len=128, use_kernels=False)


@pytest.mark.parametrize(("family", "expected"), [("llama", "FlatModel"), ("olmo2", "TransformersModel")])
def test_our_own_forward_pass_is_chosen_where_there_is_one(
    family: str, expected: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    assert type(load_model.load_model(model_folder(family), settings(), tmp_path)).__name__ == expected


def test_a_llama_with_a_rotation_we_do_not_know_is_left_to_transformers(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.make_tiny_model(tmp_path / "model", "llama", rope_parameters=LONGROPE)
    model = load_model.load_model(folder, settings(), tmp_path)
    assert isinstance(model, transformers_model.TransformersModel)
    # Above, one long request would change how all others are rotated.
    assert model.max_positions == 64
    ids = some_ids(5)
    assert torch.allclose(Rig(model).run(Piece(ids, 0, range(2), 0)), oracles.reference_logits(folder, ids), atol=1e-4)


def test_a_quantised_llama_is_left_to_transformers(llama: Path) -> None:
    config = AutoConfig.from_pretrained(llama)
    assert load_model.is_of_the_family(config)
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert not load_model.is_of_the_family(config)


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        ("t5", "is an encoder with a decoder"),
        ("mamba", "has layers of kind linear_attention; choose a base model"),
        ("llama4_text", "has layers of kind chunked_attention"),
        ("rwkv", "keeps a state beside keys and values"),
        ("bloom", "BloomForCausalLM lets nobody else compute attention; choose a base model"),
        ("vit", "transformers has no vit that generates"),
    ],
)
def test_architectures_the_cache_cannot_hold_are_refused_before_weights_are_read(
    family: str, problem: str, tmp_path: Path
) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ModelSourceError, match=problem):
        load(tmp_path)


def test_keys_and_values_of_different_shapes_are_refused(tiny: Any, tmp_path: Path) -> None:
    latent = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    dense = {"first_k_dense_replace": 2, "num_key_value_heads": 4}
    config = AutoConfig.for_model(
        "deepseek_v3", vocab_size=330, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, **dense, **latent,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelSourceError, match="keys and values of different shapes"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.norm.weight": None}, "are missing, such as 'model.norm.weight'"),
        ({"model.norm.weight": torch.ones(63)}, "cannot load it|are misshapen"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "are left over, such as 'model.layers.0"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_configuration_is_refused(
    changes: dict[str, Any], problem: str, tiny: Any, tmp_path: Path
) -> None:
    folder = tiny.make_tiny_model(tmp_path, "olmo2")
    file = folder / "model.safetensors"
    tensors = {k: v for k, v in (safetensors_torch.load_file(file) | changes).items() if v is not None}
    safetensors_torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelSourceError, match=problem):
        load(folder)


def changed_llama(llama: Path, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Any:
    """transformers' model whose first MLP computes something else; ``forward`` gets the original and the input."""
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=FP32, attn_implementation="eager")
    original = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: forward(original, x)
    return model


def test_a_class_that_remembers_more_than_keys_and_values_is_refused(llama: Path) -> None:
    model = changed_llama(llama, lambda mlp, x: mlp(x.cumsum(1)))
    with pytest.raises(ModelSourceError, match="computed in pieces, its logits differ by"):
        transformers_model.TransformersModel(llama, model, 512)


def test_a_class_that_fails_is_refused(llama: Path) -> None:
    model = changed_llama(llama, lambda mlp, x: mlp(x[..., :3]))
    with pytest.raises(ModelSourceError, match="fails on a few tokens: RuntimeError"):
        transformers_model.TransformersModel(llama, model, 512)


def test_linears_that_do_not_see_every_token_take_no_adapters(llama: Path, package: LMoEPackage) -> None:
    model = changed_llama(llama, lambda mlp, x: torch.cat((mlp(x[:, :9]), x[:, 9:]), 1))
    adaptable = transformers_probe.probe(llama, model).adaptable
    assert "model.layers.0.mlp.up_proj" not in adaptable.linears
    assert "model.layers.1.mlp.up_proj" in adaptable.linears
    with pytest.raises(PackageError, match="is LoRA of a linear that does not see every token"):
        adapter_weights.read_weights(package.experts[1], adaptable, max_rank=8, dtype=FP32)


def test_gpt2s_convolutions_take_no_adapters(tiny: Any, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("gpt2")
    tiny.make_tiny_adapter(folder, tmp_path / "adapters" / "code", seed=1, targets=["c_attn"], fan_in_fan_out=True)
    model, ids = load(folder), some_ids(1)
    with pytest.raises(PackageError, match=r"is LoRA of a Conv1D, .*; choose a base with linears"):
        model.read_adapter(load_package(tmp_path).experts[0], 8)
    assert torch.allclose(Rig(model).run(Piece(ids, 0, range(2), 0)), oracles.reference_logits(folder, ids), atol=1e-4)


def test_an_adapter_of_another_architecture_is_refused(
    model_folder: Callable[[str], Path], package: LMoEPackage
) -> None:
    with pytest.raises(BaseMismatch, match="is not LoRA of a linear the base model has"):
        load(model_folder("phi3")).read_adapter(package.experts[0], 8)


def test_an_adapter_for_all_linears_means_all_but_the_head(
    tiny: Any, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_folder("gpt_neox")
    tiny.make_tiny_adapter(folder, tmp_path / "adapters" / "code", seed=1, targets="all-linear")
    [expert] = load_package(tmp_path).experts
    model = load(folder)
    everything = replace(expert, lora=replace(expert.lora, targets="all-linear"))
    assert len(model.read_adapter(everything, 8).matrices) == 8
    assert model.read_adapter(expert, 8).matrices.keys() == model.read_adapter(everything, 8).matrices.keys()
