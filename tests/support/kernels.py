"""The Triton kernels under test, their inputs, and their losses in float64."""

import os

import numpy as np
import pytest
import torch

import segact_torch
from segact_torch._backends.triton import launch as backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
compiled = pytest.mark.skipif(INTERPRETED, reason="the kernels are interpreted here")
every = pytest.mark.parametrize("name", backend.NAMES)
# Activations with their own epsilon.
DEFAULT = [(name, None) for name in backend.NAMES]

F = segact_torch.get_activation
FUNCTIONS = {
    "binary_cross_entropy": backend.cross_entropy,
    "squared_error": backend.squared_error,
    "binary_focal_cross_entropy": backend.focal_cross_entropy,
}
FOCAL = {"gamma": 2.0, "alpha": None, "label_smoothing": 0.0}
SHAPE = (3, 2, 40, 33)
ALL = (0, 1, 2, 3)
AXES = {
    "all": ALL,
    "samples": (1, 2, 3),
    "channels": (0, 2, 3),
    "both": (2, 3),
    "columns": (0, 1, 2),
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
}


def batch(hard=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    x = (3 * torch.randn(SHAPE, generator=generator)).to(dtype)
    y = torch.rand(SHAPE, generator=generator)
    return x, (y < 1 / 3).float() if hard else y


def exact_losses(loss, x, y, name, w=None, **options):
    """Losses and slopes of elements in float64, by the public functions."""
    function = getattr(segact_torch, loss.replace("squared", "mean_squared"))
    wide = x.detach().double().contiguous().requires_grad_()
    weight = {} if w is None else {"weight": w.double()}
    value = function(
        wide, y.double(), rounded(name), reduction="none", validate=False, **weight, **options
    )
    (slope,) = torch.autograd.grad(value.sum(), wide)
    return value.detach(), slope


def rounded(activation):
    """The activation with its epsilon as the kernels have it."""
    f = F(activation)
    return type(f)(float(np.float32(f.epsilon)))
