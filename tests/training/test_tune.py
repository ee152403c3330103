"""Tuning learns, touches nothing but the adapter, and writes what PEFT reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmoe_ray.domain.lora_config import parse_lora_config
from lmoe_ray.errors import SettingsError, TrainingDataError
from lmoe_ray.training.dataset import encode_rows, make_batches
from lmoe_ray.training.instruct_rows import InstructRow
from lmoe_ray.training.learning_rate import Schedule, lr_factor
from lmoe_ray.training.response_loss import mean_nll
from lmoe_ray.training.tune import TuneProgress, TuneReport, TuneSettings, tune
from tests.tiny import LINEARS, make_tiny_model

pytestmark = [
    pytest.mark.torch,
    # transformers and PEFT among themselves.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

ROWS = [InstructRow("c", f"what follows {i}?", f"after {i} comes {i + 1}") for i in range(12)]
FAST = TuneSettings(rank=4, alpha=8, lr=1e-2, epochs=8, batch_tokens=256, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def run(model_folder: Path, out: Path, settings: TuneSettings = FAST, rows: list[InstructRow] = ROWS) -> TuneReport:
    return tune(model_folder, rows, rows[:4], out, settings, base_name="tiny")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_set_that_can_be_learnt_by_heart_is_learnt(model_folder: Path, tmp_path: Path, dtype: str) -> None:
    report = run(model_folder, tmp_path / "a", replace(FAST, dtype=dtype))

    assert report.heldout_loss_before is not None
    assert report.heldout_loss_after is not None
    assert report.heldout_loss_after < 0.6 * report.heldout_loss_before
    assert report.num_examples == 12
    assert report.num_heldout_targets > 0


def test_the_base_is_not_written_to(model_folder: Path, tmp_path: Path) -> None:
    before = load_file(model_folder / "model.safetensors")
    run(model_folder, tmp_path / "a")

    after = load_file(model_folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all("lora_" in name for name in load_file(tmp_path / "a" / "adapter_model.safetensors"))


def test_the_reported_loss_is_that_of_the_file_read_by_peft(model_folder: Path, tmp_path: Path) -> None:
    report = run(model_folder, tmp_path / "a")

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    peft_model = PeftModel.from_pretrained(model, tmp_path / "a").eval()
    data = encode_rows(ROWS[:4], AutoTokenizer.from_pretrained(model_folder), FAST.prompt_format, FAST.max_tokens)
    loss = mean_nll(peft_model.get_base_model(), make_batches(data.examples, 256, 0))
    assert report.heldout_loss_after == pytest.approx(loss, rel=1e-5)


def test_the_folder_is_a_clean_adapter(model_folder: Path, tmp_path: Path) -> None:
    run(model_folder, tmp_path / "deep" / "a")

    assert sorted(p.name for p in (tmp_path / "deep").rglob("*")) == [
        "a",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "deep" / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == sorted(LINEARS)
    assert parse_lora_config(tmp_path / "deep" / "a" / "adapter_config.json").rank == 4
    tensors = load_file(tmp_path / "deep" / "a" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert len(tensors) == 2 * 2 * 7


def test_equal_seeds_give_equal_files_and_others_differ(model_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(model_folder, tmp_path / name, replace(FAST, epochs=1, seed=seed))

    a, b, c = (
        [(tmp_path / name / file).read_bytes() for file in ("adapter_config.json", "adapter_model.safetensors")]
        for name in "abc"
    )
    assert a == b
    assert a[1] != c[1]


def test_training_ends_at_the_token_limit(model_folder: Path, tmp_path: Path) -> None:
    whole = run(model_folder, tmp_path / "a", replace(FAST, epochs=3))
    half = run(model_folder, tmp_path / "b", replace(FAST, epochs=3, max_tokens_seen=whole.num_tokens_seen // 2))

    assert 0 < half.num_tokens_seen - whole.num_tokens_seen // 2 <= 256
    assert half.num_steps < whole.num_steps


def test_training_ends_at_the_time_limit_after_at_least_one_step(model_folder: Path, tmp_path: Path) -> None:
    report = run(model_folder, tmp_path / "a", replace(FAST, epochs=1000, max_time_s=0.001, num_threads=1))

    assert report.num_steps == 1


def test_progress_is_told_after_every_step(model_folder: Path, tmp_path: Path) -> None:
    seen: list[TuneProgress] = []

    report = tune(model_folder, ROWS, [], tmp_path / "a", replace(FAST, epochs=2), base_name="x", progress=seen.append)

    assert [p.step for p in seen] == list(range(1, report.num_steps + 1))
    assert seen[-1].num_tokens_seen == report.num_tokens_seen
    assert seen[-1].num_steps == report.num_steps
    assert report.heldout_loss_before is None
    assert report.heldout_loss_after is None
    assert report.tokens_per_s > 0


def test_a_folder_with_other_things_in_it_is_not_replaced(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(TrainingDataError, match="choose a new or empty folder"):
        run(model_folder, tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_fails_leaves_no_adapter(model_folder: Path, tmp_path: Path) -> None:
    def stop(_: TuneProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(model_folder, ROWS, [], tmp_path / "a", FAST, base_name="x", progress=stop)

    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["rank", "epochs", "max_tokens", "batch_tokens"])
def test_a_setting_below_its_bound_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"tune\.{name}: is 0, must be at least 1"):
        replace(FAST, **{name: 0})  # type: ignore[arg-type]


def test_targets_the_model_does_not_have_are_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"targets: .*name linear modules of this model"):
        run(model_folder, tmp_path / "a", replace(FAST, targets=("c_attn",)))


def test_a_loss_that_explodes_ends_training(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"the loss became .* at step 2; lower lr"):
        run(model_folder, tmp_path / "a", replace(FAST, lr=1e30, warmup_ratio=0.0))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("share", "schedule", "factor"),
    [
        (0.05, "cosine", 0.5),
        (0.1, "cosine", 1.0),
        (0.55, "cosine", 0.5),
        (1.0, "cosine", 0.0),
        (1.2, "cosine", 0.0),
        (0.05, "constant", 0.5),
        (0.9, "constant", 1.0),
    ],
)
def test_the_learning_rate_rises_and_then_falls_or_stays(share: float, schedule: Schedule, factor: float) -> None:
    assert lr_factor(share, 0.1, schedule) == pytest.approx(factor)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert lr_factor(0.0, 0.0, "cosine") == 1.0


@pytest.mark.gpu
def test_tuning_learns_on_a_gpu_too(model_folder: Path, tmp_path: Path) -> None:
    report = run(model_folder, tmp_path / "a", replace(FAST, dtype="bfloat16", device="cuda"))

    assert report.device == "cuda"
    assert report.heldout_loss_after is not None
    assert report.heldout_loss_before is not None
    assert report.heldout_loss_after < 0.6 * report.heldout_loss_before
