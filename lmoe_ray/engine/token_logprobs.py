"""Log-probabilities of sampled tokens and of the likeliest beside them, as one block of numbers on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows

import torch

from lmoe_ray.engine.logits import SampleRow, upload


def read_logprobs(logits: torch.Tensor, token_ids: torch.Tensor, rows: Rows[SampleRow]) -> torch.Tensor | None:
    """What the rows asked for.

    Args:
        logits: ``[num_rows, vocab_size]``, float32.
        token_ids: the picked ones, ``[num_rows]``.

    Returns:
        ``[1 + 2 * num_top, num_rows]``, float64: of the picked token, NaN in rows that did not ask; then ids of the
        likeliest tokens in descending order; then theirs, NaN beyond what a row asked for. ``None`` if no row asked.
    """
    asked = [at for at, row in enumerate(rows) if row.sequence.sampling.logprobs]
    if not asked:
        return None
    at = upload(asked, torch.int64, logits.device)
    wanted = [rows[row].sequence.sampling.top_logprobs for row in asked]
    num_top = min(max(wanted), logits.shape[-1])
    table = torch.full((1 + 2 * num_top, len(rows)), math.nan, dtype=torch.float64, device=logits.device)
    logprobs = logits[at].log_softmax(-1)
    table[0, at] = logprobs.gather(-1, token_ids[at, None])[:, 0].double()
    if num_top:
        top = logprobs.topk(num_top)
        is_wanted = torch.arange(num_top, device=logits.device) < upload(wanted, torch.int64, logits.device)[:, None]
        table[1 : 1 + num_top, at] = top.indices.T.double()
        table[1 + num_top :, at] = top.values.where(is_wanted, math.nan).T.double()
    return table
