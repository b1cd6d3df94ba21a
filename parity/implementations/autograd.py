"""Values and gradients of functions of torch tensors, for every adapter that runs on torch."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from parity.cases import Case
from parity.implementations import NoDevice
from parity.inputs import Array, Inputs

Function = Callable[..., Tensor]


def _gradients(value: Tensor, wanted: list[Tensor]) -> list[Array]:
    """The gradients of the sum; zeros where the value does not depend on an input."""
    if not value.requires_grad:
        return [np.zeros(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in wanted]
    found = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
    return [gradient.cpu().numpy() for gradient in found]


def evaluate_on(function: Function, device: str, case: Case, inputs: Inputs) -> dict[str, Array]:
    """Value and gradients of a function of torch tensors."""
    tensors = [torch.tensor(array, device=device) for array in case.arguments(inputs)]
    wanted = [tensor.requires_grad_() for tensor in tensors[: len(case.parts) - 1]]
    value = function(*tensors)
    results = [value.detach().cpu().numpy(), *(_gradients(value, wanted) if wanted else [])]
    return dict(zip(case.parts, results, strict=True))


def check_device(device: str) -> None:
    """Raises `NoDevice` if torch cannot use the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NoDevice("torch sees no CUDA device")
