"""What each adapter is worth: mean nats per answer token, of the base and every adapter, on every held-out set.

The same batches and masks for all of them; a model is loaded once and adapters are switched on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer

from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.dataset import Example, encode_rows, make_batches
from lmoe_ray.training.frozen_base import arithmetic, load_base, pick_device
from lmoe_ray.training.instruct_rows import InstructRow, read_rows
from lmoe_ray.training.response_loss import check_head, mean_nll
from lmoe_ray.training.segment import CATEGORIES

BASE = "base"


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """As the adapters were tuned; see ``TuneSettings``."""

    max_tokens: int = 512
    batch_tokens: int = 2048
    dtype: str = "bfloat16"
    device: str = "auto"
    num_threads: int = 0
    prompt_format: PromptFormat = PromptFormat.CHAT


@dataclass(frozen=True, slots=True)
class LossTable:
    """Losses in nats per answer token.

    Attributes:
        losses: adapter name, or ``base`` → name of a held-out set → loss.
        num_targets: answer tokens behind each column.
    """

    losses: Mapping[str, Mapping[str, float]]
    num_targets: Mapping[str, int]

    def gain(self, adapter: str, rows_of: str) -> float:
        """How many nats per token the adapter saves against the base; above 0 is better."""
        return self.losses[BASE][rows_of] - self.losses[adapter][rows_of]


def evaluate(
    model_folder: Path,
    adapters: Mapping[str, Path],
    heldout: Mapping[str, Sequence[InstructRow]],
    settings: EvaluateSettings | None = None,
    *,
    progress: Callable[[str, str, float], None] | None = None,
) -> LossTable:
    """Measure the base and every adapter on every held-out set.

    Args:
        model_folder: base model with its tokenizer.
        adapters: name → PEFT folder; ``base`` is not a name of an adapter.
        heldout: name of a set, usually an expert → its rows; sets without rows are left out.
        settings: see there.
        progress: called with adapter, set and loss after each measurement.

    Raises:
        TrainingDataError: if rows, a name or the model cannot be used.
    """
    settings = settings or EvaluateSettings()
    if BASE in adapters:
        raise TrainingDataError(BASE, "names the base model in the table; rename the adapter")
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    sets = {name: _batches(rows, tokenizer, settings) for name, rows in heldout.items() if rows}
    device = pick_device(settings.device)
    model = load_base(model_folder, settings.dtype, device)
    for batches in list(sets.values())[:1]:
        check_head(model, batches[0][0])
    losses: dict[str, dict[str, float]] = {}

    def measure(adapter: str, measured: Any) -> None:
        losses[adapter] = {}
        for name, batches in sets.items():
            losses[adapter][name] = mean_nll(measured, batches)
            if progress:
                progress(adapter, name, losses[adapter][name])

    with arithmetic(settings.dtype, device):
        measure(BASE, model)
        for name, peft_model in _with_each(model, adapters):
            measure(name, peft_model.get_base_model())
    return LossTable(losses, {name: sum(e.num_targets for b in batches for e in b) for name, batches in sets.items()})


def heldout_by_expert(data: Path) -> dict[str, tuple[InstructRow, ...]]:
    """Rows by the expert they belong to.

    Args:
        data: a file whose rows are dealt out by their category, or a folder of ``expert_<name>.jsonl``.

    Raises:
        TrainingDataError: a file cannot be used, or holds no row of any expert's category.
    """
    if data.is_dir():
        found = {f.stem.removeprefix("expert_"): read_rows(f) for f in sorted(data.glob("expert_*.jsonl"))}
    else:
        rows = read_rows(data)
        dealt = {expert: tuple(r for r in rows if r.category in own) for expert, own in CATEGORIES.items()}
        found = {expert: own for expert, own in dealt.items() if own}
    if not found:
        raise TrainingDataError(str(data), f"holds no rows of the experts {', '.join(CATEGORIES)}")
    return found


def _batches(rows: Sequence[InstructRow], tokenizer: Any, settings: EvaluateSettings) -> list[list[Example]]:
    dataset = encode_rows(rows, tokenizer, settings.prompt_format, settings.max_tokens)
    return make_batches(dataset.examples, settings.batch_tokens, seed=0)


def _with_each(model: Any, adapters: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
    """The model with one adapter after the other switched on."""
    peft_model: Any = None
    for name, folder in adapters.items():
        if peft_model is None:
            peft_model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            peft_model.load_adapter(folder, adapter_name=name)
        peft_model.set_adapter(name)
        yield name, peft_model.eval()
