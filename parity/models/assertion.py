"""Do a Keras model and a PyTorch module give the same outputs? If not, where do they diverge?"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.common.arrays import Array, without_bfloat16
from parity.common.findings import Finding, settle
from parity.common.tolerance import Difference, check_tolerance
from parity.models.capture import (
    Call,
    Inputs,
    Outputs,
    has_own_forward,
    run_keras,
    run_pytorch,
)
from parity.models.closeness import agree, compare, relative_error
from parity.models.divergence import Divergence, divergence, hidden_divergence
from parity.models.losses import losses_apart
from parity.models.pairs import paired, repaired
from parity.models.result import LayerResult, ModelResult
from parity.models.steps import Step
from parity.models.words import LINES, Section, by_the_map, left_out, output, sections_of, text
from parity.weights.keras_layers import moved_ranks
from parity.weights.layer import is_keras, is_pytorch
from parity.weights.pairing import check_map

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

    Both run in inference mode with their own weights (`parity.weights.copy` copies them), and are
    not changed. If the outputs agree, the inputs and outputs of the layers with weights are
    compared too, in pairs as in `parity.weights.copy`, since a saturated head hides errors of
    earlier layers; another order of layers or features that does not change the outputs is allowed.
    Layers of an unknown kind, or without a partner of their kind and shape, are not compared, and
    named if the outputs differ; the other layers are compared in their order.

        weights.copy(keras_model, torch_model)
        assert_model_parity(keras_model, torch_model, images)

    Args:
        keras_model: a Keras model of any kind, on any backend, built.
        torch_model: a `torch.nn.Module`.
        x: the input as the Keras model takes it, a batch of several samples, with NumPy; a tuple or
            list for several inputs, or a dictionary, which PyTorch's forward gets by keywords if it
            has parameters of these names, or else whole. Outputs in dictionaries are compared by
            key. The inputs and outputs of all layers with weights stay in memory during the call.
        layers: `{Keras name: PyTorch name}` for all layers with weights, where their order differs
            (as in `parity.weights.copy`).
        data_format: the layout that PyTorch's model takes. `"channels_first"`: it gets
            images (N, *space, C) as (N, C, *space), if the first Keras layer with a `data_format`
            says channels_last or there is none: arrays of four and more axes, and of three if a
            layer such as Conv1D takes three. `"channels_last"`: it gets `x` unchanged, and permutes
            itself. Outputs are compared in Keras's layout, whichever layout PyTorch's have.
        rtol, atol: an element misses where `abs(a - b) > atol + rtol max(abs(a), abs(b))`.
            Default: rtol is 0, atol relative to the largest output 3e-5 in float32, 6e-14 in
            float64, 6 % in float16, 13 % in bfloat16. Correct ports of 20 layers in float32 had
            errors up to 4e-6. An epsilon of 1e-5 in place of 1e-3 in one BatchNorm changes its
            outputs by 5e-4, but those of the twentieth layer after it perhaps by 4e-6: so epsilons
            are compared, too, by `rtol` and by the change of the outputs that they can cause
            (hardly any for 1.001e-5 in place of 1e-5). On a GPU that rounds convolutions to TF32
            errors are larger: switch that off.
        losses: `(keras_loss, torch_loss)`. Keras's takes `(y_true, y_pred)` and PyTorch's
            `(input, target)`. If the outputs agree, both are evaluated on them and the means
            compared, with the same tolerances. Not for models with several outputs.
        targets: the losses' targets, as Keras takes them; PyTorch gets them as it gets the inputs,
            whole numbers stay whole unless they have the shape of the outputs.

    Returns the difference of the outputs (if there are several, of the one that differs most).

    Raises:
        ParityError: an `AssertionError`, if the outputs of the models or of a layer differ. It
            names the first layer at which the models diverge, or the two layers between which they
            do, and the likely cause: a setting, a transposed or reordered kernel, an activation, a
            pooling. If the outputs agree, but the epsilon of a layer or the losses do not, it names
            these, and the element at which the losses differ most, or the reduction. Its `result`,
            a `parity.models.result.ModelResult`, has objects: layers, errors, causes and settings.
            The message has at most 40 lines; the full text is `result.report`.
        TypeError, ValueError: wrong models, inputs, tolerances or losses, or `layers` that do not
            pair all layers. An error of a model itself gets a note about the inputs that it got.
    """
    __tracebackhide__ = True
    _check_arguments(keras_model, torch_model, data_format, losses, targets)
    check_map(layers)
    check_tolerance(rtol, atol)
    compared = _Compared(keras_model, torch_model, x, layers, data_format)
    worst, short, result = compared.judged((rtol, atol), losses, targets)
    names = [getattr(model, "name", type(model).__name__) for model in (keras_model, torch_model)]
    what = " and ".join(names)
    settle(Finding(what, result.passed, worst, result.report, short, result))
    return worst


class _Compared:
    """The outputs and calls of one run of both models, and their comparison."""

    def __init__(
        self,
        keras_model: Any,
        torch_model: Any,
        x: Any,
        layers: Mapping[str, str] | None,
        data_format: str,
    ) -> None:
        inputs = _arrays(x)
        self.models = keras_model, torch_model
        self.paired = paired(keras_model, torch_model, layers)
        self.by_order = layers is None
        self.calls: tuple[list[Call], list[Call]] = ([], [])
        kept = self.calls if self.paired.pairs else (None, None)
        more = bool(self.paired.pairs) and has_own_forward(keras_model, torch_model)
        moved = moved_ranks(keras_model)
        try:
            keras = run_keras(keras_model, inputs, kept[0], more)
        except Exception as error:
            error.add_note(f"x is given as Keras takes it: keras_model got {_shapes(inputs)}")
            raise
        if data_format == "channels_first":
            inputs = _channels_first(inputs, moved)
        try:
            pytorch = run_pytorch(torch_model, inputs, kept[1], more)
        except Exception as error:
            other = (
                "channels first; data_format='channels_last' gives it x as it is"
                if data_format == "channels_first"
                else "x as it is; data_format='channels_first' gives it images (N, C, *space)"
            )
            error.add_note(f"torch_model got {_shapes(inputs)}, {other}")
            raise
        self.names = list(keras)
        self.keras = list(keras.values())
        self.pytorch = _by_name(keras, pytorch)
        outputs = zip(self.pytorch, self.keras, strict=True)
        self.aligned = [_aligned(*both, moved, data_format) for both in outputs]

    def judged(
        self, tolerance: tuple[float | None, float | None], losses: Any, targets: Any
    ) -> tuple[Difference, str, ModelResult]:
        """The difference of the outputs, the message (empty if they agree), and the result."""
        both = list(zip(self.keras, self.aligned, strict=True))
        found = [compare(*outputs, *tolerance) for outputs in both]
        outputs = dict(zip(self.names, found, strict=True))
        failed = next((one for one in found if not one.passed), None)
        if failed is not None:
            self._repair()
            which = found.index(failed)
            of = f" {self.names[which]}" if len(found) > 1 else ""
            place = self._where(which)
            rest = [*left_out(self.paired), output(of, failed)]
            return failed, *self._result(outputs, place, rest)
        worst = max(found, key=lambda one: one.absolute / (one.atol or 1))
        allowed = _allowed(found, self.keras), tolerance[0] or 0.0
        place = hidden_divergence(self.paired.sure, self.calls, *allowed)
        if place.where and self._repair():
            place = hidden_divergence(self.paired.sure, self.calls, *allowed)
        if place.where or losses is None:
            return worst, *self._result(outputs, place, [])
        turned = self.aligned[0] is not self.pytorch[0]
        first = self.keras[0], self.pytorch[0]
        words = losses_apart(losses, np.asarray(targets), *first, turned, *tolerance)
        result = ModelResult(outputs, "losses" if words else "", report=words)
        return worst, words, result

    def _repair(self) -> bool:
        """Replaces the pairs if the order of the layers does not fit; returns whether it did."""
        before = self.paired
        if self.by_order:
            self.paired = repaired(before, *self.models)
        return self.paired is not before

    def _where(self, number: int) -> Divergence:
        if not self.paired.pairs:
            return Divergence("unknown")
        keras, pytorch = self.keras[number], self.pytorch[number]
        both = (keras, self.aligned[number]), (keras, pytorch)
        return divergence(self.paired.pairs, self.calls, *both)

    def _result(
        self, outputs: dict[str, Difference], place: Divergence, rest: list[Section]
    ) -> tuple[str, ModelResult]:
        """The message, and the result."""
        short, full = (
            [
                *sections_of(place, of_all, self.paired.why),
                *rest,
                *by_the_map(self.paired, of_all),
            ]
            for of_all in (True, False)
        )
        message, report = text(short, LINES), text(full)
        if not place.where:
            message = report = ""
        elif message != report:
            message += "\n\nall of it: the `result.report` of this error"
        layers = {id(step): _layer_result(step) for step in place.steps}
        ends = [
            None if one is None else layers.get(id(one)) or _layer_result(one)
            for one in (place.step, place.last)
        ]
        return message, ModelResult(
            outputs=outputs,
            where=place.where,
            layer=ends[0],
            before=ends[1],
            difference=place.difference,
            layers=tuple(layers.values()),
            causes=tuple(place.causes),
            settings=tuple(place.settings),
            pairs=self.paired.layers,
            left_out=(*self.paired.unknown, *self.paired.single),
            report=report,
        )


def _layer_result(step: Step) -> LayerResult:
    errors = [
        relative_error(*arrays) if arrays[0].shape == arrays[1].shape else math.nan
        for arrays in (step.inputs, step.outputs)
    ]
    keras, pytorch = step.pair
    return LayerResult(step.number, keras.name, pytorch.name, keras.kind, *errors)


def _by_name(keras: Outputs, pytorch: Outputs) -> list[Array]:
    """PyTorch's outputs in the order of Keras's; by key, if both return dictionaries."""
    if set(keras) == set(pytorch):
        return [pytorch[name] for name in keras]
    if len(keras) != len(pytorch):
        many = f"Keras gives {len(keras)} outputs, PyTorch {len(pytorch)}"
        raise ValueError(f"{many}; wanted as many")
    if any(_has_keys(one) for one in (keras, pytorch)) and all(map(_has_keys, (keras, pytorch))):
        names = " and ".join(", ".join(one) for one in (keras, pytorch))
        raise ValueError(f"the outputs of Keras and PyTorch are {names}; wanted the same keys")
    return list(pytorch.values())


def _has_keys(outputs: Outputs) -> bool:
    return any(part and not part.isdecimal() for name in outputs for part in name.split("/"))


def _arrays(x: Any) -> Inputs:
    """The inputs of the models, one by one or by key."""
    if isinstance(x, Mapping):
        return {str(key): _array(one) for key, one in x.items()}
    several = x if isinstance(x, tuple | list) else [x]
    if not several:
        raise ValueError(f"x is {x!r}; wanted at least one array")
    return [_array(one) for one in several]


def _array(x: Any) -> Array:
    array = without_bfloat16(np.asarray(x))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"x holds {array.dtype}; wanted real numbers")
    if not array.size:
        raise ValueError(
            f"x holds no number, its shape is {array.shape}; wanted a batch of several samples"
        )
    return array


def _allowed(found: list[Difference], outputs: list[Array]) -> float:
    """The tolerance of the outputs, relative to the largest entry."""
    largest = [float(np.max(np.abs(one.astype(np.float64)), initial=0.0)) for one in outputs]
    shares = [
        one.rtol + one.atol / top
        for one, top in zip(found, largest, strict=True)
        if 0 < top < np.inf
    ]
    return min(shares, default=0.0)


def _shapes(arrays: Inputs) -> str:
    if isinstance(arrays, dict):
        return ", ".join(f"{name}: {array.shape}" for name, array in arrays.items())
    return ", ".join(str(array.shape) for array in arrays)


def _kind(model: Any) -> str:
    """The class with its package: both frameworks have a Sequential."""
    package = type(model).__module__.partition(".")[0]
    return f"{package} {type(model).__name__}".removeprefix("builtins ")


def _check_arguments(
    keras_model: Any, torch_model: Any, data_format: str, losses: Any, targets: Any
) -> None:
    if not is_keras(keras_model):
        raise TypeError(f"keras_model is a {_kind(keras_model)}; wanted a Keras model")
    if not is_pytorch(torch_model):
        raise TypeError(f"torch_model is a {_kind(torch_model)}; wanted a torch.nn.Module")
    if data_format not in _DATA_FORMATS:
        wanted = " or ".join(map(repr, _DATA_FORMATS))
        raise ValueError(f"data_format is {data_format!r}; wanted {wanted}")
    if (losses is None) != (targets is None):
        given, absent = ("losses", "targets") if targets is None else ("targets", "losses")
        raise ValueError(f"{given} without {absent}; wanted both or none")
    if losses is not None and (not isinstance(losses, tuple | list) or len(losses) != 2):
        raise ValueError(f"losses is {losses!r}; wanted (keras_loss, torch_loss)")


# Layouts


def _channels_first(inputs: Inputs, moved: set[int]) -> Inputs:
    def turned(array: Array) -> Array:
        return np.moveaxis(array, -1, 1) if array.ndim in moved else array

    if isinstance(inputs, dict):
        return {key: turned(array) for key, array in inputs.items()}
    return [turned(array) for array in inputs]


def _aligned(pytorch: Array, keras: Array, moved: set[int], data_format: str) -> Array:
    """PyTorch's output in Keras's layout: the one that agrees, or the likelier of the two."""
    choices = [np.moveaxis(pytorch, 1, -1), pytorch] if pytorch.ndim in moved else [pytorch]
    if data_format == "channels_last":
        choices = choices[::-1]
    fitting = [one for one in choices if one.shape == keras.shape]
    return next((one for one in fitting if agree(keras, one)), (fitting or [pytorch])[0])
