"""Do a Keras loss and a PyTorch loss agree on the outputs of two models that agree?"""

import math
from typing import Any

import numpy as np

from parity.common.arrays import Array, without_bfloat16
from parity.common.signatures import order
from parity.models.capture import keras_array, torch_array
from parity.models.closeness import compare

_GROUPS = 16


def losses_apart(
    losses: tuple[Any, Any],
    targets: Array,
    keras_output: Array,
    torch_output: Array,
    moved: bool,
    rtol: float | None,
    atol: float | None,
) -> str:
    """How two losses differ, in words; empty if they agree.

    The outputs are each in its own layout, `targets` in Keras's; `moved`: PyTorch has channels
    first.
    """
    if len(targets) != len(keras_output):
        raise ValueError(f"targets have {len(targets)} samples, the outputs {len(keras_output)}")
    both = _Losses(losses)
    torch_targets = _targets_of_pytorch(targets, torch_output, moved)
    arrays = (targets, keras_output, torch_targets, torch_output)
    values = both(*arrays)
    found = compare(*values, rtol, atol)
    if found.passed:
        return ""
    lines = [
        f"the models agree, their losses do not: Keras {both.names[0]} gives {values[0]:.6g}, "
        f"PyTorch {both.names[1]} {values[1]:.6g}",
        *(f"  {line}" for line in found.lines(("Keras", "PyTorch"))),
    ]
    index, output, target, apart = _worst_element(both, arrays, moved)
    if compare(*apart, rtol, atol).passed:
        lines.append(
            f"{index} alone gives {apart[0]:.6g} in both, so it is the reduction that differs"
            f"{_ratio(float(values[0]), float(values[1]), keras_output)}"
        )
    else:
        lines.append(
            f"they differ most at {index}: output {output}, target {target}, where Keras gives "
            f"{apart[0]:.6g} and PyTorch {apart[1]:.6g}"
        )
    return "\n".join([*lines, *both.doubts()])


def _ratio(keras: float, pytorch: float, outputs: Array) -> str:
    """The ratio of the two losses, and a hint if it is that of a sum and a mean."""
    if not (math.isfinite(keras / (pytorch or math.nan)) and keras):
        return ""
    names = ("PyTorch", "Keras") if abs(pytorch) > abs(keras) else ("Keras", "PyTorch")
    ratio = pytorch / keras if names[0] == "PyTorch" else keras / pytorch
    counts = (len(outputs), outputs.size, outputs.size // outputs.shape[-1])
    summed = any(math.isclose(ratio, count, rel_tol=1e-3) for count in counts)
    hint = ": a sum in place of a mean?" if summed else ""
    return f": {names[0]}'s is {ratio:.6g} times {names[1]}'s{hint}"


class _Losses:
    """Both losses, called with the arrays of one batch; each returns its mean."""

    def __init__(self, losses: tuple[Any, Any]) -> None:
        from keras import losses as keras_losses

        self.keras = keras_losses.get(losses[0]) if isinstance(losses[0], str) else losses[0]
        self.pytorch = losses[1]
        self.orders = order(self.keras), order(self.pytorch)
        names = [getattr(one, "__name__", type(one).__name__) for one in losses]
        self.names = [losses[0] if isinstance(losses[0], str) else names[0], names[1]]

    def __call__(
        self, targets: Array, keras_output: Array, torch_targets: Array, torch_output: Array
    ) -> tuple[Array, Array]:
        import torch
        from keras import ops

        predicted = ops.convert_to_tensor(without_bfloat16(keras_output))
        keras = self.keras(ops.convert_to_tensor(targets), predicted)
        with torch.no_grad():
            tensors = [
                torch.from_numpy(np.array(without_bfloat16(array), order="C"))
                for array in (torch_output, torch_targets)
            ]
            pytorch = self.pytorch(*(tensors[::-1] if self.orders[1].targets_first else tensors))
        return np.asarray(np.mean(keras_array(keras))), np.asarray(np.mean(torch_array(pytorch)))

    def doubts(self) -> list[str]:
        """Lines on a loss whose parameters may be in the wrong order.

        Keras passes the targets first to every loss; a PyTorch loss gets them where the names of
        its parameters say.
        """
        keras, pytorch = self.orders
        found = [] if pytorch.certain else [pytorch.doubt(self.names[1])]
        if keras.certain and not keras.targets_first:
            first, second = keras.parameters[:2]
            found.append(
                f"Keras gives a loss the targets first, and {self.names[0]}({first}, {second}) "
                "takes them second"
            )
        return found


def _targets_of_pytorch(targets: Array, output: Array, moved: bool) -> Array:
    """Targets with channels first if the outputs have; in the dtype of the outputs if they are
    floats or have their shape, else as class numbers."""
    if moved and targets.ndim == output.ndim:
        targets = np.moveaxis(targets, -1, 1)
    if targets.shape == output.shape or targets.dtype.kind == "f":
        return targets.astype(output.dtype)
    return targets.astype(np.int64)


def _worst_element(
    both: _Losses, arrays: tuple[Array, ...], moved: bool
) -> tuple[str, str, str, tuple[Array, Array]]:
    """Where the losses differ most: the place, its output and target, and both losses there. First
    the sample, then the element, if the losses are means over the elements."""
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
    """The sample at which the losses differ most, by evaluating smaller and smaller groups."""
    chosen = np.arange(len(arrays[0]))
    while len(chosen) > 1:
        groups = np.array_split(chosen, min(_GROUPS, len(chosen)))
        apart = []
        for group in groups:
            keras, pytorch = map(float, both(*(array[group] for array in arrays)))
            gap = abs(keras - pytorch)
            apart.append(math.inf if math.isnan(gap) else gap)
        chosen = groups[int(np.argmax(apart))]
    return int(chosen[0])
