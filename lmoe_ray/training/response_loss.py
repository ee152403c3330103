"""Cross-entropy of the answer's tokens, computed without the prompt's logits.

A vocabulary is far wider than a hidden state (49152 against 576 here), so the body runs over the whole
batch, and the output layer only over the positions that predict an answer's token. Rows are padded on
the right: under causal attention no real token sees the padding, so no attention mask is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.dataset import Example


def response_nll(model: Any, batch: Sequence[Example]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood of a batch's target tokens, in nats, with their number.

    Args:
        model: a transformers causal language model, bare or with PEFT layers inside (not the PEFT wrapper).
        batch: examples, each with at least one prompt token.

    Returns:
        A scalar with gradient, and ``num_targets``.
    """
    device = next(model.parameters()).device
    ids = pad_right(batch, device)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    predicting, targets = _target_positions(batch, ids)
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[predicting])
    return F.cross_entropy(logits.float(), targets, reduction="sum"), len(targets)


def pad_right(batch: Sequence[Example], device: torch.device | str) -> torch.Tensor:
    """Token ids ``[num_rows, longest]``, int64; short rows end in zeros."""
    longest = max(len(example.ids) for example in batch)
    return torch.tensor([[*e.ids, *[0] * (longest - len(e.ids))] for e in batch], device=device)


def _target_positions(batch: Sequence[Example], ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat positions whose next token is a target, and those tokens; both ``[num_targets]``."""
    width = ids.shape[1]
    spans = [
        torch.arange(row * width + example.num_prompt, row * width + len(example.ids))
        for row, example in enumerate(batch)
    ]
    positions = torch.cat(spans).to(ids.device)
    return positions - 1, ids.flatten()[positions]


@torch.no_grad()
def mean_nll(model: Any, batches: Sequence[Sequence[Example]]) -> float:
    """Mean nats per answer token over all batches, every token weighing the same."""
    total, num_targets = 0.0, 0
    for batch in batches:
        nll, count = response_nll(model, batch)
        total += nll.item()
        num_targets += count
    return total / num_targets


@torch.no_grad()
def check_head(model: Any, example: Example) -> None:
    """Refuse models whose logits are more than the output layer's product (soft caps, scaled logits).

    Raises:
        TrainingDataError: naming the model class. Costs one short forward pass.
    """
    ids = pad_right([example], next(model.parameters()).device)[:, :32]
    whole = model(input_ids=ids, use_cache=False).logits
    ours = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(whole, ours, rtol=1e-2, atol=1e-2):
        raise TrainingDataError(
            type(model).__name__, "changes its logits after the output layer, which tuning does not follow"
        )
