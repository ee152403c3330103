"""LoRA-tune one expert: rows in, a PEFT adapter folder out, with only the adapter's weights moving.

The base stays in its dtype and is never written to; A and B are kept in float32, autocast computes with
their bfloat16 copies. The adapter is rounded to bfloat16 before the last measurement, so the reported
loss is that of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoTokenizer

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.pretrained.whole_folder import may_replace
from lmoe_ray.training.adapter_files import add_adapter, round_adapter, write_adapter
from lmoe_ray.training.dataset import Dataset, Example, encode_rows, make_batches, make_epochs
from lmoe_ray.training.frozen_base import arithmetic, load_base, pick_device
from lmoe_ray.training.instruct_rows import InstructRow
from lmoe_ray.training.response_loss import check_head, mean_nll
from lmoe_ray.training.training_loop import Seen, train
from lmoe_ray.training.tune_settings import TuneProgress, TuneReport, TuneSettings

__all__ = ["TuneProgress", "TuneReport", "TuneSettings", "tune"]


def tune(
    model_folder: Path,
    rows: Sequence[InstructRow],
    heldout_rows: Sequence[InstructRow],
    out_folder: Path,
    settings: TuneSettings,
    *,
    base_name: str,
    progress: Callable[[TuneProgress], None] | None = None,
) -> TuneReport:
    """Tune an adapter on ``rows`` and write it as a PEFT folder.

    Args:
        model_folder: base model in Hugging Face layout, with its tokenizer.
        rows: what to learn.
        heldout_rows: measured before and after, never learned; may be empty.
        out_folder: appears only when the adapter is complete; an older adapter is replaced.
        settings: see there. Equal settings, rows and thread count give equal weights on one machine.
        base_name: name written into ``adapter_config.json`` as the base model.
        progress: called after every step.

    Raises:
        TrainingDataError: if the rows or the model cannot be used, or ``out_folder`` holds other things.
    """
    if not may_replace(out_folder, "adapter_config.json"):
        raise TrainingDataError(str(out_folder), "holds something else than an adapter; choose a new or empty folder")
    device = pick_device(settings.device)
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    data = encode_rows(rows, tokenizer, settings.prompt_format, settings.max_tokens)
    heldout = _heldout_batches(heldout_rows, tokenizer, settings)
    plan = make_epochs(data.examples, settings.batch_tokens, settings.seed, settings.epochs, settings.max_tokens_seen)
    model = load_base(model_folder, settings.dtype, device)
    check_head(model, data.examples[0])
    with arithmetic(settings.dtype, device):
        before = mean_nll(model, heldout) if heldout else None
        peft_model = add_adapter(model, _lora_config(settings), settings.seed)
        seen = train(peft_model, plan, settings, progress)
        round_adapter(peft_model)
        peft_model.eval()
        after = mean_nll(peft_model.get_base_model(), heldout) if heldout else None
    write_adapter(peft_model, out_folder, base_name)
    num_parameters = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    num_heldout_targets = sum(example.num_targets for batch in heldout for example in batch)
    return _report(data, seen, before, after, num_heldout_targets, num_parameters, str(device))


def _report(
    data: Dataset,
    seen: Seen,
    before: float | None,
    after: float | None,
    num_heldout_targets: int,
    num_parameters: int,
    device: str,
) -> TuneReport:
    return TuneReport(
        num_examples=len(data.examples),
        num_cut=data.num_cut,
        num_dropped=data.num_dropped,
        num_steps=seen.num_steps,
        num_tokens_seen=seen.num_tokens,
        num_targets_seen=seen.num_targets,
        train_loss=seen.loss,
        heldout_loss_before=before,
        heldout_loss_after=after,
        num_heldout_targets=num_heldout_targets,
        num_parameters=num_parameters,
        tokens_per_s=seen.num_tokens / seen.elapsed_s,
        elapsed_s=seen.elapsed_s,
        device=device,
    )


def _heldout_batches(rows: Sequence[InstructRow], tokenizer: Any, settings: TuneSettings) -> list[list[Example]]:
    if not rows:
        return []
    dataset = encode_rows(rows, tokenizer, settings.prompt_format, settings.max_tokens)
    return make_batches(dataset.examples, settings.batch_tokens, settings.seed)


def _lora_config(settings: TuneSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
