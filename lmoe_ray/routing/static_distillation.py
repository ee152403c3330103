"""A vector per vocabulary token, taken from a sentence encoder, so that a text's vector is a sum of looked-up rows.

First every token goes alone through the encoder; the vectors are centred, and weighted so that frequent
tokens count less (Model2Vec, Tulkens and van Dongen 2024, with the weighting a / (a + p) of Arora et al., ICLR
2017). Then the rows are moved so that the sums for given texts, best those that will be searched, point
where the encoder's vectors do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lmoe_ray.routing.sentence_encoder import Forward, encode_together, pass_by_pass

#: A token of this probability counts half.
HALF_WEIGHT_PROBABILITY = 1e-4

# A second pass over the texts still brings gain on others, a third does not.
EPOCHS = 2
LEARNING_RATE = 1e-3
BATCH_TEXTS = 64

Table = NDArray[np.float32]
Ids = NDArray[np.int32]


def distil(forward: Forward, vocabulary: Mapping[str, int], texts: Sequence[Ids], empty: Ids) -> Table:
    """The table ``[vocabulary, dim]``; half a minute on one CPU thread, and 20 ms for each text.

    Args:
        forward: the encoder.
        vocabulary: tokens and their ids.
        texts: token ids of texts to learn from, each between the encoder's two marks; there may be none.
        empty: the two marks.
    """

    def encode(ids: Sequence[Ids]) -> NDArray[np.float32]:
        return np.concatenate([encode_together(forward, batch) for batch in pass_by_pass(ids)])

    alone = encode([np.insert(empty, 1, token) for token in range(len(vocabulary))])
    table = (alone - alone.mean(axis=0)) * frequency_weights(vocabulary)[:, np.newaxis]
    texts = [text for text in texts if len(text) > len(empty)]
    return learn(table, [text[1:-1] for text in texts], encode(texts)) if texts else table


def frequency_weights(vocabulary: Mapping[str, int]) -> NDArray[np.float32]:
    """How much each token counts, ``[vocabulary]``.

    WordPiece lists words from the most frequent on, behind marks and single characters; frequencies follow Zipf's law.
    """
    first = min((i for token, i in vocabulary.items() if len(token) > 1 and not token.startswith("[")), default=0)
    ranks = np.maximum(np.arange(len(vocabulary)) - first, 0) + 1
    probabilities = 1 / (ranks * np.sum(1 / np.unique(ranks)))
    return (HALF_WEIGHT_PROBABILITY / (HALF_WEIGHT_PROBABILITY + probabilities)).astype(np.float32)


def learn(table: Table, texts: Sequence[Ids], targets: NDArray[np.float32]) -> Table:
    """Move the rows of ``table`` so that sums for ``texts`` point along ``targets``, less what all targets share."""
    rows = torch.nn.Parameter(torch.from_numpy(table.copy()))
    optimiser = torch.optim.SparseAdam([rows], lr=LEARNING_RATE)
    wanted = torch.from_numpy(targets - targets.mean(axis=0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        order = torch.randperm(len(texts), generator=generator)
        for start in range(0, len(texts), BATCH_TEXTS):
            batch = order[start : start + BATCH_TEXTS]
            sums = _sums(rows, [texts[i] for i in batch.tolist()])
            optimiser.zero_grad()
            (1 - F.cosine_similarity(sums, wanted[batch])).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()  # type: ignore[no-untyped-call]
    return np.asarray(rows.detach().numpy(), dtype=np.float32)


def _sums(rows: torch.Tensor, texts: Sequence[Ids]) -> torch.Tensor:
    """``[num_texts, dim]``."""
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    ids = torch.from_numpy(np.concatenate(texts)).long()
    return F.embedding_bag(ids, rows, torch.from_numpy(starts), mode="sum", sparse=True)
