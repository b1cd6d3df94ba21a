"""The process of one framework for `segact-parity conventions`: evaluates its lines of code.

Every line of code is evaluated in float32 on the CPU, in every mode of the framework. Each row is
written to standard output at once: a JSON object on a line, with the number of rows, `total`. A
line of code that raises gives a row with its `error`.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.frameworks.autodiff import differentiate

Tensor = Any
Function = Callable[[Tensor, Tensor], Tensor]

FRAMEWORKS = ("keras-jax", "keras-tensorflow", "tf-keras", "keras-torch", "torch")
"""Slowest start first."""
CONVENTIONS = ("exact", "keras", "keras2", "keras_logit", "torch", "torch_legacy")
LABELS = (0, 1)
WRONG, RIGHT = 120.0, 80.0
"""The range of the scan on the side where the label is wrong, and where it is right.

Beyond it on the right side, the exact loss is below the normal numbers of float32.
"""
_STEP = 0.01
CURVE = (-10.0, 45.0)
"""The raw outputs of the curve that a figure shows."""


@dataclass(frozen=True)
class Line:
    """A line of code: its `kind`, and its `variant` (spelling or convention)."""

    kind: str
    variant: str
    code: str
    function: Function


def _keras_lines() -> list[Line]:
    """Keras 3's own loss, on one unit: x and y have shape (n, 1)."""
    import keras

    ops, sigmoid = keras.ops, keras.ops.sigmoid
    loss = keras.losses.BinaryCrossentropy(reduction="none")
    from_logits = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    name = "keras.losses.BinaryCrossentropy"
    return [
        Line("sigmoid", "", f"{name}()(y, sigmoid(x))", lambda x, y: loss(y, sigmoid(x))),
        Line(
            "hidden",
            "",
            f"{name}()(y, reshape(sigmoid(x), (-1, 1)))",
            lambda x, y: loss(y, ops.reshape(sigmoid(x), (-1, 1))),
        ),
        Line("raw", "", f"{name}(from_logits=True)(y, x)", lambda x, y: from_logits(y, x)),
    ]


def _tf_keras_lines() -> list[Line]:
    """tf-keras 2's own loss, on its own sigmoid and on TensorFlow's."""
    tf, tf_keras = import_module("tensorflow"), import_module("tf_keras")
    loss = tf_keras.losses.BinaryCrossentropy(reduction="none")
    from_logits = tf_keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    sigmoid = tf_keras.activations.sigmoid
    name = "tf_keras.losses.BinaryCrossentropy"
    return [
        Line(
            "sigmoid",
            "",
            f"{name}()(y, tf_keras.activations.sigmoid(x))",
            lambda x, y: loss(y, sigmoid(x)),
        ),
        Line(
            "sigmoid",
            "tf.sigmoid",
            f"{name}()(y, tf.sigmoid(x))",
            lambda x, y: loss(y, tf.sigmoid(x)),
        ),
        Line(
            "hidden",
            "",
            f"{name}()(y, tf.reshape(sigmoid(x), (-1, 1)))",
            lambda x, y: loss(y, tf.reshape(sigmoid(x), (-1, 1))),
        ),
        Line("raw", "", f"{name}(from_logits=True)(y, x)", lambda x, y: from_logits(y, x)),
    ]


def _torch_lines() -> list[Line]:
    """PyTorch's own losses."""
    import torch
    from torch.nn import functional as F

    return [
        Line(
            "sigmoid",
            "",
            "F.binary_cross_entropy(torch.sigmoid(x), y)",
            lambda x, y: F.binary_cross_entropy(torch.sigmoid(x), y, reduction="none"),
        ),
        Line(
            "raw",
            "",
            "F.binary_cross_entropy_with_logits(x, y)",
            lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        ),
    ]


def _segact_torch_line(convention: str) -> Line:
    def function(x: Tensor, y: Tensor) -> Tensor:
        import torch

        import segact_torch

        raw = convention == "exact"
        return segact_torch.binary_cross_entropy(
            x if raw else torch.sigmoid(x),
            y,
            from_logits=raw,
            convention=convention,
            reduction="none",
        )

    code = f"segact_torch.binary_cross_entropy({_arguments(convention, 'torch.sigmoid(x)', 'y')})"
    return Line("segact", convention, code, function)


def _segact_tf_line(convention: str) -> Line:
    def function(x: Tensor, y: Tensor) -> Tensor:
        import keras

        from segact_tf import losses

        raw = convention == "exact"
        p = x if raw else keras.ops.sigmoid(x)
        return losses.binary_cross_entropy(y, p, from_logits=raw, axis=(), convention=convention)

    code = f"segact_tf.losses.binary_cross_entropy({_arguments(convention, 'y', 'sigmoid(x)')})"
    return Line("segact", convention, code, function)


def _arguments(convention: str, first: str, second: str) -> str:
    if convention == "exact":
        return f"{first}, {second}".replace("torch.sigmoid(x)", "x").replace("sigmoid(x)", "x")
    return f'{first}, {second}, from_logits=False, convention="{convention}"'


def _lines(framework: str) -> list[Line]:
    """Every line of code of a framework, ours last."""
    if framework == "tf-keras":
        return _tf_keras_lines()
    if framework == "torch":
        return [*_torch_lines(), *map(_segact_torch_line, CONVENTIONS)]
    return [*_keras_lines(), *map(_segact_tf_line, CONVENTIONS)]


def _modes(framework: str) -> dict[str, bool]:
    """The modes of a framework, and whether each compiles; only those without a C++ compiler."""
    if framework.endswith("torch"):
        return {"eager": False}
    return {"eager": False, "jax.jit" if framework == "keras-jax" else "tf.function": True}


def _computing(framework: str) -> str:
    """The framework that computes: `keras-jax` is JAX."""
    return "tensorflow" if framework == "tf-keras" else framework.removeprefix("keras-")


def scan() -> Array:
    """The raw outputs, for label 0, on which the point is searched where a loss stops changing."""
    steps = np.arange(round(-RIGHT / _STEP), round(WRONG / _STEP) + 1)
    return (steps * _STEP).astype(np.float32)


def _sticks(values: Array, x: Array) -> float | None:
    """The x from which on the values are those at the end; None if they change to the end."""
    moving = np.flatnonzero(values != values[-1])
    first = moving[-1] + 1 if moving.size else 0
    return None if first >= len(x) - 1 else float(x[first])


def saturation(loss: Array, gradient: Array, x: Array) -> dict[str, float | None]:
    """Where loss and gradient stop changing along x, which runs from the right side to the wrong.

    The largest and the smallest loss, the raw outputs from which on it no longer changes, and those
    from which on the gradient is exactly 0; None if that does not happen in the range of the scan.
    """
    wrong = slice(np.searchsorted(x * np.sign(x[-1]), 0), None)
    right = slice(wrong.start, None, -1)
    found: dict[str, float | None] = {}
    for name, side, extreme in (("largest", wrong, np.max), ("smallest", right, np.min)):
        moves = _sticks(loss[side], x[side])
        found[name] = float(extreme(loss[side])) if moves is not None else None
        found[f"{name}_from"] = moves
        still = _sticks(gradient[side], x[side]) if gradient[side][-1] == 0 else None
        found[f"{name}_gradient_0_from"] = still
    return found


def _inputs(raw: Array) -> tuple[Array, Array]:
    """x and y, of shape (n, 1): for each label the raw outputs, followed by the scan."""
    x = np.concatenate([np.concatenate([raw, scan() * (1 - 2 * label)]) for label in LABELS])
    y = np.repeat(np.array(LABELS, np.float32), len(x) // len(LABELS))
    return x.astype(np.float32)[:, None], y[:, None]


def _results(raw: Array, x: Array, loss: Array, gradient: Array) -> dict[str, Any]:
    """The results of a line for each label: at the raw outputs, where it stops, and the curve."""
    found = {}
    parts = [
        np.split(array.astype(np.float32).ravel(), len(LABELS)) for array in (x, loss, gradient)
    ]
    for label, inputs, losses, gradients in zip(LABELS, *parts, strict=True):
        n = len(raw)
        seen = (inputs[n:] >= CURVE[0]) & (inputs[n:] <= CURVE[1])
        found[str(label)] = {
            "loss": losses[:n].tolist(),
            "gradient": gradients[:n].tolist(),
            **saturation(losses[n:], gradients[n:], inputs[n:]),
            "curve": [a[n:][seen].tolist() for a in (inputs, losses, gradients)],
        }
    return found


def _words(error: Exception) -> str:
    """An error in one line; TensorFlow puts the traceback of a graph first and the error last."""
    lines = str(error).strip().splitlines() or [""]
    if lines[0].startswith("in user code"):
        return lines[-1].strip()
    return f"{type(error).__name__}: {lines[0]}".removesuffix(": ")


def rows(framework: str, raw: Array) -> Iterator[dict[str, Any]]:
    """A row for every line of code and every mode of the framework."""
    x, y = _inputs(raw)
    modes = _modes(framework)
    lines = _lines(framework)
    for line in lines:
        for mode, compiled in modes.items():
            row: dict[str, Any] = {"framework": framework, "line": line.kind}
            row |= {"variant": line.variant, "mode": mode, "code": line.code, "error": ""}
            try:
                evaluate = differentiate(
                    _computing(framework), line.function, [0], compiled=compiled
                )
                value, (gradient,) = evaluate([x, y])
                if gradient is None:
                    raise TypeError("the loss has no gradient in x")
                labels = _results(raw, x, value, gradient)
            except Exception as error:  # an error in one line does not stop the others
                row["error"] = _words(error)
                labels = {}
            if line.kind != "segact":
                for part in labels.values():
                    del part["curve"]
            yield row | {"labels": labels, "total": len(lines) * len(modes)}


def main() -> None:
    """Evaluate every line of code of one framework; see the options."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.conventions.worker", description=__doc__
    )
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--raw", type=json.loads, required=True, help="raw outputs, a JSON list")
    arguments = parser.parse_args()
    for row in rows(arguments.framework, np.array(arguments.raw, np.float32)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
