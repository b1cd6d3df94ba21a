"""One adapter for each implementation, imported only in the process that runs it."""

from collections.abc import Callable
from importlib import import_module

import numpy as np

from parity.common.arrays import Array
from parity.frameworks import autodiff
from parity.suite.case import Case
from parity.suite.inputs import Inputs

Evaluate = Callable[[Case, Inputs], dict[str, Array]]


def wanted(case: Case) -> range:
    """The arguments of a case in which gradients are taken."""
    return range(len(case.parts) - 1)


def parts_of(case: Case, inputs: Inputs, evaluate: autodiff.Evaluate) -> dict[str, Array]:
    """The parts of a case; a gradient is 0 if the sum does not depend on the argument.

    Gradients that only a shared compilation returns, and not the case, are omitted.
    """
    arrays = case.bind(inputs).arguments
    value, gradients = evaluate(arrays)
    found = [
        np.zeros_like(arrays[i]) if gradient is None else gradient
        for i, gradient in enumerate(gradients)
    ]
    return dict(zip(case.parts, [value, *found], strict=False))


def load(name: str, device: str) -> Evaluate:
    """Import the framework and return the function that evaluates a case.

    Raises `NoDevice` if the framework has no such device.
    """
    module = import_module("parity.judge.adapters." + ("torch" if name == "torch" else "keras"))
    evaluate: Evaluate = module.load(device)
    return evaluate
