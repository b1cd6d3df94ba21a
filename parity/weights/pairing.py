"""Pairs the layers of two models: by a map, or by order, checked by shapes, calls and names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from parity.common.naming import nearest
from parity.weights.calls import Calls
from parity.weights.keras_layers import moved_ranks
from parity.weights.keras_trace import input_specs, trace_keras
from parity.weights.layer import Layer, WeightsError, in_own_layout, is_keras, is_pytorch
from parity.weights.match import (
    Graph,
    Match,
    Pairs,
    agrees,
    alike,
    in_order_of_calls,
    leaf_name,
    match,
    signature,
)
from parity.weights.pytorch_trace import trace_pytorch
from parity.weights.read import read, storage
from parity.weights.trace import Trace

_SHOWN = 30
_EXAMPLES = 4


class Traces:
    """The traces of a source and a target, made when first used, if one is a Keras model and the
    other a PyTorch module, which is called with inputs of the Keras model; None otherwise.
    `calls`: those of a source that is a file."""

    def __init__(self, source: Any, target: Any, calls: Calls | None = None) -> None:
        self.models = source, target
        self.calls = calls
        self._found: tuple[Trace | None, Trace | None] | None = None

    def both(self) -> tuple[Trace | None, Trace | None]:
        """The traces of the source and of the target."""
        if self._found is None:
            source, target = self.models
            self._found = None, None
            if is_keras(source) and is_pytorch(target):
                self._found = _traced(source, target)
            elif is_pytorch(source) and is_keras(target):
                self._found = _traced(target, source)[::-1]
            elif source is None and is_keras(target):  # the source is a file
                self._found = None, trace_keras(target)
        return self._found

    def by_framework(self) -> tuple[Trace | None, Trace | None]:
        """The traces of the Keras model and of the PyTorch module."""
        return self.both() if is_keras(self.models[0]) else self.both()[::-1]


def _traced(keras_model: Any, module: Any) -> tuple[Trace | None, Trace | None]:
    pytorch = trace_pytorch(module, input_specs(keras_model), moved_ranks(keras_model))
    return trace_keras(keras_model), pytorch


def suggest(source: Any, target: Any) -> dict[str, str]:
    """The map `layers=` of `copy` that fits two models: `{source name: target name}`.

    Layers are paired by kind and shape, by which layer feeds which in a call of the model, and,
    where that leaves a choice, by name, then by the order of the calls. A Keras model is called on
    symbols and a PyTorch module on fake tensors of the shapes that the Keras model takes (channels
    first, or unchanged), so nothing is computed. For two models of one framework, or if one of the
    two cannot be called in this way, the order of the layers replaces that of the calls.

        layers = weights.suggest(keras_model, torch_model)
        weights.copy(keras_model, torch_model, layers=layers)
        assert_model_parity(keras_model, torch_model, images, layers=layers)

    Layers of kinds that are not known are left out (`partial=True` of `copy`).

    Raises `TypeError` if an argument is no model, `WeightsError` if the layers of the two do not
    have the same kinds and shapes.
    """
    unknown: list[str] = []
    sources, targets = (
        read(model, argument, unknown)
        for model, argument in ((source, "source"), (target, "target"))
    )
    if unknown:
        sources, targets = fitting(sources, targets)
    sources, targets = _evened(sources, targets)
    graphs = _graphs(sources, targets, Traces(source, target))
    found = match(graphs) if graphs else _by_name(sources, targets)
    if found is None:
        raise _without_partner(sources, targets)
    for number, both in enumerate(found.pairs, 1):
        if _other_kinds(*both):
            raise misfit(number, *both, both[0].first)
    return {one.name: other.name for one, other in found.pairs}


def check_map(layers: Any) -> None:
    """Raises `TypeError` unless it is None or a dictionary from names to names."""
    fits = isinstance(layers, Mapping) and all(
        isinstance(name, str) for both in layers.items() for name in both
    )
    if layers is not None and not fits:
        raise TypeError(
            f"layers is {layers!r}; wanted a dictionary from layer names to layer names"
        )


def pair(
    sources: list[Layer],
    targets: list[Layer],
    layers: Mapping[str, str] | None = None,
    traces: Traces | None = None,
) -> Pairs:
    """The pairs, by order or by the map. Raises `WeightsError` if the number of layers or a kind
    differs, the map leaves a layer out, or, with `traces`, the order does not fit shapes, calls or
    names."""
    if layers is not None:
        found = _mapped(sources, targets, layers)
    else:
        sources, targets = _evened(sources, targets)
        found = _checked_order(sources, targets, traces)
    return [alike(*both) for both in found]


def _checked_order(sources: list[Layer], targets: list[Layer], traces: Traces | None) -> Pairs:
    try:
        found, error = in_order(sources, targets), None
    except WeightsError as refused:
        found, error = [], refused
    fits = error is None and all(signature(one) == signature(other) for one, other in found)
    several = len({signature(layer) for layer in sources}) < len(sources)
    if fits and not several:
        return found
    graphs = _graphs(sources, targets, traces) if traces is not None else None
    if fits and graphs and agrees(graphs, found):
        check_names(sources, targets, found)
        return found
    better = match(graphs) if graphs else _by_name(sources, targets)
    if better is not None and any(_other_kinds(*both) for both in better.pairs):
        better = None  # a Dense and a convolution with a stride
    if better is not None and traces is not None:
        if fits and graphs and not better.exact and in_order_of_calls(graphs, found):
            return found
        if not fits or graphs:
            raise disagreement(found, better, "calls" if graphs else "shapes")
    if error is not None:
        raise _better_cause(sources, targets) or error
    if fits and traces is not None:
        check_names(sources, targets, found)
    return found


def _evened(sources: list[Layer], targets: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The layers; if there are not as many in both models, without those that share all weights
    with others, then without normalizations that have no weights: the other model may call a
    function."""
    if len(sources) != len(targets):
        sources, targets = untied(sources), untied(targets)
    if len(sources) != len(targets):
        sources, targets = with_weights(sources), with_weights(targets)
    return sources, targets


def with_weights(layers: list[Layer]) -> list[Layer]:
    """The layers that have weights, without normalizations that have none."""
    return [layer for layer in layers if layer.arrays]


def _better_cause(sources: list[Layer], targets: list[Layer]) -> WeightsError | None:
    """The error that names the layers of which the models have other numbers, if those at which
    their orders part have partners elsewhere; or None."""
    longer, shorter = sorted((sources, targets), key=len, reverse=True)
    both = next((pair for pair in zip(sources, targets, strict=False) if _other_kinds(*pair)), None)
    apart = both or longer[len(shorter) : len(shorter) + 1]
    sound = {id(layer) for side in fitting(sources, targets) for layer in side}
    elsewhere = all(id(layer) in sound for layer in apart)
    differ = len(sound) < len(sources) + len(targets)
    return _without_partner(sources, targets) if elsewhere and differ else None


def untied(layers: list[Layer]) -> list[Layer]:
    """The layers without those that only share the weights of layers before them."""
    found: list[Layer] = []
    seen: set[Any] = set()
    for layer in layers:
        held = _keys(layer)
        if not held or not held <= seen:
            found.append(layer)
        seen |= held
    return found


def _is_shared(layer: Layer, others: list[Layer]) -> bool:
    """Whether a layer has weights, and all of them are those of the others, too."""
    own = _keys(layer)
    return bool(own) and own <= {key for one in others for key in _keys(one)}


def _keys(layer: Layer) -> set[Any]:
    """Keys of the arrays, which are the same for tied weights; of a layer in a file, its numbers,
    if one array has several axes: two biases or normalizations may both be as they were
    initialized."""
    if layer.handle is not None:
        return {storage(layer, name) for name in layer.arrays}
    own = [in_own_layout(layer, name, array) for name, array in layer.arrays.items()]
    if not any(array.ndim > 1 for array in own):
        return {(layer.name, name) for name in layer.arrays}
    return {tuple((array.shape, array.tobytes()) for array in own)}


def fitting(sources: list[Layer], targets: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The layers of those kinds and shapes of which both models have the same number."""
    counts = [Counter(map(signature, layers)) for layers in (sources, targets)]
    common = {kind for kind, count in counts[0].items() if counts[1][kind] == count}
    kept = [[one for one in side if signature(one) in common] for side in (sources, targets)]
    return kept[0], kept[1]


def _graphs(
    sources: list[Layer], targets: list[Layer], traces: Traces | None
) -> tuple[Graph, Graph] | None:
    if traces is not None and traces.calls is not None:
        found: tuple[Graph, Graph] | None = traces.calls.graphs(sources, targets, traces.models[1])
        return found
    source, target = traces.both() if traces is not None else (None, None)
    if source is None or target is None:
        return None
    return Graph.of(sources, source), Graph.of(targets, target)


def in_order(sources: list[Layer], targets: list[Layer]) -> Pairs:
    """The layers paired in order; raises `WeightsError` if their number or a kind differs."""
    for number, (source, target) in enumerate(zip(sources, targets, strict=False), 1):
        if _other_kinds(source, target):
            raise misfit(number, source, target, source.first)
    if len(sources) != len(targets):
        longer, shorter = sorted((sources, targets), key=len, reverse=True)
        extra = longer[len(shorter)]
        raise WeightsError(
            f"{len(sources)} layers with weights in the source, {len(targets)} in the target: "
            f"{extra.described(extra.first)} has no partner"
        )
    return list(zip(sources, targets, strict=True))


def _other_kinds(one: Layer, other: Layer) -> bool:
    one, other = alike(one, other)
    return one.kind != other.kind


# Names


def _by_name(sources: list[Layer], targets: list[Layer]) -> Match | None:
    """The pairs within each kind and shape: by name if all names occur in both, else in order."""
    found = {}
    groups = [_groups(layers) for layers in (sources, targets)]
    if {k: len(v) for k, v in groups[0].items()} != {k: len(v) for k, v in groups[1].items()}:
        return None
    for kind, ones in groups[0].items():
        others = _as_named(ones, groups[1][kind]) or groups[1][kind]
        found.update({id(one): other for one, other in zip(ones, others, strict=True)})
    return Match([(one, found[id(one)]) for one in sources], exact=False)


def _groups(layers: list[Layer]) -> dict[tuple[Any, ...], list[Layer]]:
    """The layers of each kind and shape."""
    found: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in layers:
        found.setdefault(signature(layer), []).append(layer)
    return found


def _as_named(ones: list[Layer], others: list[Layer]) -> list[Layer]:
    """The others in the order of the layers with their names; [] unless all names match."""
    by_name = {leaf_name(other): other for other in others}
    names = [leaf_name(one) for one in ones]
    matching = len(by_name) == len(set(names)) == len(ones) and set(names) == set(by_name)
    return [by_name[name] for name in names] if matching and len(ones) > 1 else []


def check_names(sources: list[Layer], targets: list[Layer], found: Pairs) -> None:
    """Raises `WeightsError` if layers of one kind and shape have the same names in both models, but
    in another order."""
    partner = {id(one): other for one, other in found}
    groups = [_groups(layers) for layers in (sources, targets)]
    for kind, ones in groups[0].items():
        others = _as_named(ones, groups[1].get(kind, []))
        if any(partner[id(one)] is not other for one, other in zip(ones, others, strict=False)):
            named = _by_name(sources, targets)
            assert named is not None  # the names match within one kind, so the kinds agree
            raise disagreement(found, named, "names")


# Messages


def disagreement(found: Pairs, better: Match, by: str) -> WeightsError:
    """The error with the map that fits, as Python to paste."""
    wanted = {id(one): other for one, other in better.pairs}
    apart = next(((a, b) for a, b in found if wanted[id(a)] is not b), None)
    why = "the layers of the two models stand in another order"
    if apart is not None:
        one, other = apart
        why = (
            f"the order of the layers disagrees with their {by}: by order {one.label} would go "
            f"into {other.label}, by their {by} into {wanted[id(one)].label}"
        )
    hint = "the map that fits"
    if by == "names" and apart is not None:
        hint = "the map by names (write that of the order where it is meant)"
    if by == "shapes":
        hint = "the map by shapes (layers of one shape are paired by names, or else in order)"
    layers = {one.name: other.name for one, other in better.pairs}
    error = WeightsError("\n".join([f"{why}; {hint}:", *as_python(layers, _SHOWN)]))
    error.layers = layers
    return error


def as_python(layers: Mapping[str, str], shown: int) -> list[str]:
    """The lines of a map, to paste; of more than `shown` entries, a line says where all are."""
    rows = [f"    {name!r}: {other!r}," for name, other in layers.items()]
    if len(rows) > shown:
        more = f"    # and {len(rows) - shown} more: layers=weights.suggest(source, target) has all"
        rows = [*rows[:shown], more]
    return ["layers={", *rows, "}"]


def unknown_layer(name: str, known: Sequence[str], argument: str) -> WeightsError:
    """The error for a name that is not one of the layers'."""
    near = nearest(name, known)
    hint = f"did you mean {near!r}? They" if near else "they"
    names = ", ".join(known) or "none"
    return WeightsError(f"{argument}: no layer with weights is called {name!r}; {hint} are {names}")


def misfit(number: int, source: Layer, target: Layer, array: str) -> WeightsError:
    """The error for two layers whose kinds or shapes differ."""
    name = array if array in target.arrays or source.kind == target.kind else target.first
    return WeightsError(
        f"layer {number}: {source.described(array)} does not fit {target.described(name)}"
    )


def _without_partner(sources: list[Layer], targets: list[Layer]) -> WeightsError:
    """The error for models whose layers do not have the same kinds and shapes."""
    kept = fitting(sources, targets)
    sides = zip((sources, targets), kept, strict=True)
    left = [[one for one in side if not any(one is k for k in own)] for side, own in sides]
    shown = [[one.described(one.first) for one in side[:_EXAMPLES]] for side in left]
    texts = [
        ", ".join(names) + (f" and {len(side) - len(names)} more" if len(side) > len(names) else "")
        for names, side in zip(shown, left, strict=True)
    ]
    return WeightsError(
        "no map fits, as the models have layers of these kinds and shapes in other numbers: "
        f"{texts[0] or 'none in the source'}; {texts[1] or 'none in the target'}"
    )


# The map


def _mapped(sources: list[Layer], targets: list[Layer], layers: Mapping[str, str]) -> Pairs:
    chosen = list(
        zip(named(sources, list(layers)), named(targets, list(layers.values())), strict=True)
    )
    for number, (source, target) in enumerate(chosen, 1):
        if _other_kinds(source, target):
            raise misfit(number, source, target, source.first)
    return chosen


def named(found: list[Layer], names: list[str]) -> list[Layer]:
    """The layers in the order of the names, which must name every layer once; those that only share
    the weights of others may be left out."""
    by_name = {layer.name: layer for layer in found}
    for name in names:
        if name not in by_name:
            raise unknown_layer(name, list(by_name), "layers")
        if names.count(name) > 1:
            raise WeightsError(f"layers names {name!r} twice")
    for layer in found:
        if layer is not by_name[layer.name]:
            raise WeightsError(f"two layers are called {layer.name!r}; wanted other names")
    chosen = [layer for layer in found if layer.name in names]
    for layer in found:
        if layer.arrays and layer.name not in names and not _is_shared(layer, chosen):
            raise WeightsError(f"layers leaves out {layer.label}; wanted all layers with weights")
    return [by_name[name] for name in names]
