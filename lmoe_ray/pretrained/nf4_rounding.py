"""Round a model's linear layers through NF4: the weights an adapter saw when it was trained with QLoRA.

Run as a program, ``python nf4_rounding.py <folder> <out>``: it imports nothing of this package. The rounding
is bitsandbytes' NF4 with double quantisation, block by block: each 64 weights are scaled by their largest
magnitude and moved to the nearest of 16 values; the scales themselves are kept in 8 bits, 256 at a time.
Embeddings, norms, biases and the output layer stay as they are.

Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, sections 3 and appendix E (the 16 values); the 8-bit
code of the scales is the dynamic tree of Dettmers 2015, arXiv:1511.04561.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

#: Quantiles of a normal distribution between -1 and 1 with an exact zero: appendix E of the paper.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK = 64
SCALE_BLOCK = 256


def dynamic_code() -> torch.Tensor:
    """The 8-bit code of the scales: ``[256]`` values from -0.993 to 1, ascending.

    A value has a decimal exponent, written as leading zeros, and a fraction in the bits that are left:
    seven groups of 1, 2, 4 … 64 fractions and their negatives, then 0 and 1.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        borders = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float64)
        fractions = (borders[:-1] + borders[1:]) / 2 * 10.0 ** (exponent - 6)
        values += [*fractions.tolist(), *(-fractions).tolist()]
    return torch.tensor(sorted(values), dtype=torch.float32)


def round_weight(weight: torch.Tensor, *, double_quant: bool = True) -> torch.Tensor:
    """What is left of a weight after NF4 and back; same shape and dtype.

    Args:
        weight: any shape; blocks run over its elements in row order, the last may be short.
        double_quant: whether the blocks' scales are rounded too, as QLoRA does.
    """
    blocks = _in_rows(weight.float().flatten(), BLOCK)
    scales = blocks.abs().amax(dim=1)
    units = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    if double_quant:
        scales = _round_scales(scales)
    rounded = _nearest(units, torch.tensor(NF4_VALUES)) * scales[:, None]
    return rounded.flatten()[: weight.numel()].view_as(weight).to(weight.dtype)


def _round_scales(scales: torch.Tensor) -> torch.Tensor:
    mean = scales.mean()
    blocks = _in_rows(scales - mean, SCALE_BLOCK)
    largest = blocks.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    rounded = _nearest(blocks / largest, dynamic_code()) * largest
    return rounded.flatten()[: len(scales)] + mean


def _in_rows(values: torch.Tensor, width: int) -> torch.Tensor:
    """``[num_values]`` as ``[num_rows, width]``, the last row filled with zeros."""
    return torch.nn.functional.pad(values, (0, -len(values) % width)).view(-1, width)


def _nearest(values: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """Each value moved to the nearest entry of an ascending code."""
    return code[torch.bucketize(values, (code[:-1] + code[1:]) / 2)]


def round_model(folder: Path, out: Path) -> None:
    """Write the rounded model and the tokenizer files of ``folder`` into the existing folder ``out``."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    head = model.get_output_embeddings()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                module.weight.copy_(round_weight(module.weight))
    model.save_pretrained(out)
    for file in folder.iterdir():
        if _belongs_to_tokenizer(file) and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)


def _belongs_to_tokenizer(file: Path) -> bool:
    return file.suffix in {".json", ".jinja", ".txt", ".model"} and ".safetensors." not in file.name


if __name__ == "__main__":
    round_model(Path(sys.argv[1]), Path(sys.argv[2]))
