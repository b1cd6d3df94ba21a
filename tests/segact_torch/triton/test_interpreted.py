"""The tests of this folder once more, of kernels that are interpreted on a CPU.

Triton decides when it is imported whether it interprets: these run in processes of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

from kernels import compiled

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
FILES = [path for path in sorted(HERE.glob("test_*.py")) if "\n@interpreted\n" in path.read_text()]


def assert_passed(path, *options, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "TRITON_INTERPRET": "1", **environment}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command.append(str(path))
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "passed" in run.stdout


@compiled
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_interpreted_kernels(path):
    assert_passed(path, OMP_NUM_THREADS="1")


@compiled
def test_the_losses_by_interpreted_kernels():
    """Through the whole loss; what no kernel serves goes to the formulas."""
    tests = "(arctan and (ignored or second_derivatives)) or hooks or batched"
    assert_passed(HERE.with_name("test_fused.py"), "-k", tests, SEGACT_KERNELS="triton")


@compiled
def test_small_weights_by_interpreted_kernels():
    path, only = ROOT / "tests" / "both" / "test_losses.py", {"SEGACT_ONLY": "torch"}
    assert_passed(path, "-k", "small_weight and torch", SEGACT_KERNELS="triton", **only)
