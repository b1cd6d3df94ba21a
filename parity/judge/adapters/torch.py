"""The adapter of `segact_torch`: values and gradients by autograd, as in a training loop."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import segact_torch
from parity.accuracy.bounds import FAR
from parity.common.arrays import Array
from parity.frameworks import autodiff
from parity.frameworks.autodiff import Evaluation, check_device, differentiate
from parity.judge.adapters import Evaluate, parts_of, wanted
from parity.suite.case import NO_ACTIVATION, Case
from parity.suite.inputs import Inputs

Function = Callable[..., Tensor]

# the formulas as published, in the input's own precision
PUBLISHED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "normal_cdf": lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "arctan": lambda x: 0.5 + torch.atan(x) / math.pi,
    "softsign": lambda x: 0.5 * (1 + x / (1 + torch.abs(x))),
    "inverse_square_root": lambda x: 0.5 * (1 + x / torch.sqrt(1 + x * x)),
}


def _published(case: Case) -> Function:
    squeeze, F0 = case.epsilon, PUBLISHED[case.activation]
    return lambda x, y: -torch.log(squeeze + (1 - 2 * squeeze) * F0(x))


def _loss(case: Case) -> Function:
    """A loss with the options of the case, as a function of x, y and perhaps weights."""
    name = "mean_squared_error" if case.quantity == "squared_error" else case.quantity
    options = case.keywords | {"reduction": "mean" if case.reduced else "none"}
    if case.convention:
        options |= {"from_logits": False, "convention": case.convention}
    elif case.activation != NO_ACTIVATION:
        options["activation"] = segact_torch.get_activation(case.activation, epsilon=case.epsilon)
    loss = partial(getattr(segact_torch, name), **options)
    return lambda x, y, *weight: loss(x, y, **dict(zip(("weight",), weight, strict=False)))


def _function(case: Case) -> Function:
    """The quantity of the case, as a function of the arguments of the case."""
    if case.quantity == "published":
        return _published(case)
    if case.quantity == "stock_from_logits":
        return lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none")
    if case.quantity == "stock_from_probabilities":
        return lambda x, y: F.binary_cross_entropy(torch.sigmoid(x), y, reduction="none")
    if case.is_loss:
        return _loss(case)
    activation = segact_torch.get_activation(case.activation, epsilon=case.epsilon)
    method: Function = getattr(activation, case.quantity)
    return method


def _apart(evaluate: autodiff.Evaluate, arrays: Sequence[Array]) -> Evaluation:
    """An elementwise quantity, first of ordinary inputs, then of those beyond FAR and NaN.

    A fast backend refuses a tensor with one of the latter, and would not be judged at all.
    """
    near = np.abs(arrays[0]) <= FAR
    parts = [m for m in (near, ~near) if m.any()]
    found = [evaluate([a[m] for a in arrays]) for m in parts]
    value = np.empty(near.shape, found[0][0].dtype)
    gradients = [np.zeros_like(array) for array, _ in zip(arrays, found[0][1], strict=False)]
    for m, (values, slopes) in zip(parts, found, strict=True):
        value[m] = values
        for gradient, slope in zip(gradients, slopes, strict=True):
            gradient[m] = 0 if slope is None else slope
    return value, [*gradients]


def load(device: str) -> Evaluate:
    """The function that evaluates a case with `segact_torch`."""
    check_device("torch", device)

    def evaluate(case: Case, inputs: Inputs) -> dict[str, Array]:
        alone = case.is_loss and not case.reduced and case.activation != "linear"
        found = differentiate("torch", _function(case), wanted(case), device=device)
        apart = alone and not case.convention
        return parts_of(case, inputs, partial(_apart, found) if apart else found)

    return evaluate
