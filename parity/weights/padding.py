"""The padding of a convolution and the crop of a transposed one, in either framework.

One axis at a time: a pair `(before, after)`. Keras's `same` depends on the size of the input.
"""

from collections.abc import Sequence
from typing import Any

Pair = tuple[int, int]


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> Pair:
    """The padding of a convolution with `padding="same"` along one axis: `(before, after)`.

    With `k = dilation (kernel - 1) + 1`, the total is the least for `ceil(size / stride)` outputs:
    `max(k - stride, 0)` if the stride divides the size, else `max(k - size % stride, 0)`; the
    smaller half is before, the larger after. PyTorch's `padding="same"`, which allows no
    stride, is the case `stride = 1`.

    Raises `ValueError` for a number below 1.

    >>> same_padding(32, 3, 2), same_padding(33, 3, 2)
    ((0, 1), (1, 1))
    """
    given = {"size": size, "kernel": kernel, "stride": stride, "dilation": dilation}
    for name, value in given.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; wanted a whole number >= 1")
    total = max(_span(kernel, dilation) - (size % stride or stride), 0)
    return total // 2, total - total // 2


def transposed_crop(
    mode: str, kernel: int, stride: int, dilation: int, output_padding: int | None
) -> Pair:
    """The crop of a Keras transposed convolution from its `(size - 1) stride + k` full outputs.

    `(before, after)`; a negative number adds outputs that hold the bias alone. Found by
    measurement on TensorFlow, JAX and torch, which agree.
    """
    span = _span(kernel, dilation)
    if mode == "valid":
        return 0, span - (max(span, stride) if output_padding is None else span + output_padding)
    kept = stride if output_padding is None else span % 2 + output_padding
    before = max(span - kept, 0) // 2
    return before, span - kept - before


def _span(kernel: int, dilation: int) -> int:
    return dilation * (kernel - 1) + 1


def _pads(settings: dict[str, Any], axis: int, size: int) -> Pair:
    """The padding along an axis, by the layer and by a padding layer right before it."""
    added = settings["added"][axis]
    kernel, dilation = settings["kernel_size"][axis], settings["dilation"][axis]
    if settings["padding"] == "same":
        own = same_padding(size + sum(added), kernel, settings["strides"][axis], dilation)
    elif settings["padding"] == "causal":
        own = (_span(kernel, dilation) - 1, 0)
    else:
        own = settings["padding"][axis]
    return added[0] + own[0], added[1] + own[1]


def pads_nothing(settings: dict[str, Any]) -> bool:
    """Whether neither a convolution nor a padding layer before it pads."""
    padding, added = settings.get("padding", []), settings.get("added", [])
    return isinstance(padding, list) and not any(n for pair in [*padding, *added] for n in pair)


def _reads(settings: dict[str, Any], axis: int, size: int) -> Pair:
    """Where the first window starts, and the number of windows. Two paddings that agree in both
    give the same outputs, even if one adds more at the end."""
    before, after = _pads(settings, axis, size)
    span = _span(settings["kernel_size"][axis], settings["dilation"][axis])
    return before, (size + before + after - span) // settings["strides"][axis] + 1


def padding_agrees(
    left: dict[str, Any], right: dict[str, Any], sizes: Sequence[int | None]
) -> bool:
    """Whether two convolutions of one kernel, stride and dilation read the same windows.

    If the size of the input is unknown: whether they do for all sizes, or, if one of them pads
    unevenly on purpose, for some size.
    """
    if "crop" in left:
        return bool(left["crop"] == right["crop"])
    for axis, size in enumerate(sizes):
        stride = left["strides"][axis]
        long = stride * (_span(left["kernel_size"][axis], left["dilation"][axis]) + 1)
        tried = [size] if size else range(long, long + stride)
        agree = [_reads(left, axis, n) == _reads(right, axis, n) for n in tried]
        fixed = [_pads(s, axis, long) for s in (left, right) if s["padding"] != "same"]
        uneven = any(before != after for before, after in fixed)
        if not (all(agree) or (any(agree) and uneven)):
            return False
    return True


def may_be_made_up(
    left: dict[str, Any], right: dict[str, Any], sizes: Sequence[int | None]
) -> bool:
    """Whether paddings that differ may still be equal in effect, since a function in a forward may
    pad (or crop) the rest: then the settings of one of the two have `may_pad`."""
    for axis, size in enumerate(sizes):
        if "crop" in left:
            pairs = left["crop"][axis], right["crop"][axis]
        else:
            at = size or left["strides"][axis] * _span(
                left["kernel_size"][axis], left["dilation"][axis]
            )
            pairs = _pads(left, axis, at), _pads(right, axis, at)
        less, more = sorted(zip(pairs, (left, right), strict=True), key=lambda one: sum(one[0]))
        within = all(a <= b for a, b in zip(less[0], more[0], strict=True))
        if tuple(less[0]) != tuple(more[0]) and not (within and less[1].get("may_pad")):
            return False
    return True


def describe(settings: dict[str, Any], sizes: Sequence[int | None]) -> str:
    """The padding, or the crop of a transposed convolution, in words."""
    if "crop" in settings:
        return f"cuts {_pairs(settings['crop'])} from the full output"
    if settings["padding"] != "same":
        return f"pads {_pairs([_pads(settings, axis, 1) for axis in range(len(sizes))])}"
    if all(sizes):
        return f"pads {_pairs(_exact(settings, sizes))} ('same', for an input of {_plain(sizes)})"
    return "pads 'same', by the size of the input, which is not known here"


def remedy(settings: dict[str, Any], sizes: Sequence[int | None], target: str) -> str:
    """The code for the target's framework that gives the padding, or crop, of `settings`."""
    if "crop" in settings:
        return (_crop_in_keras if target == "Keras" else _crop_in_pytorch)(settings)
    rank = len(sizes)
    same = {**settings, "padding": "same", "added": [(0, 0)] * rank}
    if target == "Keras" and padding_agrees(settings, same, sizes):
        return "padding='same'"
    pads = _exact(settings, sizes)
    unknown = settings["padding"] == "same" and not all(sizes)
    where = " (for sizes that the stride divides)" if unknown else ""
    if target == "Keras" and not any(n for pair in pads for n in pair):
        return "padding='valid'"
    if target == "Keras":
        return f"ZeroPadding{rank}D({_pairs(pads)}) before it and padding='valid'{where}"
    if all(before == after for before, after in pads):
        return f"padding={_plain([before for before, _ in pads])}{where}"
    return f"nn.ZeroPad{rank}d({_last_axis_first(pads)}) before it and padding=0{where}"


def _exact(settings: dict[str, Any], sizes: Sequence[int | None]) -> list[Pair]:
    strides = settings["strides"]
    return [_pads(settings, axis, size or 64 * strides[axis]) for axis, size in enumerate(sizes)]


def _crop_in_keras(settings: dict[str, Any]) -> str:
    crops = [tuple(crop) for crop in settings["crop"]]
    axes = list(
        zip(settings["kernel_size"], settings["strides"], settings["dilation"], strict=True)
    )

    def by_keras(mode: str) -> list[Pair]:
        return [transposed_crop(mode, *axis, None) for axis in axes]

    for mode in ("same", "valid"):
        if by_keras(mode) == crops:
            return f"padding='{mode}'"
    words = "padding='valid'"
    more = [max(-after, 0) for _, after in crops]
    if any(more) or by_keras("valid") != [(0, 0)] * len(axes):
        words += f", output_padding={_plain(more)}"
    rest = [(before, max(after, 0)) for before, after in crops]
    crop = f" and Cropping{len(crops)}D({_pairs(rest)}) after it"
    return words + (crop if any(n for pair in rest for n in pair) else "")


def _crop_in_pytorch(settings: dict[str, Any]) -> str:
    crops = settings["crop"]
    words = [f"padding={_plain([before for before, _ in crops])}"]
    words.append(f"output_padding={_plain([max(b - a, 0) for b, a in crops])}")
    if any(after > before for before, after in crops):
        rest = [(0, -max(after - before, 0)) for before, after in crops]
        words.append(f"nn.ZeroPad{len(crops)}d({_last_axis_first(rest)}) after it")
    return " and ".join([", ".join(words[:2]), *words[2:]])


def _plain(numbers: Sequence[int | None]) -> str:
    """One number if all are the same."""
    return f"{numbers[0]}" if len(set(numbers)) == 1 else f"{tuple(numbers)}"


def _pairs(pairs: Sequence[Pair]) -> str:
    plain = tuple(tuple(pair) for pair in pairs)
    return f"{plain[0] if len(plain) == 1 else plain}"


def _last_axis_first(pairs: Sequence[Pair]) -> str:
    return f"{tuple(number for pair in reversed(pairs) for number in pair)}"
