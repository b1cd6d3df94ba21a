"""Do a Keras model and a PyTorch module give the same outputs, and if not, where do they part?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.findings import Finding, settle
from parity.common.tolerance import Difference, check_tolerance
from parity.models.capture import Call, has_own_forward, run_keras, run_pytorch
from parity.models.closeness import agree, compare
from parity.models.divergence import hidden_parting, indented, where_they_part
from parity.models.losses import losses_apart
from parity.models.pairs import Paired, paired
from parity.weights.keras_layers import input_shape, named_layers
from parity.weights.layer import is_keras, is_pytorch, without_bfloat16

__all__ = ["assert_model_parity"]

_DATA_FORMATS = ("channels_first", "channels_last")


def assert_model_parity(
    keras_model: Any,
    torch_model: Any,
    x: Any,
    *,
    layers: Mapping[str, str] | None = None,
    data_format: str = "channels_first",
    rtol: float | None = None,
    atol: float | None = None,
    losses: tuple[Any, Any] | None = None,
    targets: Any = None,
) -> Difference:
    """Check that a Keras model and a PyTorch module give the same outputs on the same inputs, and
    layer by layer.

    Both run in inference mode, each with the weights that it has (`parity.weights.copy` carries
    them over), and are left as they were. Where the outputs agree and the layers with weights are
    pairs, as in `parity.weights.copy`, their inputs and outputs are compared too, since a saturated
    head hides what is wrong before it; an order of layers or features that leaves the outputs alone
    is no fault. Layers whose kind is not known are left out, and named where the outputs differ;
    the others are compared. Where they are no pairs (other counts or kinds), only the outputs are.

        weights.copy(keras_model, torch_model)
        assert_model_parity(keras_model, torch_model, images)

    Args:
        keras_model: a Keras model of any kind, on any backend, built.
        torch_model: a `torch.nn.Module`.
        x: the input as the Keras model takes it, a batch of several samples, with NumPy; a tuple or
            list for several inputs. The inputs and outputs of all layers with weights are kept
            meanwhile.
        layers: `{Keras name: PyTorch name}` for all layers with weights, where their order differs
            (as in `parity.weights.copy`).
        data_format: what PyTorch's model takes. `"channels_first"`: it gets images (N, *space, C)
            as (N, C, *space), if the first Keras layer with a `data_format` says channels_last or
            there is none: arrays of four and more axes, and of three where a layer such as Conv1D
            takes three. `"channels_last"`: it gets `x` as it is, and permutes itself. Outputs are
            compared in Keras's layout, whichever of both PyTorch gives.
        rtol, atol: an element misses where `abs(a - b) > atol + rtol max(abs(a), abs(b))`.
            Default 0, and of the largest output 3e-5 in float32, 6e-14 in float64, 6 % in
            float16, 13 % in bfloat16. Sound ports of 20 layers in float32 came to 4e-6. An epsilon
            of 1e-5 for 1e-3 in one BatchNorm moves its own outputs by 5e-4, of which twenty more
            layers may leave 4e-6: so epsilons are compared themselves, too. On a GPU that rounds
            convolutions to TF32 none of this holds: switch that off.
        losses: `(keras_loss, torch_loss)`, of which Keras's takes `(y_true, y_pred)` and PyTorch's
            `(input, target)`; where the outputs agree, both are evaluated on them and the means
            compared, by the same tolerances. A model of several outputs has none here.
        targets: the losses' targets, as Keras takes them; PyTorch gets them as it gets the inputs,
            whole numbers as they are unless they have the shape of the outputs.

    Returns the difference of the outputs (of several, of the one that differs most).

    Raises:
        ParityError: an `AssertionError`, where the outputs differ, or those of a layer. It names
            the first layer at which the models part, or the two between which they do, and the
            likely cause: a setting, a transposed or reordered kernel, an activation, a pooling.
            Where they agree and the epsilon of a layer or the losses do not, it names those, and
            the element at which the losses part most, or the reduction.
        TypeError, ValueError: models, inputs, tolerances or losses that are none, `layers` that
            make no pairs. What a model itself raises gets a note on what it was given.
    """
    __tracebackhide__ = True
    _check_arguments(keras_model, torch_model, data_format, losses, targets)
    check_tolerance(rtol, atol)
    compared = _Compared(keras_model, torch_model, x, layers, data_format)
    worst, message = compared.judged((rtol, atol), losses, targets)
    names = [getattr(model, "name", type(model).__name__) for model in (keras_model, torch_model)]
    settle(Finding(" and ".join(names), not message, worst, message))
    return worst


class _Compared:
    """What one run of both models gave, and how it compares."""

    def __init__(
        self,
        keras_model: Any,
        torch_model: Any,
        x: Any,
        layers: Mapping[str, str] | None,
        data_format: str,
    ) -> None:
        inputs = _arrays(x)
        self.paired = paired(keras_model, torch_model, layers)
        self.calls: tuple[list[Call], list[Call]] = ([], [])
        kept = self.calls if self.paired.pairs else (None, None)
        more = bool(self.paired.pairs) and has_own_forward(keras_model, torch_model)
        moved = _moved_ranks(keras_model)
        try:
            self.keras = run_keras(keras_model, inputs, kept[0], more)
        except Exception as error:
            error.add_note(f"x is given as Keras takes it: keras_model got {_shapes(inputs)}")
            raise
        if data_format == "channels_first":
            inputs = [_channels_first(one, moved) for one in inputs]
        try:
            self.pytorch = run_pytorch(torch_model, inputs, kept[1], more)
        except Exception as error:
            other = (
                "channels first; data_format='channels_last' gives it x as it is"
                if data_format == "channels_first"
                else "x as it is; data_format='channels_first' gives it images (N, C, *space)"
            )
            error.add_note(f"torch_model got {_shapes(inputs)}, {other}")
            raise
        if len(self.keras) != len(self.pytorch):
            many = f"Keras gives {len(self.keras)} outputs, PyTorch {len(self.pytorch)}"
            raise ValueError(f"{many}; wanted as many")
        outputs = zip(self.pytorch, self.keras, strict=True)
        self.aligned = [_aligned(*both, moved, data_format) for both in outputs]

    def judged(
        self, tolerance: tuple[float | None, float | None], losses: Any, targets: Any
    ) -> tuple[Difference, str]:
        """The difference of the outputs, and in words what is wrong; empty if nothing is."""
        both = list(zip(self.keras, self.aligned, strict=True))
        found = [compare(*outputs, *tolerance) for outputs in both]
        failed = next((one for one in found if not one.passed), None)
        if failed is not None:
            which = found.index(failed)
            of = f" {which}" if len(found) > 1 else ""
            lines = [*self._where(which), "", f"output{of} of the models"]
            return failed, "\n".join([*lines, *indented(failed.lines(("Keras", "PyTorch")))])
        worst = max(found, key=lambda one: one.absolute / (one.atol or 1))
        lines = hidden_parting(self.paired.sure, self.calls, _allowed(found, self.keras))
        if lines or losses is None:
            return worst, "\n".join(lines)
        turned = self.aligned[0] is not self.pytorch[0]
        outputs = self.keras[0], self.pytorch[0]
        return worst, losses_apart(losses, np.asarray(targets), *outputs, turned, *tolerance)

    def _where(self, output: int) -> list[str]:
        pairs, left_out = self.paired.pairs, _left_out(self.paired)
        if not pairs:
            return [
                "the outputs differ; where is not known, as the layers are no pairs: "
                f"{self.paired.why_none}",
                *left_out,
            ]
        keras, pytorch = self.keras[output], self.pytorch[output]
        both = (keras, self.aligned[output]), (keras, pytorch)
        return [*where_they_part(pairs, self.calls, *both), *left_out]


def _left_out(found: Paired) -> list[str]:
    """The layers with weights that were not compared, in words."""
    lines = []
    if found.unknown:
        lines += ["", "not compared, as their kind is not known", *indented(found.unknown)]
    if found.single:
        lines += ["", "not compared, as none of the other model fits", *indented(found.single)]
    return lines


def _arrays(x: Any) -> list[Array]:
    """The inputs of the models, one by one."""
    inputs = [
        without_bfloat16(np.asarray(one)) for one in (x if isinstance(x, tuple | list) else [x])
    ]
    for array in inputs:
        if not array.size:
            raise ValueError(
                f"x holds no number, its shape is {array.shape}; wanted a batch of several samples"
            )
    return inputs


def _allowed(found: list[Difference], outputs: list[Array]) -> float:
    """The tolerances of the outputs, as a share of the largest."""
    largest = [float(np.max(np.abs(one.astype(np.float64)), initial=0.0)) for one in outputs]
    shares = [
        one.rtol + one.atol / top
        for one, top in zip(found, largest, strict=True)
        if 0 < top < np.inf
    ]
    return min(shares, default=0.0)


def _shapes(arrays: list[Array]) -> str:
    return ", ".join(str(array.shape) for array in arrays)


def _check_arguments(
    keras_model: Any, torch_model: Any, data_format: str, losses: Any, targets: Any
) -> None:
    if not is_keras(keras_model):
        raise TypeError(f"keras_model is a {type(keras_model).__name__}; wanted a Keras model")
    if not is_pytorch(torch_model):
        raise TypeError(f"torch_model is a {type(torch_model).__name__}; wanted a torch.nn.Module")
    if data_format not in _DATA_FORMATS:
        wanted = " or ".join(map(repr, _DATA_FORMATS))
        raise ValueError(f"data_format is {data_format!r}; wanted {wanted}")
    if (losses is None) != (targets is None):
        given, absent = ("losses", "targets") if targets is None else ("targets", "losses")
        raise ValueError(f"{given} without {absent}; wanted both or none")
    if losses is not None and (not isinstance(losses, tuple | list) or len(losses) != 2):
        raise ValueError(f"losses is {losses!r}; wanted (keras_loss, torch_loss)")


# Layouts


def _moved_ranks(model: Any) -> set[int]:
    """How many axes the arrays have whose channels PyTorch wants first."""
    found = [
        (layer.data_format, len(input_shape(layer)))
        for _, layer in named_layers(model)
        if hasattr(layer, "data_format") and type(layer).__name__ != "Flatten"
    ]
    if found and found[0][0] == "channels_first":
        return set()
    return {4, 5} | {rank for _, rank in found if rank >= 3}


def _channels_first(array: Array, moved: set[int]) -> Array:
    return np.moveaxis(array, -1, 1) if array.ndim in moved else array


def _aligned(pytorch: Array, keras: Array, moved: set[int], data_format: str) -> Array:
    """PyTorch's output in Keras's layout: the one that agrees, or the likelier of the two."""
    choices = [np.moveaxis(pytorch, 1, -1), pytorch] if pytorch.ndim in moved else [pytorch]
    if data_format == "channels_last":
        choices = choices[::-1]
    fitting = [one for one in choices if one.shape == keras.shape]
    return next((one for one in fitting if agree(keras, one)), (fitting or [pytorch])[0])
