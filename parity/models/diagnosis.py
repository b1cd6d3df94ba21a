"""Why a pair of layers, or the operations between two pairs, give different numbers.

All arrays are compared in Keras's layout.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from parity.common.arrays import Array, sigmoid
from parity.common.tolerance import lowest_precision
from parity.models.closeness import TOLERANCE, agree, compare, wide
from parity.models.result import Cause
from parity.models.steps import Both, Step, first_axis, orders_of_features
from parity.weights.layer import ARRAYS, Layer, channels_moved
from parity.weights.match import OVER_AXES
from parity.weights.settings import SettingDifference, setting_differences
from parity.weights.transfer import FILLS, reordered

_MANY = 200_000  # numbers to try activations on
_BORDER = 3  # pixels at the border that padding may change
_LETTERS = {2: "L", 3: "HW", 4: "DHW"}
_POOLS = {"MaxPool": "max", "AveragePool": "average", "AvgPool": "average"}


# A layer whose inputs agree and whose outputs do not


def inference_settings(
    one: Layer, other: Layer, inputs: Array | None = None, rtol: float = 0.0
) -> list[SettingDifference]:
    """The settings that differ and matter in inference.

    A different epsilon does not matter if it agrees within `rtol`, or if it changes the outputs by
    at most `TOLERANCE`: those of a BatchNormalization with its variances, of a LayerNormalization
    for these inputs.
    """
    return [
        found
        for found in setting_differences(one, other)
        if found.key != "momentum"
        and not (found.key == "epsilon" and _is_negligible(one, other, inputs, rtol))
    ]


def _is_negligible(one: Layer, other: Layer, inputs: Array | None, rtol: float) -> bool:
    epsilons = [layer.settings["epsilon"] for layer in (one, other)]
    apart, least = abs(epsilons[0] - epsilons[1]), min(epsilons)
    if apart <= rtol * max(epsilons):
        return True
    scale = np.abs(one.arrays.get("gamma", np.ones(1))).astype(np.float64)
    if one.kind == "batch_normalization":
        variance = one.arrays["moving_variance"].astype(np.float64)
    elif inputs is not None:
        axes = tuple(range(-max(scale.ndim, 1), 0))
        variance, scale = inputs.astype(np.float64).var(axes), np.ones(1)
    else:
        return False
    with np.errstate(all="ignore"):  # an epsilon may be 0, a variance too
        size = scale * np.sqrt(variance / (variance + least))
        moved = size * apart / (2 * (variance + least))
        return bool(np.max(moved) <= TOLERANCE["float32"] * np.max(size))


def layer_causes(step: Step) -> list[Cause]:
    """Why the outputs of a layer differ: its settings, its weights, or its forward."""
    found = wrong_parts(step)
    if found:
        return found
    moved = _transposition(*step.outputs)
    if moved:
        words = f"the outputs are equal after np.transpose of PyTorch's, {moved}"
        return [Cause("layout", words)]
    words = "settings and weights agree: it is what PyTorch's forward, or Keras's call, does more"
    return [Cause("forward", words)]


def wrong_parts(step: Step) -> list[Cause]:
    """The settings and weights of a layer that differ."""
    settings = inference_settings(*_as_called(step), step.inputs[0])
    found = [Cause("setting", str(one)) for one in settings]
    for name in ARRAYS[step.pair[0].kind]:
        found += [Cause("weight", words) for words in _weight_causes(step, name)]
    return found


def _as_called(step: Step) -> tuple[Layer, Layer]:
    """Both layers of a step; convolutions with the padding that functions added to the inputs."""
    if step.pair[0].kind != "conv":
        return step.pair
    first = first_axis(step.pair[0], step.inputs[0].ndim)
    found = []
    for layer, pads, call in zip(step.pair, step.padded, step.calls, strict=True):
        own = layer.settings["added"]
        added = [np.add(*pair).tolist() for pair in zip(own, pads, strict=True)] if pads else own
        size = list(step.inputs[0].shape[first : first + len(own)])
        # padding inside a forward of the layer's own cannot be seen
        seen = {"added": added, "size": size, "may_pad": call.own_forward}
        found.append(replace(layer, settings={**layer.settings, **seen}))
    return found[0], found[1]


def _weight_causes(step: Step, name: str) -> list[str]:
    keras, pytorch = step.pair
    source, target = (layer.arrays.get(name) for layer in step.pair)
    if source is None and target is None:
        return []
    if source is None and target is not None and name in FILLS:
        source = np.full_like(target, FILLS[name])
    if target is None and source is not None and name in FILLS:
        target = np.full_like(source, FILLS[name])
    if source is None or target is None:
        absent, present = step.names if source is None else step.names[::-1]
        return [f"{name}: {absent} has none, {present} has one"]
    if keras.kind in OVER_AXES:  # perhaps of all axes of an image, which PyTorch has channels first
        back = channels_moved(target, False)
        if agree(source, back):
            return []
        if source.shape == back.shape != target.shape:
            target = back
    expected = _expected(source, name, step, step.orders)
    if agree(expected, target):
        return []
    for order in ((True, False), (False, True), (True, True), (False, False)):
        if order != step.orders and agree(_expected(source, name, step, order), target):
            return _flatten_causes(step, name, order)
    moved = _transposition(expected, target)
    if moved:
        return [f"the {name} is transposed: PyTorch's, in Keras's layout, is equal after {moved}"]
    axes = tuple(range(target.ndim - 2))
    if axes and agree(expected, np.flip(target, axes)):
        return [f"the {name} is mirrored: PyTorch's is equal after np.flip along the window's axes"]
    for other, array in pytorch.arrays.items():
        if other != name and agree(expected, array):
            found_name = pytorch.own_name(other)
            return [f"Keras's {name} is PyTorch's {found_name}, not {pytorch.own_name(name)}"]
    return [_how_far(expected, target, name, pytorch)]


def _expected(array: Array, name: str, step: Step, orders: tuple[bool, bool]) -> Array:
    """Keras's array as PyTorch should have it, if its features come or go in PyTorch's order."""
    known = orders_of_features(step.pair[0])
    rows = known[0] if orders[0] else None
    columns = known[1] if orders[1] else None
    return reordered(array, name, (rows, columns), *step.pair)


def _flatten_causes(step: Step, name: str, found: tuple[bool, bool]) -> list[str]:
    """The rows (or columns) of the kernel are in the other order of a flattened image."""
    lines = []
    sides = zip(("rows", "columns"), orders_of_features(step.pair[0]), strict=True)
    for (side, order), is_first, wanted in zip(sides, found, step.orders, strict=True):
        if order is None or is_first == wanted:
            continue
        space = _LETTERS.get(len(order[0][0]), "...")
        last, first = f"N{space}C", f"NC{space}"
        entries = f"{side} of the {name}" if name == "kernel" else f"entries of the {name}"
        if is_first:
            lines.append(
                f"the {entries} are in the order of an {first} flatten; PyTorch's model permutes "
                f"to {last} itself: wanted flatten='channels_last' in weights.copy"
            )
        else:
            lines.append(
                f"the {entries} are in the order of an {last} flatten; PyTorch flattens {first}: "
                "wanted flatten='channels_first' in weights.copy"
            )
    return lines


def _transposition(left: Array, right: Array) -> str:
    """The transposition that makes the right array equal to the left one, in words, or ""."""
    for axes in permutations(range(right.ndim)):
        if axes == tuple(range(right.ndim)) or right.ndim > 5:
            continue
        if agree(left, right.transpose(axes)):
            return f"transpose{axes}"
    return ""


def _how_far(source: Array, target: Array, name: str, pytorch: Layer) -> str:
    found = compare(source, target)
    names = f"Keras's {name} and PyTorch's {pytorch.own_name(name)}"
    if not found.comparable:
        return f"{names} have other shapes: {source.shape} and {target.shape} in Keras's layout"
    return (
        f"{names} differ: {found.left:g} and {found.right:g} at {found.index} in Keras's layout, "
        f"{found.over:,} of {found.count:,} numbers"
    )


# Layers whose calls are not compared: recurrent ones, attention, separable convolutions


def unseen_causes(pairs: Sequence[tuple[Layer, Layer]]) -> list[Cause]:
    """The settings and weights in which pairs of layers differ, each with the names of the two."""
    found = []
    for keras, pytorch in pairs:
        label = f"{keras.label} and {pytorch.label}"
        found += [Cause("setting", str(one)) for one in inference_settings(keras, pytorch)]
        words = [_unseen_weight(keras, pytorch, name) for name in ARRAYS[keras.kind]]
        found += [Cause("weight", f"{label}: {one}") for one in words if one]
    return found


def _unseen_weight(keras: Layer, pytorch: Layer, name: str) -> str:
    """How an array differs, or "". Rows of a kernel in another order are no difference, since the
    order of the features is not known here."""
    source, target = keras.arrays.get(name), pytorch.arrays.get(name)
    if source is None and target is None:
        return ""
    if source is None or target is None:
        held = target if source is None else source
        assert held is not None  # checked above
        filled = np.full_like(held, FILLS.get(name, np.nan))
        return "" if agree(held, filled) else f"only one of them has a {name}"
    if agree(source, target):
        return ""
    moved = _transposition(source, target)
    if moved:
        return f"the {name} is transposed: PyTorch's, in Keras's layout, is equal after {moved}"
    if name == "kernel" and agree(np.sort(source, 0), np.sort(target, 0)):
        return ""
    if agree(np.sort(source, None), np.sort(target, None)):
        return f"the {name} has the same numbers in another order: of gates, or of heads?"
    return _how_far(source, target, name, pytorch)


# Between two layers


def _leaky(slope: float) -> Callable[[Array], Array]:
    return lambda x: np.where(x > 0, x, slope * x)


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "nothing": lambda x: x,
    "relu": _leaky(0.0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu with slope 0.01": _leaky(0.01),
    "leaky_relu with slope 0.1": _leaky(0.1),
    "leaky_relu with slope 0.2": _leaky(0.2),
    "leaky_relu with slope 0.3": _leaky(0.3),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "softplus": lambda x: np.logaddexp(0, x),
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))) / 2,
    "gelu (tanh)": lambda x: x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "softmax": _softmax,
    "log_softmax": lambda x: np.log(_softmax(x)),
}


def _applied(before: Array, after: Array) -> str:
    """The name of the activation that makes `after` from `before`, or "" if none does."""
    if before.size != after.size:
        return ""
    few = max(1, len(after) * _MANY // max(after.size, 1))
    x, after = before.reshape(after.shape)[:few].astype(np.float64), after[:few]
    with np.errstate(all="ignore"):
        found = (name for name, of in _ACTIVATIONS.items() if _near(of(x), after))
        return next(found, "")


def _near(left: Array, right: Array) -> bool:
    return agree(np.asarray(left).astype(right.dtype), right)


def between_causes(
    before: tuple[Array, Array] | None, after: tuple[Array, Array], raw: tuple[Array, Array] | None
) -> list[Cause]:
    """Why the outputs of one pair agree and the inputs of the next do not.

    `before`: those outputs, each in its framework's own layout; `raw`: the inputs, each in its own
    layout; `after`: the inputs with PyTorch's in Keras's layout.
    """
    moved = _transposition(*after)
    if moved:
        return [Cause("layout", f"they are equal after np.transpose of PyTorch's, {moved}")]
    if _other_order_of_channels(*after):
        words = "PyTorch has Keras's channels in another order: a concatenation the other way?"
        return [Cause("layout", words)]
    found = []
    if after[0].shape != after[1].shape:
        words = f"their shapes, in Keras's layout, are {after[0].shape} and {after[1].shape}"
        found.append(Cause("shape", words))
    if _differ_at_border_alone(*after):
        words = (
            "they differ along the border alone: padding, or an average that counts it "
            "(count_include_pad)"
        )
        return [Cause("border", words)]
    if before is None or raw is None:
        return found
    done = [_applied(one, then) for one, then in zip(before, raw, strict=True)]
    if done[0] != done[1]:
        names = [name or "something else" for name in done]
        found.append(Cause("activation", f"Keras applies {names[0]}, PyTorch {names[1]}"))
    return found


def precision_causes(before: Sequence[Step], arrays: Both) -> list[Cause]:
    """Whether arrays differ by no more than the rounding of a layer before them that computes in
    half precision in one of the two models."""
    for step in before:
        found = [lowest_precision(one) for one in step.outputs]
        allowed = TOLERANCE[lowest_precision(*step.outputs)]
        if found[0] != found[1] and agree(*arrays, allowed):
            computes = " and ".join(
                f"{name} in {dtype}" for name, dtype in zip(step.names, found, strict=True)
            )
            words = f"{computes}: they differ by no more than such rounding; wanted one precision"
            return [Cause("precision", f"{words}, or an atol of the lower one")]
    return []


def _differ_at_border_alone(left: Array, right: Array) -> bool:
    """Whether images agree except for a few pixels at the border."""
    if left.shape != right.shape or left.ndim < 3:
        return False
    space = left.shape[1:-1]
    widths = range(1, 1 + min(_BORDER, (min(space) - 1) // 2))
    inner = ((slice(None), *[slice(n, -n)] * len(space)) for n in widths)
    return any(agree(left[one], right[one]) for one in inner)


def _other_order_of_channels(left: Array, right: Array) -> bool:
    """Whether the last axis holds the same slices in another order."""
    if left.shape != right.shape or left.ndim < 2 or agree(left, right):
        return False
    sums = [wide(one).reshape(-1, one.shape[-1]).sum(0, np.float64) for one in (left, right)]
    orders = [np.argsort(one) for one in sums]
    return agree(left[..., orders[0]], right[..., orders[1]])


def pooling_causes(between: tuple[Sequence[str], Sequence[str]]) -> list[Cause]:
    """The pooling layers that take the maximum in one model and the average in the other."""
    pools = [
        [(name, kind) for name in names for part, kind in _POOLS.items() if part in name]
        for names in between
    ]
    if len(pools[0]) != len(pools[1]):
        return []
    return [
        Cause("pooling", f"{keras} in Keras, {pytorch} in PyTorch")
        for (keras, one), (pytorch, other) in zip(*pools, strict=True)
        if one != other
    ]
