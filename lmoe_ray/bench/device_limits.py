"""What a device does at best, measured in a process of its own, so that none of its memory stays taken."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from lmoe_ray.bench.peer_process import environment
from lmoe_ray.bench.speed_engines import PEERS
from lmoe_ray.errors import PeerFailed

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device does at best, and its name."""

    device: str
    torch: str
    bytes_per_s: float
    flops_per_s: float


def measure_ceilings(device: str, threads: int) -> Ceilings:
    """
    Raises:
        PeerFailed: it ended with an error.
    """
    child = subprocess.run(
        [sys.executable, PEERS / "gpu_ceilings.py", device],
        env=environment(threads),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if child.returncode:
        raise PeerFailed("the device's ceiling", child.stderr.strip().rpartition("\n")[2])
    return Ceilings(**json.loads(child.stdout))
