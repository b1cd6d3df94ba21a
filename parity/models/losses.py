"""Do a loss of Keras and one of PyTorch agree on the outputs of two models that agree?"""

import math
from typing import Any

import numpy as np

from parity.inputs import Array
from parity.models.capture import keras_array, torch_array
from parity.models.diagnosis import compare
from parity.weights.layers import without_bfloat16

_GROUPS = 16


def losses_apart(
    losses: tuple[Any, Any],
    targets: Array,
    there: Array,
    here: Array,
    moved: bool,
    rtol: float | None,
    atol: float | None,
) -> str:
    """How two losses differ, in words; empty if they agree.

    `there` and `here` are the outputs of Keras and of PyTorch, each in its own layout, `targets` in
    Keras's; `moved`: PyTorch's channels come first.
    """
    if len(targets) != len(there):
        raise ValueError(f"targets have {len(targets)} samples, the outputs {len(there)}")
    both = _Losses(losses)
    theirs = _targets_of_pytorch(targets, here, moved)
    values = both(targets, there, theirs, here)
    found = compare(*values, rtol, atol)
    if found.passed:
        return ""
    index, output, target, apart = _worst_element(both, (targets, there, theirs, here), moved)
    lines = [
        f"the models agree, their losses do not: Keras {both.names[0]} gives {values[0]:.6g}, "
        f"PyTorch {both.names[1]} {values[1]:.6g}",
        *(f"  {line}" for line in found.lines(("Keras", "PyTorch"))),
        f"they part most at {index}: output {output}, target {target}, where Keras gives "
        f"{apart[0]:.6g} and PyTorch {apart[1]:.6g}",
    ]
    return "\n".join(lines)


class _Losses:
    """Both losses, as functions of the arrays of one batch that give their means."""

    def __init__(self, losses: tuple[Any, Any]) -> None:
        from keras import losses as keras_losses

        self.keras = keras_losses.get(losses[0]) if isinstance(losses[0], str) else losses[0]
        self.pytorch = losses[1]
        names = [getattr(one, "__name__", type(one).__name__) for one in losses]
        self.names = [losses[0] if isinstance(losses[0], str) else names[0], names[1]]

    def __call__(self, y: Array, there: Array, target: Array, here: Array) -> tuple[Array, Array]:
        import torch
        from keras import ops

        there, here = without_bfloat16(there), without_bfloat16(here)
        one = self.keras(ops.convert_to_tensor(y), ops.convert_to_tensor(there))
        with torch.no_grad():
            tensors = [
                torch.from_numpy(np.array(a, order="C")) for a in (here, without_bfloat16(target))
            ]
            two = self.pytorch(*tensors)
        return np.asarray(np.mean(keras_array(one))), np.asarray(np.mean(torch_array(two)))


def _targets_of_pytorch(targets: Array, here: Array, moved: bool) -> Array:
    """Channels first where the outputs are; numbers like the outputs where they have their shape,
    otherwise the numbers of classes."""
    if moved and targets.ndim == here.ndim:
        targets = np.moveaxis(targets, -1, 1)
    if targets.shape == here.shape or targets.dtype.kind == "f":
        return targets.astype(here.dtype)
    return targets.astype(np.int64)


def _worst_element(
    both: _Losses, arrays: tuple[Array, ...], moved: bool
) -> tuple[str, str, str, tuple[Array, Array]]:
    """Where the losses part most, which output and target stand there, and what both give there:
    first the sample, then the element, if the losses are means over the elements."""
    chosen = _narrowed(both, arrays)
    sample = tuple(array[chosen : chosen + 1] for array in arrays)
    place = f"sample {chosen}"
    back = [np.moveaxis(a, 1, -1) if moved and a.ndim > 2 else a for a in sample[2:]]
    aligned = (*sample[:2], *back)
    shape = sample[1].shape
    if sample[1].size > 1 and all(array.shape == shape for array in aligned):
        elements = tuple(array.reshape(-1, 1) for array in aligned)
        if np.allclose(both(*elements), both(*sample), rtol=1e-4):
            inner = _narrowed(both, elements)
            where = np.unravel_index(inner, shape[1:])
            place = f"index {(chosen, *(int(i) for i in where))}"
            sample = tuple(array[inner : inner + 1] for array in elements)
    shown = [f"{a.item():.6g}" if a.size == 1 else f"{a[0].tolist()}" for a in sample[:2]]
    return place, shown[1], shown[0], both(*sample)


def _narrowed(both: _Losses, arrays: tuple[Array, ...]) -> int:
    """The sample at which both part most, by evaluating ever smaller groups of samples."""
    chosen = np.arange(len(arrays[0]))
    while len(chosen) > 1:
        groups = np.array_split(chosen, min(_GROUPS, len(chosen)))
        apart = []
        for group in groups:
            one, two = map(float, both(*(array[group] for array in arrays)))
            apart.append(math.inf if math.isnan(one - two) else abs(one - two))
        chosen = groups[int(np.argmax(apart))]
    return int(chosen[0])
