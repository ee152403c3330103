"""Fit the shipped task head and form scale again, from the demo package's routing samples that name a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.head_inputs import SCALE_FILE, head_inputs, measure_form_scale
from lmoe_ray.routing.query import sample_text
from lmoe_ray.routing.task_head import fit_task_head, save_task_head
from lmoe_ray.training.tune_encoder import Prompt


def read_task_prompts(routing_data: Path) -> list[Prompt]:
    """Every sample of ``expert_<name>.jsonl``; a task is named together with its expert, and empty where none is."""
    prompts = []
    for file in sorted(routing_data.glob("expert_*.jsonl")):
        expert = file.stem.removeprefix("expert_")
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            task = f"{expert}/{row['task']}" if "task" in row else ""
            prompts.append(Prompt(expert, task, sample_text(row["instruction"])))
    return prompts


def build_task_head(prompts: Sequence[Prompt], embedder: Embedder) -> int:
    """Write both files into the program; minutes on a CPU. Answers the number of tasks.

    Args:
        prompts: those that name a task count; all of them are noted as seen, for the embedder was tuned on them.
        embedder: that of the default settings.
    """
    texts = [prompt.text for prompt in prompts if prompt.task]
    np.save(SCALE_FILE, measure_form_scale(texts))
    inputs = head_inputs(texts, embedder.embed(texts))
    tasks = [prompt.task for prompt in prompts if prompt.task]
    head = fit_task_head(inputs, [prompt.text for prompt in prompts], tasks, embedder.space)
    save_task_head(head)
    return len(head.tasks)
