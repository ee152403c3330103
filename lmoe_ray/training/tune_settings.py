"""What tuning is told, what it tells on the way, and what it reports in the end.

Source of the defaults' shape (all linear layers, no weight decay, clipped gradients): QLoRA, Dettmers et al.
2023, arXiv:2305.14314, as the predecessor used it. The rate is ten times higher, because rank and token
budget are small: of 1e-3 and 3e-3 the latter left less loss on held-out rows after 13 to 15 thousand tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import SettingsError
from lmoe_ray.training.learning_rate import Schedule

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How an expert is tuned.

    Attributes:
        targets: suffixes of the linear modules that get an adapter.
        max_tokens: longest prompt plus answer.
        batch_tokens: cells (rows × longest row) of one step.
        max_tokens_seen: training ends after so many tokens, prompts included; 0: after ``epochs``.
        max_time_s: training ends after so long; the schedule then ends there too. 0: no limit. A limit
            that is reached makes the result depend on the machine's speed.
        warmup_ratio: share of the steps over which the learning rate rises.
        schedule: of the learning rate after the warm-up.
        dtype: of the base, and of the arithmetic.
        num_threads: CPU threads; 0 leaves torch's choice.
    """

    rank: int = 4
    alpha: int = 8
    targets: tuple[str, ...] = LINEARS
    dropout: float = 0.0
    lr: float = 3e-3
    epochs: int = 1
    max_tokens: int = 512
    batch_tokens: int = 2048
    max_tokens_seen: int = 0
    max_time_s: float = 0.0
    warmup_ratio: float = 0.05
    schedule: Schedule = "cosine"
    max_grad_norm: float = 1.0
    seed: int = 11422
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = 0
    prompt_format: PromptFormat = PromptFormat.CHAT

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "max_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"tune.{name}", f"is {getattr(self, name)}, must be at least 1")


@dataclass(frozen=True, slots=True)
class TuneProgress:
    """State after one step; ``loss`` is that step's mean nats per answer token."""

    step: int
    num_steps: int
    loss: float
    lr: float
    num_tokens_seen: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What tuning did; losses are mean nats per answer token, ``None`` without held-out rows."""

    num_examples: int
    num_cut: int
    num_dropped: int
    num_steps: int
    num_tokens_seen: int
    num_targets_seen: int
    train_loss: float
    heldout_loss_before: float | None
    heldout_loss_after: float | None
    num_heldout_targets: int
    num_parameters: int
    tokens_per_s: float
    elapsed_s: float
    device: str
