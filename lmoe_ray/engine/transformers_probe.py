"""What a model class of transformers does, found out by running it on a few tokens.

First as it is: from its own cache follows what one token's keys and values measure, from the rows its
linears see which of them can take adapters, and its logits are the truth. Then in pieces, through the
engine's cache, in one batch with another sequence: the logits must be the same. A class that masks by
a rule of its own, or keeps something beside keys and values, does not pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmoe_ray.engine.adaptable_linears import AdaptableLinear, AdaptableLinears
from lmoe_ray.engine.batch import BatchBuilder, Piece
from lmoe_ray.engine.kv_cache import KVCache, block_size_for
from lmoe_ray.engine.loaded_model import LoadedModel
from lmoe_ray.engine.model_shape import CacheShape
from lmoe_ray.errors import ModelSourceError, one_line

NUM_TOKENS = 24
#: How far logits may be off, as a share of their mean size: rounding only.
TOLERANCE = {torch.float32: 1e-4}
LOW_PRECISION_TOLERANCE = 0.05
_WAY_OUT = "the engine cannot serve it; choose another base model"


@dataclass(frozen=True, slots=True)
class Probed:
    """What the class did with ``ids``; ``logits [NUM_TOKENS, vocab_size]`` are float32."""

    ids: list[int]
    logits: torch.Tensor
    cache_shape: CacheShape
    adaptable: AdaptableLinears


def probe(folder: Path, model: Any) -> Probed:
    """Run a model as transformers would.

    Raises:
        ModelSourceError: it fails, or its layers do not all keep keys and values of one shape.
    """
    vocab_size = model.config.get_text_config().vocab_size
    ids = [(vocab_size * i // NUM_TOKENS + 7 * i) % vocab_size for i in range(NUM_TOKENS)]
    rows: dict[str, set[int]] = {}
    with _refusing(folder, "fails on a few tokens"), torch.inference_mode(), _counted_rows(model, rows):
        output = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
    shape = _cache_shape(folder, output.past_key_values)
    return Probed(ids, output.logits[0].float(), shape, _adaptable(model, rows))


def check_paged(folder: Path, loaded: LoadedModel, probed: Probed) -> None:
    """Compare a :class:`TransformersModel` with what was probed, in three steps of two sequences.

    Raises:
        ModelSourceError: it fails, or the logits differ by more than rounding does.
    """
    with _refusing(folder, "cannot be computed in pieces"), torch.inference_mode():
        logits = _paged_logits(loaded, probed.ids)
    expected = torch.cat((probed.logits, probed.logits))
    error = ((logits - expected).abs().mean() / expected.abs().mean()).item()
    if not error <= TOLERANCE.get(loaded.dtype, LOW_PRECISION_TOLERANCE):
        raise ModelSourceError(
            str(folder),
            f"computed in pieces, its logits differ by {error:.2g} of their size from those of the whole; {_WAY_OUT}",
        )


def _paged_logits(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Of the same tokens twice, cut at different places, ``[2 * NUM_TOKENS, vocab_size]``."""
    block_size = block_size_for(loaded.device)
    width = -(-len(ids) // block_size)
    blocks = (range(width), range(width, 2 * width))
    cache = KVCache(
        loaded.cache_shape, num_blocks=2 * width, block_size=block_size, dtype=loaded.dtype, device=loaded.device
    )
    runner, builder = loaded.make_runner(cache, loaded.make_bank(1, 1)), BatchBuilder(loaded.device, block_size)
    cuts = ((0, 17), (0, 6)), ((17, 18), (6, 20)), ((18, 24), (20, 24))
    parts: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for step, ends in enumerate(cuts):
        pieces = [Piece(ids[a:b], a, own, 0) for (a, b), own in zip(ends, blocks, strict=True)]
        num_tokens = sum(len(piece.ids) for piece in pieces)
        logits = runner.run(builder.assemble(pieces, range(num_tokens), num_decode=1 if step == 1 else 0))
        for part, piece_logits in zip(parts, torch.split(logits, [len(piece.ids) for piece in pieces]), strict=True):
            part.append(piece_logits)
    return torch.cat([*parts[0], *parts[1]])


def _cache_shape(folder: Path, cache: Any) -> CacheShape:
    layers = getattr(cache, "layers", [])
    shapes = {
        (states.shape[1], states.shape[3]) if isinstance(states, torch.Tensor) else None
        for layer in layers
        for states in (getattr(layer, "keys", None), getattr(layer, "values", None))
    }
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None:
        raise ModelSourceError(
            str(folder), f"its layers keep keys and values of different shapes, or something else; {_WAY_OUT}"
        )
    return CacheShape(len(layers), *shape)


def _adaptable(model: Any, rows: dict[str, set[int]]) -> AdaptableLinears:
    linears: dict[str, AdaptableLinear] = {}
    refused: dict[str, str] = {}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head:
            refused[name] = "the output head, which adapters cannot change"
        elif isinstance(module, Conv1D):
            refused[name] = (
                "a Conv1D, which only GPT-2's kin have and adapters cannot change; choose a base with linears"
            )
        elif isinstance(module, nn.Linear) and rows.get(name) != {NUM_TOKENS}:
            refused[name] = "a linear that does not see every token, such as an expert's, and cannot be changed"
        elif isinstance(module, nn.Linear):
            linears[name] = AdaptableLinear(name, module.out_features, module.in_features)
    return AdaptableLinears(linears, refused)


@contextmanager
def _counted_rows(model: Any, rows: dict[str, set[int]]) -> Iterator[None]:
    """Note how many rows each linear sees at a time."""
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            seen = rows.setdefault(name, set())
            hooks.append(module.register_forward_hook(_note_rows(seen)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _note_rows(seen: set[int]) -> Any:
    def note(_module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        seen.add(inputs[0].shape[:-1].numel())

    return note


@contextmanager
def _refusing(folder: Path, problem: str) -> Iterator[None]:
    """Whatever goes wrong inside somebody else's class, the model is not ours to serve."""
    try:
        yield
    except Exception as exc:
        raise ModelSourceError(str(folder), f"{problem}: {one_line(repr(exc), 200)}; {_WAY_OUT}") from exc
