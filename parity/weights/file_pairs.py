"""Pairs the layers of a `.weights.h5` file with those of a PyTorch module.

The layers of the module are taken in the order of its calls, if it can be called, or else in the
order of its attributes. The candidates for each are the first remaining layers of every class in
the file (`parity.weights.keras_file`); it gets the one that fits, and if several fit, the one of
its name. In the file a layer comes before those that it feeds; the order of two parallel layers is
known only from their names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.compound import RESETS_BEFORE
from parity.weights.flatten import PASSING
from parity.weights.forward import calls_one_of
from parity.weights.keras_file import MODEL, FileEntry
from parity.weights.layer import ARRAYS, KERAS, Layer, WeightsError
from parity.weights.match import Graph, Match, Pairs, leaf_name, signature
from parity.weights.orders import BY_CHANNEL, FLAT_KINDS, RECURRENT
from parity.weights.pairing import check_names, disagreement, named, untied
from parity.weights.trace import Trace

_STOCK = {
    "dense": ("dense", "conv"),
    "depthwise_conv1d": ("conv",),
    "depthwise_conv2d": ("conv",),
    "separable_conv1d": ("conv",),
    "separable_conv2d": ("conv",),
    "batch_normalization": ("batch_normalization",),
    "layer_normalization": ("layer_normalization",),
    "group_normalization": ("group_normalization",),
    "rms_normalization": ("rms_normalization",),
    "p_re_lu": ("prelu",),
    "embedding": ("embedding",),
    "lstm": ("lstm",),
    "gru": ("gru",),
    "simple_rnn": ("simple_rnn",),
    "multi_head_attention": ("attention",),
}
_STOCK |= {f"conv{rank}d": ("conv", "dense") for rank in (1, 2, 3)}
_STOCK |= {f"conv{rank}d_transpose": ("conv_transpose",) for rank in (1, 2, 3)}
"""The kinds that a layer may have, by class as the file spells it; other classes may have any."""

_SHOWN = 4
LAYERS = "layers={name in the file: PyTorch name}"
_RESHAPES = {"reshape", "view", "rearrange", "Rearrange"}
_FLATTENS = {"flatten", "Flatten", *_RESHAPES}
_UNFLATTENS = {"unflatten", "Unflatten", *_RESHAPES}
"""The functions and modules of PyTorch that flatten images to vectors, and the reverse."""


def pair_file(
    entries: list[FileEntry],
    targets: list[Layer],
    layers: Mapping[str, str] | None,
    trace: Callable[[], Trace | None],
) -> Pairs:
    """The entries, read as layers of their partners' kinds in a PyTorch module; `trace` traces the
    module.

    Raises `WeightsError` if an entry has no partner or could have several; with the map that fits,
    if the order or the names in the file and in the module disagree.
    """
    entries = [part for entry in entries for part in _parts(entry, targets)]
    if layers is not None:
        return _mapped(entries, targets, layers)
    if len(entries) != len(targets):
        targets = untied(targets)
    traced = trace() if len(targets) > 1 else None
    graph = Graph.of(targets, traced) if traced is not None else None
    if graph is not None:
        targets = [targets[number] for number in graph.called]
    found = _in_order(entries, targets)
    if len(found) < len(targets):
        raise _stuck(entries, targets, len(found))
    taken = {layer.name for layer, _ in found}
    left = [entry for entry in entries if entry.name not in taken]
    if left:
        raise WeightsError(
            f"{len(entries)} layers with weights in the file, {len(targets)} in the module: "
            f"{left[0].described} has no partner; wanted as many, or {MODEL}"
        )
    check_names([layer for layer, _ in found], targets, found)
    if graph is not None:
        _check_side_by_side(found, graph)
    return found


def _check_side_by_side(found: Pairs, graph: Graph) -> None:
    """Raises `WeightsError` for two layers of one shape of which neither feeds the other: the file
    does not say which is first, unless their names do."""
    numbers = {id(layer): number for number, layer in enumerate(graph.layers)}
    feeding: dict[int, set[int]] = {}  # all layers that feed a layer, directly or not
    for number in graph.called:
        direct = {n for _, n in graph.before[number] if isinstance(n, int) and n in feeding}
        feeding[number] = direct.union(*(feeding[n] for n in direct))
    last: dict[tuple[Any, ...], tuple[Layer, Layer]] = {}
    for source, target in found:
        before = last.get(signature(target))
        last[signature(target)] = source, target
        if before is None or target.kind == "parameter":
            continue
        told = all(leaf_name(one) == leaf_name(other) for one, other in (before, (source, target)))
        if not told and numbers[id(before[1])] not in feeding[numbers[id(target)]]:
            raise WeightsError(
                f"PyTorch has {before[1].name} and {target.name}, of one shape, side by side, and "
                f"the file does not say which of them is {before[0].name} and which {source.name}: "
                f"wanted {LAYERS}, or {MODEL}"
            )


def _parts(entry: FileEntry, targets: list[Layer]) -> list[FileEntry]:
    """The entry; or each array by itself, if it is a user's own layer that fits none there."""
    several = len(entry.arrays) > 1 or entry.class_name in _STOCK
    if entry.class_name in _STOCK or any(_like(entry, target) for target in targets):
        return [entry]
    if not any(target.kind == "parameter" for target in targets):
        return [entry]
    return [
        replace(
            entry,
            name=f"{entry.name}/{key}" if several else entry.name,
            place=(*entry.place, ("vars", int(key))),
            arrays={"0": array},
        )
        for key, array in entry.arrays.items()
        if key.isdecimal()
    ]


def _mapped(entries: list[FileEntry], targets: list[Layer], layers: Mapping[str, str]) -> Pairs:
    by_name = {entry.name: entry for entry in entries}
    absent = [name for name in layers if name not in by_name]
    if absent:
        raise WeightsError(f"layers: the file has no {absent[0]!r}; it has {[*by_name]}")
    left = [name for name in by_name if name not in layers]
    if left:
        raise WeightsError(f"layers leaves out {left[0]!r} of the file; wanted all of its layers")
    partners = named(targets, [*layers.values()])
    found = []
    for name, target in zip(layers, partners, strict=True):
        layer = _like(by_name[name], target)
        if layer is None:
            described = by_name[name].described
            raise WeightsError(f"{described} does not fit {target.described(target.first)}")
        found.append((layer, target))
    return found


def _in_order(entries: list[FileEntry], targets: list[Layer]) -> Pairs:
    """The pairs up to the first layer of the module that no entry fits."""
    before = [sum(other.precedes(entry) for other in entries) for entry in entries]
    left = dict(enumerate(entries))
    found: Pairs = []
    for target in targets:
        heads = [(n, _like(one, target)) for n, one in left.items() if not before[n]]
        fitting = [(n, layer) for n, layer in heads if layer is not None]
        if not fitting:
            return found
        number, layer = _chosen(fitting, entries, target)
        taken = left.pop(number)
        for n, one in left.items():
            before[n] -= taken.precedes(one)
        found.append((layer, target))
    return found


def _chosen(
    fitting: Sequence[tuple[int, Layer]], entries: list[FileEntry], target: Layer
) -> tuple[int, Layer]:
    """The only candidate; or the one with the axes of its kernel; or the one of its name."""
    if len(fitting) == 1:
        return fitting[0]
    rank = len(target.shape(target.first))
    exact = [each for each in fitting if len(_first(entries[each[0]]).shape) == rank]
    if len(exact) == 1:
        return exact[0]
    alike = [_shared_words(entries[number], target) for number, _ in fitting]
    best = max(alike)
    if best and alike.count(best) == 1:
        return fitting[alike.index(best)]
    names = ", ".join(entries[number].described for number, _ in fitting[:_SHOWN])
    raise WeightsError(f"for {target.label} the file has {names}; wanted {LAYERS}, or {MODEL}")


def _shared_words(entry: FileEntry, target: Layer) -> int:
    """How many parts both names have in common, in order. For a weight of a user's own layer the
    file has only the name of the layer."""
    attributes = "/".join(key for key, _ in entry.place if key not in ("layers", "vars"))
    other = target.name.rpartition(".")[0] if target.kind == "parameter" else target.name
    return max(_in_common(_words(name), _words(other)) for name in (entry.name, attributes))


def _words(name: str) -> list[str]:
    parts = name.lower().replace(".", "/").split("/")
    return [part.replace("_", "").replace("-", "") for part in parts]


def _in_common(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for mine in one:
        above = [*lengths]
        for n, theirs in enumerate(other):
            lengths[n + 1] = above[n] + 1 if mine == theirs else max(above[n + 1], lengths[n])
    return lengths[-1]


def _stuck(entries: list[FileEntry], targets: list[Layer], number: int) -> WeightsError:
    """The error for a layer of the module that none of the next entries fits; with the map that
    fits, if shapes and names leave no choice."""
    target = targets[number]
    every = [[one for one in entries if _like(one, target) is not None] for target in targets]
    if all(every):
        chosen = [_only(fitting, target) for fitting, target in zip(every, targets, strict=True)]
        kept = [one for one in chosen if one is not None]
        if len({one.name for one in kept}) == len(targets) == len(entries):
            pairs = [(_like(*both), both[1]) for both in zip(kept, targets, strict=True)]
            told = [(layer, other) for layer, other in pairs if layer is not None]
            return disagreement([], Match(told, exact=False), "names")
    if len(entries) < len(targets):
        return WeightsError(
            f"{len(entries)} layers with weights in the file, {len(targets)} in the module: "
            f"{target.described(target.first)} has no partner; wanted as many, or {MODEL}"
        )
    if every[number]:
        return WeightsError(
            f"the layers of the file stand in another order than the module's: {target.label} "
            f"fits none that comes next in its class; wanted {LAYERS}, or {MODEL}"
        )
    near = [one for one in entries if target.kind in _STOCK.get(one.class_name, (target.kind,))]
    names = ", ".join(one.described for one in near[:_SHOWN]) or "nothing"
    return WeightsError(
        f"{target.described(target.first)} fits no layer of the file; of its kind it has {names}; "
        f"wanted {MODEL}"
    )


def _only(fitting: list[FileEntry], target: Layer) -> FileEntry | None:
    """The only entry that fits, or, of several, the one with the target's name."""
    words = _words(target.name)[-1]
    named_so = [one for one in fitting if words in (_words(one.name)[-1], one.place[-1][0])]
    choice = fitting if len(fitting) == 1 else named_so
    return choice[0] if len(choice) == 1 else None


# An entry as a layer of its partner's kind


def _first(entry: FileEntry) -> Array:
    return next(iter(entry.arrays.values()))


def _like(entry: FileEntry, target: Layer) -> Layer | None:
    """An entry as a layer of its partner's kind, or None if its arrays do not fit that kind."""
    if target.kind not in _STOCK.get(entry.class_name, (target.kind,)):
        return None
    arrays = _named(entry, target)
    common = [name for name in ARRAYS[target.kind] if name in arrays and name in target.arrays]
    if not common or arrays[common[0]].shape != target.arrays[common[0]].shape:
        return None
    _check_what_lacks(entry, target, arrays)
    return Layer(
        framework=KERAS,
        name=entry.name,
        class_name="weights file",
        kind=target.kind,
        arrays=arrays,
        settings=target.settings,  # the file has none
    )


def _named(entry: FileEntry, target: Layer) -> dict[str, Array]:
    """The arrays of an entry by their names in the partner's kind, in the common form; {} if there
    are too many."""
    kind, own = target.kind, [*entry.arrays.values()]
    if kind == "attention":
        return entry.arrays if "query_kernel" in entry.arrays else {}
    if "query_kernel" in entry.arrays or len(own) > len(ARRAYS[kind]):
        return {}
    if kind == "parameter":
        return {"value": own[0].squeeze()}
    names = ARRAYS[kind]
    if kind == "batch_normalization" and len(own) < 4:
        names = names[-len(own) :]  # without gamma or beta
    elif kind.endswith("normalization") and len(own) == 1:
        names = tuple(name for name in names if name in target.arrays)
    arrays = dict(zip(names, own, strict=False))
    if "kernel" in arrays and "recurrent_kernel" not in names:
        arrays["kernel"] = _kernel(arrays["kernel"], entry, target)
    if "alpha" in arrays and arrays["alpha"].size == max(arrays["alpha"].shape):
        arrays["alpha"] = arrays["alpha"].ravel()
    return arrays


def _kernel(kernel: Array, entry: FileEntry, target: Layer) -> Array:
    """A kernel in the common form: a depthwise one as that of a grouped convolution, one of a pixel
    as that of a Dense."""
    held = target.arrays["kernel"]
    if kernel.ndim < 2:
        return kernel
    inputs, outputs = kernel.shape[-2:]
    depthwise = entry.class_name.startswith("depthwise") or entry.name.endswith("/depthwise")
    if kernel.shape == held.shape and not depthwise:
        return kernel
    if kernel.ndim == held.ndim > 2 and target.settings.get("groups") == inputs:
        return kernel.reshape((*kernel.shape[:-2], 1, inputs * outputs))
    windows = {*kernel.shape[:-2], *held.shape[:-2]}
    if kernel.ndim != held.ndim and windows == {1} and held.shape[-2:] == (inputs, outputs):
        return kernel.reshape(held.shape)
    return np.empty(0) if depthwise else kernel


def _is_told(entry: FileEntry) -> bool:
    """Whether it is no user's own weight, such as a scale, that looks like a normalization."""
    return entry.class_name in _STOCK or len(entry.arrays) > 1


def _check_what_lacks(entry: FileEntry, target: Layer, arrays: dict[str, Array]) -> None:
    """Raises `WeightsError` if one of two arrays is missing, and the file does not say which."""
    if target.kind.endswith("normalization") and _is_told(entry):
        ours = [name for name in ("gamma", "beta") if name in target.arrays]
        count = len(entry.arrays) - 2 * (target.kind == "batch_normalization")
        if count == 1 and len(ours) == 2:
            raise WeightsError(
                f"{entry.name} of the file has one array for the gamma and beta of {target.label}, "
                f"and the file does not say for which; wanted {MODEL}"
            )
    bias = arrays.get("bias")
    if target.kind == "gru" and bias is not None and bias.ndim == 1:
        raise WeightsError(
            f"{entry.name} of the file is a GRU with reset_after=False, which {RESETS_BEFORE}"
        )


# Flattened images


def check_flatten(
    pairs: Pairs, module: Any, flatten: Any, trace: Callable[[], Trace | None]
) -> None:
    """Raises `WeightsError` for a layer that may get a flattened image, or make one: the file does
    not say whether it does, and Keras and PyTorch order its features differently.

    It is no such layer if the module calls nothing that flattens, or if it takes as many features
    as the layer before it gives (and that layer is none, either). `trace` traces the module, as
    far as possible.
    """
    if flatten == "channels_last":
        return
    may = calls_one_of(module, _FLATTENS), calls_one_of(module, _UNFLATTENS)
    known = flatten if isinstance(flatten, Mapping) else {}
    for number, (source, target) in enumerate(pairs):
        if source.kind not in FLAT_KINDS or target.class_name in ("BatchNorm2d", "BatchNorm3d"):
            continue
        if target.arrays[target.first].size == 1:  # the one slope of a PReLU
            continue
        taken = target.arrays[target.first].shape[-2 if "kernel" in target.arrays else -1]
        before = [both for both in pairs[:number][::-1] if not _passes_flat(both[0], known)]
        giver = next((both for both in before if _given(both[0])), None)
        given = _given(giver[0]) if giver else 0
        if giver is None and source.kind in RECURRENT:
            continue  # it gets the steps that the model gets
        gets_image = source.kind in BY_CHANNEL and _gets_image(target, trace)
        if may[0] and taken != given and source.name not in known and not gets_image:
            images = any(one.kind in ("conv", "conv_transpose") for one, _ in before)
            if giver is not None and _gives_steps(giver[1]) and not images:
                raise WeightsError(
                    f"{source.name} of the file may get what {giver[0].name} gives, flattened, and "
                    "the file does not say in which order: wanted flatten='channels_last' if "
                    f"PyTorch's module flattens steps before features, as Keras does, or {MODEL}"
                )
            shape = "(height, width, channels)"
            if given and taken % given == 0:
                shape = f"({taken // given}, {given})"
            raise WeightsError(
                f"{source.name} of the file may get a flattened image, which the file does not "
                f"say: wanted flatten={{{source.name!r}: {shape}}} if so, flatten='channels_last' "
                f"if no layer does or PyTorch's module permutes itself, or {MODEL}"
            )
        after = next((n for one, _ in pairs[number + 1 :] if (n := _wanted(one))), 0)
        made = target.arrays["kernel"].shape[-1] if source.kind == "dense" else 0
        if may[1] and made and after not in (0, made) and made % after == 0:
            raise WeightsError(
                f"an image of {after} channels may be made from the output of {source.name} of the "
                f"file, which does not say it: wanted {MODEL}; or flatten='channels_last' if "
                "PyTorch's module permutes itself"
            )


def _gives_steps(layer: Layer) -> bool:
    """Whether a PyTorch layer gives the features as the last axis, as Keras's does."""
    by_step = (*RECURRENT, "embedding", "attention", "layer_normalization", "rms_normalization")
    return layer.kind in by_step or layer.class_name == "Linear"


def _passes_flat(layer: Layer, known: Mapping[str, Any]) -> bool:
    """Whether a layer gets a flattened image and gives as many features, in the same order."""
    return layer.kind in PASSING and layer.name in known


def _gets_image(layer: Layer, trace: Callable[[], Trace | None]) -> bool:
    """Whether a layer gets images, as far as the trace of its module says."""
    found = trace()
    calls = found.of(layer.handle) if found is not None else []
    return any(len(one.shape) > 2 for call in calls for one in call.sources[:1])


def _given(layer: Layer) -> int:
    """How many features a layer gives; 0 if its weights do not say."""
    arrays, kind = layer.arrays, layer.kind
    if "recurrent_kernel" in arrays:
        both = layer.name.endswith("/backward")
        return int(arrays["recurrent_kernel"].shape[0]) * (2 if both else 1)
    if kind == "conv_transpose":
        return int(arrays["kernel"].shape[-2] * layer.settings["groups"])
    if kind == "attention":
        return int(arrays["output_kernel"].shape[-1])
    first = arrays[layer.first]
    return 0 if kind == "parameter" or first.size == 1 else int(first.shape[-1])


def _wanted(layer: Layer) -> int:
    """How many channels a convolution takes; 0 for other layers."""
    if layer.kind == "conv":
        return int(layer.arrays["kernel"].shape[-2] * layer.settings["groups"])
    return int(layer.arrays["kernel"].shape[-1]) if layer.kind == "conv_transpose" else 0
