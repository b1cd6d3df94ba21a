"""What `keras.ops` does not tell of the active backend: the one place that asks the backend itself.

A backend that is active has been imported by Keras; none is imported here.
"""

import contextlib
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


def sizes(x: Any) -> tuple[int | None, ...]:
    """The sizes of x: None for one that is not known yet, or stands for any, as JAX has them."""
    return tuple(size if isinstance(size, int) else None for size in x.shape)


def of_one_shape(y: Any, x: Any) -> Any:
    """y, in a graph of TensorFlow with an error when it runs if the shape of y is not that of x.

    Assertions are dropped by XLA; the sum of a list is an operation that wants equal shapes itself.
    """
    symbolic = isinstance(y, keras.KerasTensor) or isinstance(x, keras.KerasTensor)
    if symbolic or keras.backend.backend() != "tensorflow":
        return y
    tensorflow = sys.modules["tensorflow"]
    y = tensorflow.cast(y, x.dtype) if y.dtype == tensorflow.bool else y
    return tensorflow.add_n([y, tensorflow.zeros_like(x, y.dtype)])


def mark_head(outputs: Any, activation: str) -> Any:
    """Outputs that `head_of` knows to be an activation's."""
    with contextlib.suppress(AttributeError, TypeError):  # of tensors that take none
        outputs._segact_head = activation
    return outputs


def head_of(x: Any) -> str | None:
    """The activation that made x, where it is known: one of ours, or the sigmoid Keras marks."""
    keras_head = "a sigmoid" if getattr(x, "_keras_logits", None) is not None else None
    return getattr(x, "_segact_head", keras_head)


def is_traced(x: Any) -> bool:
    """Whether x stands for values that are not there yet, in compiled or transformed code."""
    kinds = {kind.__name__ for kind in type(x).__mro__}
    if kinds & {"KerasTensor", "SymbolicTensor", "Tracer", "FakeTensor"}:
        return True
    torch = sys.modules["torch"] if keras.backend.backend() == "torch" else None
    return torch is not None and torch.compiler.is_compiling()
