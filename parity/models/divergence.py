"""Where two models diverge: goes through the pairs of layers in the order of Keras's calls.

If the outputs of the models agree, a layer may still differ, hidden by later ones. But a correct
port may also differ in everything that does not change the outputs: see `_is_benign`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.common.arrays import Array
from parity.common.tolerance import Difference
from parity.models.capture import Call
from parity.models.closeness import agree, compare, relative_error
from parity.models.diagnosis import (
    between_causes,
    inference_settings,
    layer_causes,
    pooling_causes,
    precision_causes,
    unseen_causes,
    wrong_parts,
)
from parity.models.result import Cause
from parity.models.steps import Both, Calls, Step, make_step
from parity.weights.keras_layers import kind_of_layer
from parity.weights.layer import Layer
from parity.weights.match import Pairs
from parity.weights.orders import RECURRENT
from parity.weights.pytorch_layers import kind_of_module
from parity.weights.settings import SettingDifference

_GROWTH = 4
"""An error of more than this times the errors so far is not rounding, which adds up with depth."""


@dataclass
class Divergence:
    """Where two models diverge; `where` as in `ModelResult`, empty if they do not.

    `step` is the first call whose inputs or outputs differ, `last` the one before it, and `between`
    the layers without weights between the two. `steps` are the calls that were compared, in order,
    up to `last`, or to `step` if its inputs agree. `numbers`: the labels of both layers of each
    pair.
    """

    where: str = ""
    hidden: bool = False
    steps: list[Step] = field(default_factory=list)
    step: Step | None = None
    last: Step | None = None
    difference: Difference | None = None
    causes: list[Cause] = field(default_factory=list)
    between: tuple[list[str], list[str]] = ([], [])
    settings: list[SettingDifference] = field(default_factory=list)
    uncalled: list[str] = field(default_factory=list)
    numbers: dict[int, tuple[str, str]] = field(default_factory=dict)


def divergence(pairs: Pairs, calls: Calls, outputs: Both, raw_outputs: Both) -> Divergence:
    """The first layer at which two models with different outputs diverge, or the two between which
    they do.

    `outputs`: those of the models, in Keras's layout; `raw_outputs`: each in its own layout.
    """
    steps, uncalled = _steps(pairs, calls)
    if not steps:
        causes = unseen_causes(pairs) or _hints(pairs, None, calls)
        return Divergence("unknown", causes=causes, uncalled=uncalled)
    place = _first_place(steps, calls)
    if place is not None:
        found = _described(place, calls)
    elif agree(*outputs):
        found = Divergence("rounding", steps=steps)
    else:
        arrays = outputs, raw_outputs
        found = _between(steps, None, calls, arrays, compare(*outputs))
    found.uncalled = uncalled
    _complete(found, pairs, steps, calls)
    return found


def hidden_divergence(pairs: Pairs, calls: Calls, share: float, rtol: float) -> Divergence:
    """The layer at which two models with equal outputs diverge, if there is one.

    `share`: the error that the user allows, relative to the largest output; `rtol`: the relative
    error of a setting.
    """
    steps, _ = _steps(pairs, calls)
    place = _first_place(steps, calls, share, hidden=True)
    if place is not None:
        found = _described(place, calls)
        _complete(found, pairs, steps, calls)
    else:  # after twenty layers the effect of an epsilon may be as small as rounding
        settings = _settings_of(pairs, steps, None, rtol)
        epsilons = [one for one in settings if one.key == "epsilon"]
        found = Divergence("settings" if epsilons else "", steps=steps, settings=epsilons)
        found.numbers = {n: (a.label, b.label) for n, (a, b) in enumerate(pairs, 1)}
    found.hidden = True
    return found


def _complete(found: Divergence, pairs: Pairs, steps: list[Step], calls: Calls) -> None:
    """Adds the settings that differ in other layers. Between two layers it also adds the causes in
    layers there whose calls are not compared, such as recurrent ones."""
    named = found.step.pair if found.step and found.where == "layer" else None
    found.settings = _settings_of(pairs, steps, named)
    if found.where != "between":
        return
    seen = {step.number for step in steps}
    start = found.last.number if found.last else 0
    stop = found.step.number if found.step else len(pairs) + 1
    there = [
        both
        for n, both in enumerate(pairs, 1)
        if n not in seen and (start < n < stop or _is_around(both, found))
    ]
    causes = unseen_causes(there)
    found.causes = [*causes, *found.causes]
    if not causes and there:
        found.causes += _hints(there, found.step, calls)
    told = {cause.text for cause in causes}
    found.settings = [one for one in found.settings if str(one) not in told]


def _is_around(pair: tuple[Layer, Layer], found: Divergence) -> bool:
    """Whether the two are weights that a layer of the user's own holds itself (they are listed
    before the layers in it), and the models diverge next to a layer in it."""
    # weights that the whole model holds are named "model.weight"
    owner = pair[1].name.rpartition(".")[0]
    inside = [
        owner == "model" or step.pair[1].name.startswith(f"{owner}.")
        for step in (found.last, found.step)
        if step
    ]
    return pair[1].kind == "parameter" and any(inside)


def _hints(there: Pairs, step: Step | None, calls: Calls) -> list[Cause]:
    """What often differs around recurrent layers and attention whose weights and settings agree.

    `step`: the first call after them.
    """
    found: list[Cause] = []
    recurrent = [both for both in there if both[0].kind in RECURRENT]
    masks = [call.label for call in calls[0] if _makes_mask(call.layer)]
    if masks and recurrent:
        words = "masks steps: Keras's recurrent layers skip them, PyTorch's do not"
        found.append(Cause("forward", f"Keras {masks[0]} {words}"))
    both_ways = any(pytorch.name.endswith("_reverse") for _, pytorch in recurrent)
    if both_ways and step is not None and _first_half_agrees(*step.inputs):
        words = (
            "the forward direction agrees, the backward one does not: that one ends at the first "
            "step, so its last output is out[:, 0, hidden_size:] or h_n[-1], not out[:, -1]"
        )
        found.append(Cause("layout", words))
    for _, pytorch in there:
        if pytorch.settings.get("batch_first") is False:
            words = (
                f"{pytorch.label} has batch_first=False: it takes steps first and samples second; "
                "wanted batch_first=True, unless forward permutes"
            )
            found.append(Cause("layout", words))
    return found


def _makes_mask(layer: object) -> bool:
    return bool(getattr(layer, "mask_zero", False)) or type(layer).__name__ == "Masking"


def _first_half_agrees(left: Array, right: Array) -> bool:
    half = left.shape[-1] // 2
    return left.shape == right.shape and half > 0 and agree(left[..., :half], right[..., :half])


def _settings_of(
    pairs: Pairs, steps: list[Step], named: object, rtol: float = 0.0
) -> list[SettingDifference]:
    """The settings that differ in all pairs but one: there may be more than one error."""
    inputs = {step.number: step.inputs[0] for step in steps}
    return [
        found
        for number, both in enumerate(pairs, 1)
        if both is not named
        for found in inference_settings(*both, inputs.get(number), rtol)
    ]


# The first difference


@dataclass
class _Place:
    """The first step whose inputs or outputs differ, the steps before it, and the difference."""

    before: list[Step]
    step: Step
    at_inputs: bool
    difference: Difference


def _first_place(
    steps: list[Step], calls: Calls, share: float = 0.0, hidden: bool = False
) -> _Place | None:
    """The first step at which two models diverge; `hidden`: the outputs of the models agree.

    After a layer with a forward of its own, whose result could not be compared, different inputs of
    a layer are no divergence if its outputs agree, or those of the models do. A layer with equal
    inputs must still have equal outputs.
    """
    unseen = False
    for number, step in enumerate(steps):
        moot = (step.own_forward or unseen) and (hidden or step.agrees)
        if moot and not agree(*step.inputs, share):
            unseen = True
            continue
        for arrays in (step.inputs, step.outputs):
            at_inputs = arrays is step.inputs
            if agree(*arrays, share):
                if hidden:
                    share = max(share, _GROWTH * np.nan_to_num(relative_error(*arrays)))
            elif (not at_inputs and _is_doubtful(step)) or _bias_is_in_the_mean(step, at_inputs):
                continue
            elif not hidden or not _is_benign(step, at_inputs, steps, calls):
                found = compare(*arrays, share=share)
                return _Place(steps[:number], step, at_inputs, found)
        unseen = unseen or (step.own_forward and not (step.agrees and step.whole))
    return None


def _is_doubtful(step: Step) -> bool:
    """Whether different outputs prove nothing, since the layer has a forward of its own: then later
    layers decide. Different weights or settings still count."""
    return step.own_forward and not wrong_parts(step)


def _is_benign(step: Step, at_inputs: bool, steps: list[Step], calls: Calls) -> bool:
    """Whether a step that differs proves nothing if the outputs of the models agree: arrays have
    other sizes, or the same numbers in another order, or PyTorch's are those of another call
    (layers of one kind that are paired in the wrong order, or called in another)."""
    keras, pytorch = step.inputs if at_inputs else step.outputs
    if keras.size != pytorch.size or _reordered(keras, pytorch):
        return True
    for other in steps:
        if other is not step and other.pair[1].kind == step.pair[1].kind:
            place = step.place[0], other.place[1]
            swapped = make_step(step.number, (step.pair[0], other.pair[1]), place, calls)
            arrays = swapped.inputs if at_inputs else swapped.outputs
            if agree(*arrays) or _reordered(*arrays):
                return True
    return False


def _bias_is_in_the_mean(step: Step, at_inputs: bool) -> bool:
    """Whether a step differs only by a bias that just one of the two layers has, or only by the
    difference of the means of two BatchNormalizations: `parity.weights.copy` puts such a bias into
    the mean."""
    if at_inputs and step.pair[0].kind != "batch_normalization":
        return False
    found = [layer.arrays.get("moving_mean" if at_inputs else "bias") for layer in step.pair]
    if at_inputs == any(one is None for one in found) or all(one is None for one in found):
        return False
    arrays = step.inputs if at_inputs else step.outputs
    shifts = [np.zeros(1) if one is None else one for one in found]
    sides = list(zip(arrays, shifts, strict=True))
    if any(shift.size not in (1, array.shape[-1]) for array, shift in sides):
        return False
    left, right = (array - shift.astype(array.dtype) for array, shift in sides)
    return agree(left, right, 1e-5)


def _reordered(left: Array, right: Array) -> bool:
    """Whether two arrays hold the same numbers in another order. Arrays whose elements all differ a
    little are not: when they are sorted, small errors vanish."""
    if left.size != right.size:
        return False
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    apart = left.shape != right.shape or np.mean(np.abs(a - b)) > 0.1 * np.std(a)
    return bool(apart and agree(np.sort(a).astype(left.dtype), np.sort(b).astype(right.dtype)))


def _steps(pairs: Pairs, calls: Calls) -> tuple[list[Step], list[str]]:
    """The calls of the pairs in the order of Keras's calls, and lines on unpaired calls."""
    numbers = {id(keras.handle): number for number, (keras, _) in enumerate(pairs)}
    left: list[list[int]] = [
        [at for at, call in enumerate(calls[1]) if call.layer is pytorch.handle and _is_kept(call)]
        for _, pytorch in pairs
    ]
    called = [(0, len(places)) for places in left]
    steps = []
    for place, call in enumerate(calls[0]):
        number = numbers.get(id(call.layer))
        if number is None or not _is_kept(call):
            continue
        called[number] = called[number][0] + 1, called[number][1]
        step = _with_partner(number, pairs, calls, place, left[number])
        if step is not None:
            left[number].remove(step.place[1])
            steps.append(step)
    lines = []
    for (keras, pytorch), (times, others) in zip(pairs, called, strict=True):
        if times != others and kind_of_layer(keras.handle) and kind_of_module(pytorch.handle):
            lines.append(f"{keras.label} is called {times} times, {pytorch.label} {others}")
    kept = [step for step in steps if len(set(called[step.number - 1])) == 1 or _same_batch(step)]
    return kept, lines


def _same_batch(step: Step) -> bool:
    """Whether both layers get as many samples: one may be called for each step of a sequence, the
    other once with all steps as samples."""
    return step.inputs[0].shape[:1] == step.inputs[1].shape[:1]


def _with_partner(
    number: int, pairs: Pairs, calls: Calls, place: int, places: Sequence[int]
) -> Step | None:
    """The step of a Keras call and the first PyTorch call whose input agrees, or else the first."""
    first = None
    for other in places:
        step = make_step(number + 1, pairs[number], (place, other), calls)
        if agree(*step.inputs):
            return step
        first = first or step
    return first


def _is_kept(call: Call) -> bool:
    return call.input is not None and call.output is not None


# The description of the first difference


def _described(place: _Place, calls: Calls) -> Divergence:
    step, before = place.step, place.before
    if place.at_inputs:
        return _between(before, step, calls, (step.inputs, _raw(step)), place.difference)
    return Divergence(
        "layer",
        steps=[*before, step],
        step=step,
        last=before[-1] if before else None,
        difference=place.difference,
        causes=[*layer_causes(step), *precision_causes(before, step.outputs)],
    )


def _raw(step: Step) -> Both:
    """The inputs of both layers, each in its own layout."""
    keras, pytorch = (call.input for call in step.calls)
    assert keras is not None  # else there is no step
    assert pytorch is not None
    return keras, pytorch


def _between(
    before: list[Step],
    step: Step | None,
    calls: Calls,
    arrays: tuple[Both, Both],
    difference: Difference,
) -> Divergence:
    """The divergence if one pair's outputs agree and the next one's inputs do not.

    `arrays`: these inputs, in Keras's layout, and each in its own.
    """
    last = before[-1] if before else None
    layers = _in_between(last, step, calls)
    causes = pooling_causes(layers) or between_causes(last.ends if last else None, *arrays)
    causes += precision_causes(before, arrays[0])
    fused = _fused(last) if last else ([], [])
    return Divergence(
        "between",
        steps=before,
        step=step,
        last=last,
        difference=difference,
        causes=causes,
        between=([*fused[0], *layers[0]], [*fused[1], *layers[1]]),
    )


def _in_between(last: Step | None, step: Step | None, calls: Calls) -> tuple[list[str], list[str]]:
    """The layers without weights between two steps in both models, by name and class."""
    labels: list[list[str]] = []
    for side in (0, 1):
        start = last.place[side] + 1 if last else 0
        stop = step.place[side] if step else len(calls[side])
        labels.append([call.label for call in calls[side][start:stop] if _counts(call)])
    once = [list(dict.fromkeys(names)) for names in labels]  # a cell is called for every step
    return once[0], once[1]


def _counts(call: Call) -> bool:
    return type(call.layer).__name__ not in ("InputLayer", "Dropout", "Identity")


def _fused(last: Step) -> tuple[list[str], list[str]]:
    """The operations that the two layers themselves add to those of their kind."""
    activation = getattr(last.calls[0].layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    own = [[f"the forward of {call.label}"] if call.own_forward else [] for call in last.calls]
    return [*([] if name in ("NoneType", "linear") else [f"activation={name}"]), *own[0]], own[1]
