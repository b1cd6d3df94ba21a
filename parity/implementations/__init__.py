"""One adapter per implementation, each imported only in the process that runs it."""

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from parity.cases import Case
from parity.engines import Engine
from parity.inputs import Array, Inputs

Evaluate = Callable[[Case, Inputs], dict[str, Array]]

# slowest start first: the parent starts them in this order
_NEEDS = {
    "keras-jax": ("keras", "jax", "segact_tf"),
    "keras-tensorflow": ("keras", "tensorflow", "segact_tf"),
    "keras-torch": ("keras", "torch", "segact_tf"),
    "torch": ("torch", "segact_torch"),
}
IMPLEMENTATIONS = tuple(_NEEDS)


def absent_modules(modules: Iterable[str]) -> str:
    """Which of the modules are not installed, in plain words; empty if all are."""
    absent = [module for module in modules if find_spec(module) is None]
    verb = "are" if len(absent) > 1 else "is"
    return f"{' and '.join(absent)} {verb} not installed" if absent else ""


def missing(name: str) -> str:
    """Why an implementation cannot run here, in plain words; empty if it can. Imports nothing."""
    return absent_modules(module for module in _NEEDS[name] if not module.startswith("segact"))


def broken(name: str) -> str:
    """What is wrong if our own package, which is installed with this one, is absent; else empty."""
    return absent_modules(module for module in _NEEDS[name] if module.startswith("segact"))


def environment(name: str, device: str, threads: int) -> dict[str, str]:
    """The environment variables of the process of an implementation."""
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    if name == "keras-jax":
        settings["JAX_ENABLE_X64"] = "1"
        settings["JAX_PLATFORMS"] = device
    if name.startswith("keras-"):
        settings["KERAS_BACKEND"] = name.removeprefix("keras-")
    if device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    else:  # several share the device, and none is to take its memory beforehand
        settings["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        settings["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return settings


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

    Raises `engines.NoDevice` if the framework sees no such device.
    """
    module = import_module("parity.implementations." + ("torch" if name == "torch" else "keras"))
    evaluate: Evaluate = module.load(device)
    return evaluate
