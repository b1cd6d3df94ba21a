"""What `keras.ops` does not tell of the active backend: the one place that asks the backend itself.

A backend that is active has been imported by Keras; none is imported here.
"""

import sys
from typing import Any

import keras


def has_float64(x: Any) -> bool:
    """Whether there is double precision where x is: on JAX with `jax_enable_x64` alone."""
    if keras.backend.backend() == "jax":
        return bool(sys.modules["jax"].config.jax_enable_x64)
    return "mps" not in str(x.device).lower()


def is_on_cpu(x: Any) -> bool:
    return "cpu" in str(x.device).lower()


def is_traced(x: Any) -> bool:
    """Whether x stands for values that are not there yet, in compiled or transformed code."""
    kinds = {kind.__name__ for kind in type(x).__mro__}
    if kinds & {"KerasTensor", "SymbolicTensor", "Tracer", "FakeTensor"}:
        return True
    torch = sys.modules["torch"] if keras.backend.backend() == "torch" else None
    return torch is not None and torch.compiler.is_compiling()
