"""The GPU's kernels without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
CHECKS = Path(__file__).parent


@pytest.mark.parametrize(
    ("file", "interpret"), [("interpreted_kernels.py", "1"), ("compiled_kernels.py", "0")], ids=["compute", "compile"]
)
def test_the_gpus_kernels_compute_what_torch_does_and_compile_for_a_gpu_that_is_not_there(
    file: str, interpret: str
) -> None:
    pytest.importorskip("triton", reason="Triton is installed with CUDA builds of torch only")
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS / file)],
        env=os.environ | {"TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"},
        cwd=CHECKS.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr


def test_an_engine_on_a_cpu_never_imports_triton() -> None:
    script = (
        "import sys, lmoe_ray.engine.async_engine, lmoe_ray.engine.cuda_graphs, lmoe_ray.engine.paged_attention\n"
        "ours = [name for name in sys.modules if name.startswith('lmoe_ray')]\n"
        "print([name for name in ours if getattr(sys.modules[name], 'triton', None)])"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert child.stdout.strip() == "[]"
