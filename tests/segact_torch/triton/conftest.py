"""Interpreted kernels: large blocks, and no warnings."""

import os

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _large_blocks(monkeypatch):
    """The interpreter takes as long for any block."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        from segact_torch._backends.triton import launch

        monkeypatch.setattr(launch, "BLOCK", 16384)


@pytest.fixture(autouse=True)
def _quiet():
    """NumPy says what overflows where it is not used."""
    with np.errstate(all="ignore"):
        yield
