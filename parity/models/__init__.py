"""Do a Keras model and a PyTorch module give the same outputs, and if not, where do they part?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.difference import Difference, Finding, check_tolerance, settle
from parity.inputs import Array
from parity.models.capture import Call, run_keras, run_pytorch
from parity.models.diagnosis import (
    Step,
    between_causes,
    compare,
    inference_settings,
    layer_causes,
    make_step,
)
from parity.models.losses import losses_apart
from parity.weights import pair
from parity.weights.keras_layers import input_shape, named_layers
from parity.weights.layers import Layer, WeightsError, is_keras, is_pytorch, read, without_bfloat16
from parity.weights.settings import setting_differences

__all__ = ["assert_model_parity"]


def assert_model_parity(
    keras_model: Any,
    torch_model: Any,
    x: Any,
    *,
    layers: Mapping[str, str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    losses: tuple[Any, Any] | None = None,
    targets: Any = None,
) -> Difference:
    """Check that a Keras model and a PyTorch module give the same outputs on the same inputs.

    Both run in inference mode, each with the weights that it has (`parity.weights.copy` carries
    them over), and are left as they were.

        weights.copy(keras_model, torch_model)
        assert_model_parity(keras_model, torch_model, images)

    Args:
        keras_model: a Keras model of any kind, on any backend, built.
        torch_model: a `torch.nn.Module`.
        x: the input as the Keras model takes it, a batch of several samples, with NumPy; a tuple or
            list for several inputs. PyTorch gets images (N, *space, C) as (N, C, *space), if the
            first Keras layer with a `data_format` says channels_last or there is none: arrays of
            four and more axes, and of three where a layer such as Conv1D takes three. Outputs are
            compared likewise; an output that PyTorch has channels last already is taken as it is.
        layers: `{Keras name: PyTorch name}` for all layers with weights, where their order differs
            (as in `parity.weights.copy`). Needed to say where the models part, not whether.
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
        ParityError: an `AssertionError`, where the outputs differ. It names the first layer at
            which the models part, or the two between which they do, and the likely cause: a
            setting, a transposed or reordered kernel, an activation. Where outputs agree and the
            epsilon of a layer or the losses do not, it names those, and the element at which the
            losses part most.
        TypeError, ValueError: models, inputs, tolerances or losses that are none.
    """
    __tracebackhide__ = True
    _check_arguments(keras_model, torch_model, losses, targets)
    check_tolerance(rtol, atol)
    worst, message = _compared(keras_model, torch_model, x, layers, (rtol, atol), losses, targets)
    names = [getattr(model, "name", type(model).__name__) for model in (keras_model, torch_model)]
    settle(Finding(" and ".join(names), not message, worst, message))
    return worst


def _compared(
    keras_model: Any,
    torch_model: Any,
    x: Any,
    layers: Mapping[str, str] | None,
    tolerance: tuple[float | None, float | None],
    losses: tuple[Any, Any] | None,
    targets: Any,
) -> tuple[Difference, str]:
    """The difference of the outputs, and in words what is wrong; empty if nothing is."""
    given = x if isinstance(x, tuple | list) else [x]
    inputs = [without_bfloat16(np.asarray(one)) for one in given]
    moved = _moved_ranks(keras_model)
    there = run_keras(keras_model, inputs)
    here = run_pytorch(torch_model, [_channels_first(one, moved) for one in inputs])
    if len(there) != len(here):
        raise ValueError(f"Keras gives {len(there)} outputs, PyTorch {len(here)}; wanted as many")
    aligned = [_aligned(two, one, moved) for one, two in zip(there, here, strict=True)]
    found = [compare(one, two, *tolerance) for one, two in zip(there, aligned, strict=True)]
    failed = next((one for one in found if not one.passed), None)
    if failed is not None:
        which = found.index(failed)
        lines = _where(keras_model, torch_model, inputs, layers, which)
        of = f" {which}" if len(found) > 1 else ""
        lines += ["", f"output{of} of the models", *_indented(failed.lines(("Keras", "PyTorch")))]
        return failed, "\n".join(lines)
    worst = max(found, key=lambda one: one.absolute / (one.atol or 1))
    message = _hidden(keras_model, torch_model, layers)
    if not message and losses is not None:
        turned = aligned[0] is not here[0]
        both = there[0], here[0]
        message = losses_apart(losses, np.asarray(targets), *both, turned, *tolerance)
    return worst, message


def _hidden(keras_model: Any, torch_model: Any, layers: Mapping[str, str] | None) -> str:
    """The epsilons that differ although the outputs agree, in words: on other inputs, or behind
    fewer layers, they would not.
    """
    try:
        pairs = pair(read(keras_model, "keras_model"), read(torch_model, "torch_model"), layers)
    except WeightsError:
        return ""
    texts = [
        f"layer {number}: {one.label} and {two.label}: {text}"
        for number, (one, two) in enumerate(pairs, 1)
        for key, text in setting_differences(one, two).items()
        if key == "epsilon"
    ]
    return (
        "\n".join(["the outputs agree on these inputs, the epsilons do not", *texts])
        if texts
        else ""
    )


def _check_arguments(keras_model: Any, torch_model: Any, losses: Any, targets: Any) -> None:
    if not is_keras(keras_model):
        raise TypeError(f"keras_model is a {type(keras_model).__name__}; wanted a Keras model")
    if not is_pytorch(torch_model):
        raise TypeError(f"torch_model is a {type(torch_model).__name__}; wanted a torch.nn.Module")
    if (losses is None) != (targets is None):
        given, absent = ("losses", "targets") if targets is None else ("targets", "losses")
        raise ValueError(f"{given} without {absent}; wanted both or none")
    if losses is not None and (not isinstance(losses, tuple | list) or len(losses) != 2):
        raise ValueError(f"losses is {losses!r}; wanted (keras_loss, torch_loss)")


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


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


def _aligned(here: Array, there: Array, moved: set[int]) -> Array:
    """PyTorch's output in Keras's layout."""
    choices = [np.moveaxis(here, 1, -1)] if here.ndim in moved else []
    return next((one for one in (*choices, here) if one.shape == there.shape), here)


# Where they part


def _where(
    keras_model: Any,
    torch_model: Any,
    inputs: list[Array],
    layers: Mapping[str, str] | None,
    output: int,
) -> list[str]:
    """The first layer, or the two layers, at which two models part whose outputs differ."""
    try:
        pairs = pair(read(keras_model, "keras_model"), read(torch_model, "torch_model"), layers)
    except WeightsError as error:
        return [f"the outputs differ; where is not known, as the layers are no pairs: {error}"]
    moved = _moved_ranks(keras_model)
    calls: tuple[list[Call], list[Call]] = ([], [])
    there = run_keras(keras_model, inputs, calls[0])[output]
    here = run_pytorch(torch_model, [_channels_first(i, moved) for i in inputs], calls[1])[output]
    steps, lines = _steps(pairs, calls)
    if not steps:
        return ["the outputs differ; where is not known: no pair of layers was called", *lines]
    last: Step | None = None
    for number, step in enumerate(steps):
        taken, given = compare(*step.taken), compare(*step.given)
        if not taken.passed:
            found = _between(last, step, calls, (step.taken, _raw(step)))
            return [*found, *_so_far(steps[:number]), *_elsewhere(pairs, None), *lines]
        if not given.passed:
            found = [*_at_layer(step, given), *_so_far(steps[: number + 1])]
            return [*found, *_elsewhere(pairs, step), *lines]
        last = step
    ends = ((there, _aligned(here, there, moved)), (there, here))
    if compare(*ends[0]).passed:
        rounding = "the outputs miss the given tolerances; no layer does more than round otherwise"
        return [rounding, *_so_far(steps), *_elsewhere(pairs, None), *lines]
    found = _between(last, None, calls, ends)
    return [*found, *_so_far(steps), *_elsewhere(pairs, None), *lines]


def _steps(
    pairs: list[tuple[Layer, Layer]], calls: tuple[list[Call], list[Call]]
) -> tuple[list[Step], list[str]]:
    """The calls of the pairs in the order in which Keras makes them, and what has no partner."""
    numbers = {id(one.handle): number for number, (one, _) in enumerate(pairs)}
    times: Counter[int] = Counter()
    steps = []
    for place, call in enumerate(calls[0]):
        number = numbers.get(id(call.layer))
        if number is None:
            continue
        other = pairs[number][1].handle
        again = [at for at, theirs in enumerate(calls[1]) if theirs.layer is other]
        if times[number] < len(again):
            at = again[times[number]]
            both = (call, calls[1][at])
            steps.append(make_step(number + 1, pairs[number], both, (place, at)))
        times[number] += 1
    lines = []
    for number, (one, two) in enumerate(pairs):
        called = sum(call.layer is two.handle for call in calls[1])
        if called != times[number]:
            lines += ["", f"{one.label} is called {times[number]} times, {two.label} {called}"]
    return steps, lines


def _at_layer(step: Step, given: Difference) -> list[str]:
    one, two = step.pair
    return [
        f"the outputs differ, first at layer {step.number}: {one.label} and {two.label}: their "
        "inputs agree, their outputs do not",
        *_indented(given.lines(step.names)),
        "likely cause",
        *_indented(layer_causes(step)),
    ]


def _raw(step: Step) -> tuple[Array, Array]:
    """What came into both layers, each in its own layout."""
    mine, theirs = (call.taken for call in step.calls)
    assert mine is not None  # they are kept of every layer of a known kind
    assert theirs is not None
    return mine, theirs


def _between(
    last: Step | None,
    step: Step | None,
    calls: tuple[list[Call], list[Call]],
    arrays: tuple[tuple[Array, Array], tuple[Array, Array]],
) -> list[str]:
    """What is said where one pair's outputs agree and the next one's inputs do not."""
    if last is None:
        place = "before the first layer with weights"
    elif step is None:
        place = f"after the last layer with weights, {' / '.join(last.names)}"
    else:
        place = f"between {' / '.join(last.names)} and {' / '.join(step.names)}"
    names = step.names if step else ("Keras", "PyTorch")
    what = "inputs of the latter" if step and last else "inputs" if step else "outputs"
    lines = [f"the outputs differ, first {place}: all before agrees, the {what} do not"]
    lines += _indented(compare(*arrays[0]).lines(names))
    before = None
    if last is not None:
        mine, theirs = (call.given for call in last.calls)
        before = None if mine is None or theirs is None else (mine, theirs)
    causes = between_causes(before, *arrays)
    if causes:
        lines += ["likely cause", *_indented(causes)]
    return [*lines, "what lies there", *_indented(_in_between(last, step, calls))]


def _in_between(
    last: Step | None, step: Step | None, calls: tuple[list[Call], list[Call]]
) -> list[str]:
    """The layers without weights of both sides, by name."""
    lines = []
    for side, framework in enumerate(("Keras", "PyTorch")):
        start = last.place[side] + 1 if last else 0
        stop = step.place[side] if step else len(calls[side])
        labels = [call.label for call in calls[side][start:stop] if _counts(call)]
        fused = _fused(last) if side == 0 else ""
        labels = [fused, *labels] if fused else labels
        more = "" if side == 0 else "; functions that forward calls are not seen"
        lines.append(f"{framework}: {', '.join(labels) or 'no layer'}{more}")
    return lines


def _counts(call: Call) -> bool:
    return type(call.layer).__name__ not in ("InputLayer", "Dropout", "Identity")


def _fused(last: Step | None) -> str:
    """The activation of the Keras layer itself."""
    activation = getattr(last.calls[0].layer, "activation", None) if last else None
    name = getattr(activation, "__name__", type(activation).__name__)
    return "" if last is None or activation is None or name == "linear" else f"activation={name}"


def _so_far(steps: list[Step]) -> list[str]:
    """The largest error of every layer's outputs, relative to the largest entry."""
    if not steps:
        return []
    lines = ["", "largest error of each layer's outputs, relative to its largest output"]
    for step in steps[-12:]:
        found = compare(*step.given)
        largest = float(np.max(np.abs(step.given[0]), initial=0.0)) or 1.0
        error = f"{_largest_error(step) / largest:.1e}" if found.comparable else "other shapes"
        lines.append(f"  {' / '.join(step.names)}: {error}")
    return lines


def _elsewhere(pairs: list[tuple[Layer, Layer]], named: Step | None) -> list[str]:
    """The settings that differ in all other pairs: not all that is wrong shows first."""
    others = [both for both in pairs if named is None or both is not named.pair]
    texts = [text for both in others for text in inference_settings(*both)]
    return ["", "settings that differ elsewhere", *_indented(texts)] if texts else []


def _largest_error(step: Step) -> float:
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(step.given[0] - step.given[1]), initial=0.0))
