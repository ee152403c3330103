"""The base as QLoRA saw it: 16 values a block, everything but linear weights untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmoe_ray.pretrained.model_source import round_through_nf4
from lmoe_ray.pretrained.nf4_rounding import NF4_VALUES, dynamic_code, round_model, round_weight
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.torch,
    # transformers' own calls, not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_a_block_of_representable_values_stays_as_it_is() -> None:
    weight = 3 * torch.tensor(NF4_VALUES).repeat(4)[None]

    assert torch.allclose(round_weight(weight, double_quant=False), weight, rtol=1e-6)


def test_a_value_moves_to_the_nearest_of_sixteen() -> None:
    weight = torch.tensor([1.0, 0.9, 0.8, 0.1, -0.04, -0.05])

    rounded = round_weight(weight, double_quant=False)

    assert rounded.tolist() == pytest.approx([1.0, 1.0, 0.72295684, 0.0795803, 0.0, -0.09105004])


def test_every_block_has_its_own_scale() -> None:
    weight = torch.cat([torch.full((64,), 0.001), torch.full((64,), 50.0), torch.zeros(10)])

    assert torch.allclose(round_weight(weight, double_quant=False), weight)


def test_rounding_twice_changes_nothing_more() -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    once = round_weight(weight, double_quant=False)

    assert torch.allclose(round_weight(once, double_quant=False), once, atol=1e-6)


def test_the_error_on_normal_weights_is_that_of_four_bits() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))

    for double_quant in (False, True):
        error = ((round_weight(weight, double_quant=double_quant) - weight).norm() / weight.norm()).item()
        assert 0.08 < error < 0.11


def test_double_quantisation_moves_the_scales_a_little() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    single, double = round_weight(weight, double_quant=False), round_weight(weight)

    assert not torch.equal(single, double)
    assert (single - double).norm() / single.norm() < 0.02


def test_the_scales_code_is_the_dynamic_tree() -> None:
    code = dynamic_code()

    assert len(code) == 256
    assert torch.equal(code, code.sort().values)
    assert len(code.unique()) == 256
    assert code[-1] == 1.0
    assert code[0].item() == pytest.approx(-0.9929688)
    assert code.abs().sort().values[1].item() == pytest.approx(0.55e-6)


def test_dtype_and_shape_stay(tmp_path: Path) -> None:
    rounded = round_weight(torch.randn(3, 5, 7).to(torch.bfloat16))

    assert rounded.shape == (3, 5, 7)
    assert rounded.dtype == torch.bfloat16


def test_linear_weights_are_rounded_and_all_else_is_kept(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "m", "qwen2")
    (tmp_path / "out").mkdir()

    round_model(tmp_path / "m", tmp_path / "out")

    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "out"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert "model.layers.0.self_attn.q_proj.bias" in before
    assert "lm_head.weight" in before
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }


def test_rounded_models_are_kept_by_content_not_by_name(tmp_path: Path) -> None:
    first = make_tiny_model(tmp_path / "a" / "hf", seed=1)
    second = make_tiny_model(tmp_path / "b" / "hf", seed=2)

    folders = [round_through_nf4(folder, tmp_path / "cache") for folder in (first, second)]

    assert folders[0] != folders[1]
    stamp = (folders[0] / "model.safetensors").stat().st_mtime_ns
    assert round_through_nf4(first, tmp_path / "cache") == folders[0]
    assert (folders[0] / "model.safetensors").stat().st_mtime_ns == stamp
