"""One optimiser step per batch, on the adapter's weights alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.dataset import Example
from lmoe_ray.training.learning_rate import lr_factor
from lmoe_ray.training.response_loss import response_nll
from lmoe_ray.training.tune_settings import TuneProgress, TuneSettings


@dataclass(slots=True)
class Seen:
    """What training went through; ``nll`` is summed over all target tokens, in nats."""

    num_steps: int = 0
    num_tokens: int = 0
    num_targets: int = 0
    nll: float = 0.0
    elapsed_s: float = 0.0

    @property
    def loss(self) -> float:
        return self.nll / self.num_targets

    def add(self, batch: list[Example], nll: float, num_targets: int) -> None:
        if not math.isfinite(nll):
            raise TrainingDataError("training", f"the loss became {nll} at step {self.num_steps + 1}; lower lr")
        self.num_steps += 1
        self.num_tokens += sum(len(example.ids) for example in batch)
        self.num_targets += num_targets
        self.nll += nll


def train(
    peft_model: Any, plan: list[list[Example]], settings: TuneSettings, progress: Callable[[TuneProgress], None] | None
) -> Seen:
    weights = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    seen, start_s = Seen(), time.monotonic()
    for step, batch in enumerate(plan):
        share_of_time = seen.elapsed_s / settings.max_time_s if settings.max_time_s else 0.0
        if share_of_time >= 1:
            break
        share = max(share_of_time, (step + 0.5) / len(plan))
        lr = settings.lr * lr_factor(share, settings.warmup_ratio, settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr
        nll, num_targets = response_nll(peft_model.get_base_model(), batch)
        torch.autograd.backward(nll / num_targets)
        torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        seen.add(batch, nll.item(), num_targets)
        seen.elapsed_s = time.monotonic() - start_s
        if progress:
            loss = nll.item() / num_targets
            progress(TuneProgress(seen.num_steps, len(plan), loss, lr, seen.num_tokens, seen.elapsed_s))
    return seen
