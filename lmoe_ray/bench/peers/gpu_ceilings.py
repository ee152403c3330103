"""What a device can do at best, measured: bytes moved per second, and operations of one large matrix product.

Prints one line of JSON. The argument is the device; on a CPU the sizes are small and only show that it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

ROUNDS = 10


def best_duration_s(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of several runs, each waited for."""
    durations = []
    for _ in range(ROUNDS):
        began_s = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(perf_counter() - began_s)
    return min(durations)


def bytes_per_s(device: torch.device, num_bytes: int) -> float:
    """The better of copying, which reads and writes, and of summing, which reads."""
    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / best_duration_s(lambda: target.copy_(source), device)
    return max(copied, source.nbytes / best_duration_s(source.sum, device))


def flops_per_s(device: torch.device, size: int, dtype: torch.dtype) -> float:
    """Of a square product."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    output = torch.empty_like(a)
    return 2 * size**3 / best_duration_s(lambda: torch.mm(a, b, out=output), device)


def measure(device: torch.device) -> dict[str, Any]:
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
        "torch": torch.__version__,
        "bytes_per_s": bytes_per_s(device, 8 << 30 if is_gpu else 64 << 20),
        "flops_per_s": flops_per_s(device, 8192 if is_gpu else 256, torch.bfloat16 if is_gpu else torch.float32),
    }


if __name__ == "__main__":
    print(json.dumps(measure(torch.device(sys.argv[1]))))
