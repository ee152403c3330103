"""Tune a sentence encoder to tell tasks apart: LoRA on its top layers, in PEFT's format.

Only the top layers learn, as LoRA adapters, so the layers below compute each prompt once. Two classifiers that are
thrown away afterwards set the aim: the task of a prompt, where the sample names one, and its expert. Three epochs:
after the third, prompts of strangers were no longer told apart better.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

NUM_LAYERS = 2
RANK = 32
EPOCHS = 3
BATCH = 32
#: Tokens of a prompt that are learned from; longer ones say no more about their task.
MAX_TOKENS = 160

_LORA_RATE, _HEAD_RATE = 6e-4, 4e-3
_WEIGHT_DECAY = 0.02
_TASK_WEIGHT = 0.5
#: Cosines are multiplied by it before the softmax.
_SHARPNESS = 10.0
#: Prompts that are shortened at random, so that lengths do not tell tasks apart, and the least that is kept of one.
_CUT_SHARE, _MIN_KEPT = 0.3, 12
_TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]

Told = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class Prompt:
    """``task`` is empty where the sample names none."""

    expert: str
    task: str
    text: str


def tune_encoder(folder: Path, prompts: Sequence[Prompt], out: Path, base_name: str, told: Told | None = None) -> None:
    """A quarter of an hour on one CPU core. Same prompts, same adapter, on one kind of machine.

    Args:
        folder: of a BERT sentence encoder.
        prompts: of at least two experts.
        out: folder of the adapter, in PEFT's format; weights in 16 bits.
        base_name: what the adapter says it was made for.
        told: called with steps done, steps in all and the loss of the last one.
    """
    torch.manual_seed(0)
    random.seed(0)
    bert = AutoModel.from_pretrained(folder)
    hidden = _below(bert, AutoTokenizer.from_pretrained(folder), [prompt.text for prompt in prompts])
    model = get_peft_model(bert, _lora_config(bert))
    aim = _Aim(prompts, hidden[0].shape[1])
    _learn(_Tower(model), aim, hidden, told or (lambda done, total, loss: None))
    model.save_pretrained(str(out))
    weights = out / "adapter_model.safetensors"
    save_file({name: x.half() for name, x in load_file(weights).items()}, weights)
    _name_base(out / "adapter_config.json", base_name)


def _lora_config(bert: Any) -> LoraConfig:
    num_layers = len(bert.encoder.layer)
    return LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        lora_dropout=0.1,
        target_modules=_TARGETS,
        layers_to_transform=list(range(num_layers - NUM_LAYERS, num_layers)),
        layers_pattern="layer",
        init_lora_weights="gaussian",
    )


def _name_base(config_file: Path, base_name: str) -> None:
    """A name instead of a folder of this machine, and what PEFT leaves out of order, in order."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])
    config_file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (config_file.parent / "README.md").unlink(missing_ok=True)


class _Tower(nn.Module):
    """The layers that learn: hidden states of a few texts to unit vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._layers = nn.ModuleList(model.base_model.model.encoder.layer[-NUM_LAYERS:])

    def forward(self, texts: Sequence[Tensor]) -> Tensor:
        """``[num_tokens, hidden]`` each to ``[num_texts, hidden]``."""
        states = nn.utils.rnn.pad_sequence(list(texts), batch_first=True).float()
        lengths = torch.tensor([len(text) for text in texts])
        is_token = torch.arange(states.shape[1]) < lengths[:, None]
        states = _through(self._layers, states, is_token)
        means = (states * is_token[..., None]).sum(dim=1) / lengths[:, None]
        return functional.normalize(means, dim=1)


def _through(layers: nn.ModuleList, states: Tensor, is_token: Tensor) -> Tensor:
    mask = torch.zeros(is_token.shape).masked_fill(~is_token, -1e9)[:, None, None, :]
    for layer in layers:
        out = layer(states, attention_mask=mask)
        states = out[0] if isinstance(out, tuple) else out
    return states


@torch.inference_mode()
def _below(bert: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tensor]:
    """What the layers that learn get to see, in 16 bits: ``[num_tokens, hidden]`` of every text."""
    bert.eval()
    lower = nn.ModuleList(bert.encoder.layer[:-NUM_LAYERS])
    hidden = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        states = bert.embeddings(tokens["input_ids"], tokens.get("token_type_ids"))
        hidden.append(_through(lower, states, tokens["attention_mask"].bool())[0].half().clone())
    return hidden


class _Aim(nn.Module):
    """What the vectors are to tell: the expert of a prompt, and its task where it names one."""

    def __init__(self, prompts: Sequence[Prompt], size: int) -> None:
        super().__init__()
        experts = sorted({prompt.expert for prompt in prompts})
        tasks = sorted({prompt.task for prompt in prompts if prompt.task})
        self._experts = torch.tensor([experts.index(prompt.expert) for prompt in prompts])
        # -100 is what cross entropy passes over.
        self._tasks = torch.tensor([tasks.index(prompt.task) if prompt.task else -100 for prompt in prompts])
        weights = 1.0 / torch.bincount(self._experts).float()
        self._weights = weights / weights.mean()
        self._by_expert, self._by_task = nn.Linear(size, len(experts)), nn.Linear(size, max(len(tasks), 1))

    def loss(self, vectors: Tensor, rows: list[int]) -> Tensor:
        """Of the texts in these rows, ``[num_rows, size]``."""
        logits = _SHARPNESS * self._by_expert(vectors)
        loss = functional.cross_entropy(logits, self._experts[rows], weight=self._weights, label_smoothing=0.05)
        if (self._tasks[rows] < 0).all():
            return loss
        logits = _SHARPNESS * self._by_task(vectors)
        return loss + _TASK_WEIGHT * functional.cross_entropy(logits, self._tasks[rows], label_smoothing=0.1)


def _learn(tower: _Tower, aim: _Aim, hidden: Sequence[Tensor], told: Told) -> None:
    lora = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    rates = [_LORA_RATE, _HEAD_RATE]
    groups = [{"params": lora, "lr": _LORA_RATE}, {"params": list(aim.parameters()), "lr": _HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    num_steps = EPOCHS * (len(hidden) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=num_steps, pct_start=0.1)
    tower.train()
    for step, rows in enumerate(_batches(hidden), 1):
        loss = aim.loss(tower([_cut(hidden[row]) for row in rows]), rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        told(step, num_steps, float(loss.detach()))


def _batches(hidden: Sequence[Tensor]) -> Iterator[list[int]]:
    """``EPOCHS`` times all texts in another order, similar lengths together; what fills no batch is left out."""
    for _ in range(EPOCHS):
        order = torch.randperm(len(hidden)).tolist()
        batches = []
        for start in range(0, len(order), 8 * BATCH):
            chunk = sorted(order[start : start + 8 * BATCH], key=lambda row: len(hidden[row]))
            batches += [chunk[i : i + BATCH] for i in range(0, len(chunk) - BATCH + 1, BATCH)]
        random.shuffle(batches)
        yield from batches[: len(hidden) // BATCH]


def _cut(text: Tensor) -> Tensor:
    if random.random() >= _CUT_SHARE:
        return text
    return text[: max(_MIN_KEPT, int(len(text) * random.uniform(0.5, 1.0)))]
