"""One adapter per implementation, each imported only in the process that runs it."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.frameworks.autodiff import Engine
from parity.suite.case import Case
from parity.suite.inputs import Inputs

Evaluate = Callable[[Case, Inputs], dict[str, Array]]


def evaluate_on(
    engine: Engine, function: Callable[..., Any], device: str, case: Case, inputs: Inputs
) -> dict[str, Array]:
    """The parts of a case; the gradient of the sum is 0 in what it does not depend on."""
    arrays = case.arguments(inputs)
    wanted = range(len(case.parts) - 1)
    value, gradients = engine(function, arrays, wanted, device=device)
    found = [
        np.zeros_like(arrays[i]) if gradient is None else gradient
        for i, gradient in enumerate(gradients)
    ]
    return dict(zip(case.parts, [value, *found], strict=True))


def load(name: str, device: str) -> Evaluate:
    """Import the framework and give the function that evaluates a case.

    Raises `NoDevice` if the framework sees no such device.
    """
    module = import_module("parity.judge.adapters." + ("torch" if name == "torch" else "keras"))
    evaluate: Evaluate = module.load(device)
    return evaluate
