"""Fit the shipped task head and form scale again, from the demo package's routing samples that name a task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.head_inputs import SCALE_FILE, head_inputs, measure_form_scale
from lmoe_ray.routing.task_head import fit_task_head, save_task_head


def build_task_head(routing_data: Path, embedder: Embedder) -> int:
    """Write both files into the program; minutes on a CPU. Answers the number of tasks.

    Args:
        routing_data: folder of ``expert_<name>.jsonl``; rows with a ``task`` count.
        embedder: that of the default settings.
    """
    rows = [
        (f"{file.stem.removeprefix('expert_')}/{row['task']}", row["instruction"])
        for file in sorted(routing_data.glob("expert_*.jsonl"))
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
        if "task" in row
    ]
    tasks, texts = zip(*rows, strict=True)
    np.save(SCALE_FILE, measure_form_scale(texts))
    head = fit_task_head(head_inputs(texts, embedder.embed(texts)), tasks, embedder.identity)
    save_task_head(head)
    return len(head.tasks)
