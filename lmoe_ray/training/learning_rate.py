"""How the learning rate changes in the course of training."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]


def lr_factor(share: float, warmup_ratio: float, schedule: Schedule) -> float:
    """Factor on the learning rate after a ``share`` of training: up linearly, then flat or a half cosine to 0."""
    if share < warmup_ratio:
        return share / warmup_ratio
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warmup_ratio) / (1 - warmup_ratio))))
