"""Matches the layers of two models: by kind and shape, by which layer feeds which, and by names.

The calls of both models are graphs of layers (`parity.weights.trace`). Their nodes get colours,
first by kind and shape, then repeatedly by the colours of their inputs and outputs (Weisfeiler and
Leman). If several layers have one colour, one of them is paired, by name or else by the order of
the calls, and the colours are refined from there.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parity.weights.layer import Layer
from parity.weights.trace import Trace, feeders

Pairs = list[tuple[Layer, Layer]]
Colours = dict[Hashable, int]
OVER_AXES = ("layer_normalization", "rms_normalization")
"""The kinds that may normalize several axes, each entry of which has its own weight."""


def signature(layer: Layer) -> tuple[Any, ...]:
    """Kind and shape, which are equal in a pair. A convolution of one pixel counts as a Dense."""
    shape = layer.arrays[layer.first].shape if layer.first else ()
    if layer.kind in OVER_AXES:
        shape = tuple(sorted(shape))  # of an image: channels last in Keras, first in PyTorch
    return ("dense", shape[-2:]) if _has_one_pixel(layer) else (layer.kind, shape)


def _has_one_pixel(layer: Layer) -> bool:
    if layer.kind != "conv" or "kernel" not in layer.arrays or layer.settings["groups"] != 1:
        return False
    return set(layer.arrays["kernel"].shape[:-2]) == {1}


def is_pointwise(layer: Layer) -> bool:
    """Whether a convolution is a Dense at each pixel."""
    return _has_one_pixel(layer) and set(layer.settings["strides"]) == {1} and not _pads(layer)


def _pads(layer: Layer) -> bool:
    padding = layer.settings["padding"]
    added = [n for pair in layer.settings["added"] for n in pair]
    return any(added) or (isinstance(padding, list) and any(n for pair in padding for n in pair))


def alike(one: Layer, other: Layer) -> tuple[Layer, Layer]:
    """Two layers, both as Dense layers if just one of them is a convolution of one pixel."""
    if {one.kind, other.kind} != {"conv", "dense"}:
        return one, other
    both = [_as_dense(layer) if is_pointwise(layer) else layer for layer in (one, other)]
    return both[0], both[1]


def _as_dense(layer: Layer) -> Layer:
    kernel = layer.arrays["kernel"]
    arrays = {**layer.arrays, "kernel": kernel.reshape(kernel.shape[-2:])}
    return replace(layer, kind="dense", arrays=arrays, settings={})


def leaf_name(layer: Layer) -> str:
    """The name without those of its parents, in one spelling."""
    last = layer.name.replace(".", "/").rpartition("/")[2]
    return last.lower().replace("_", "").replace("-", "")


@dataclass
class Graph:
    """The graph of a model: its layers are numbered nodes, and so are its inputs and outputs."""

    layers: list[Layer]
    order: list[int]
    before: dict[Hashable, set[tuple[int, Hashable]]] = field(default_factory=dict)
    after: dict[Hashable, set[tuple[int, Hashable]]] = field(default_factory=dict)

    @property
    def called(self) -> list[int]:
        """The layers in the order of their calls."""
        return sorted(range(len(self.layers)), key=self.order.__getitem__)

    @classmethod
    def of(cls, layers: list[Layer], trace: Trace) -> "Graph":
        """The graph of a traced call; layers that are not called are at the end, without edges."""
        numbers = {id(layer.handle): number for number, layer in enumerate(layers)}
        called: dict[int, int] = {}
        graph = cls(layers, [])
        nodes: list[Hashable] = [*range(len(layers))]
        nodes += [("input", n) for n in range(len(trace.inputs))]
        nodes += [("output", n) for n in range(len(trace.outputs))]
        for node in nodes:
            graph.before[node], graph.after[node] = set(), set()
        for place, call in enumerate(trace.calls):
            number = numbers.get(id(call.layer))
            if number is not None:
                called.setdefault(number, place)
                for source in call.sources:
                    graph._join(source, number, numbers, trace)
        for n, output in enumerate(trace.outputs):
            graph._join(output, ("output", n), numbers, trace)
        graph.order = [called.get(n, len(trace.calls) + n) for n in range(len(layers))]
        return graph

    def _join(self, value: Any, node: Hashable, numbers: dict[int, int], trace: Trace) -> None:
        found = list(feeders(value, trace.inputs))
        ranks = {places: rank for rank, places in enumerate(sorted({each[0] for each in found}))}
        for places, feeder in found:
            other: Hashable = ("input", feeder) if isinstance(feeder, int) else None
            other = numbers.get(id(feeder)) if other is None else other
            if other is not None:
                self.before[node].add((ranks[places], other))
                self.after[other].add((ranks[places], node))


@dataclass
class Match:
    """Pairs in the order of the source; `exact`: with them the graphs of both models are equal."""

    pairs: Pairs
    exact: bool


def match(graphs: tuple[Graph, Graph]) -> Match | None:
    """The pairs that fit kinds, shapes and, if possible, which layer feeds which; None if the
    layers of the two models do not have the same kinds and shapes."""
    left, right = graphs
    counts = [Counter(map(signature, graph.layers)) for graph in graphs]
    if counts[0] != counts[1]:
        return None
    for labelled in (True, False):
        found = _isomorphism(graphs, labelled)
        if found is not None:
            chosen = [(left.layers[one], right.layers[other]) for one, other in sorted(found)]
            return Match(chosen, exact=True)
    return Match(_by_calls(left, right), exact=False)


def agrees(graphs: tuple[Graph, Graph], pairs: Pairs) -> bool:
    """Whether with these pairs the same layers feed each other in both models."""
    numbers = [{id(layer): n for n, layer in enumerate(graph.layers)} for graph in graphs]
    partner: dict[Hashable, Hashable] = {
        numbers[0][id(one)]: numbers[1][id(other)] for one, other in pairs
    }
    left, right = graphs

    def same(labelled: bool) -> bool:
        def edges(found: set[tuple[int, Hashable]], mapped: bool) -> set[Any]:
            ends = [(rank, partner.get(n, n) if mapped else n) for rank, n in found]
            return set(ends) if labelled else {end for _, end in ends}

        nodes = {node: partner.get(node, node) for node in left.before}
        return all(
            edges(left.before[node], True) == edges(right.before.get(other, set()), False)
            for node, other in nodes.items()
        )

    return same(True) or (_isomorphism(graphs, True) is None and same(False))


def _by_calls(left: Graph, right: Graph) -> Pairs:
    """Within each kind and shape, the layers in the order of their calls."""
    found: dict[int, int] = {}
    for kind in {signature(layer) for layer in left.layers}:
        both = [
            sorted(
                (n for n, one in enumerate(g.layers) if signature(one) == kind),
                key=g.order.__getitem__,
            )
            for g in (left, right)
        ]
        found.update(zip(*both, strict=True))
    return [(left.layers[one], right.layers[found[one]]) for one in sorted(found)]


def in_order_of_calls(graphs: tuple[Graph, Graph], pairs: Pairs) -> bool:
    """Whether layers of one kind and shape are called in the same order in both models."""
    return {(id(a), id(b)) for a, b in pairs} == {(id(a), id(b)) for a, b in _by_calls(*graphs)}


# The colours


def _isomorphism(graphs: tuple[Graph, Graph], labelled: bool) -> set[tuple[int, int]] | None:
    fixed: dict[tuple[int, int], int] = {}
    colours = _refined(graphs, fixed, labelled)
    if colours is None:
        return None
    while True:
        classes = [_classes(graph, own) for graph, own in zip(graphs, colours, strict=True)]
        tied = [colour for colour, nodes in classes[0].items() if len(nodes) > 1]
        if not tied:
            break
        first = min(tied, key=lambda colour: graphs[0].order[classes[0][colour][0]])
        one = classes[0][first][0]
        for other in _candidates(graphs, one, classes[1][first]):
            attempt = {**fixed, (0, one): len(fixed), (1, other): len(fixed)}
            refined = _refined(graphs, attempt, labelled)
            if refined is not None:
                fixed, colours = attempt, refined
                break
        else:
            return None
    return {(nodes[0], classes[1][colour][0]) for colour, nodes in classes[0].items()}


def _classes(graph: Graph, colours: Colours) -> dict[int, list[int]]:
    """The layers of each colour, in the order of their calls."""
    found: dict[int, list[int]] = {}
    for number in graph.called:
        found.setdefault(colours[number], []).append(number)
    return found


def _candidates(graphs: tuple[Graph, Graph], one: int, others: Sequence[int]) -> list[int]:
    """Those of the same name first, then by the order of the calls."""
    name = leaf_name(graphs[0].layers[one])
    return sorted(others, key=lambda other: leaf_name(graphs[1].layers[other]) != name)


def _refined(
    graphs: tuple[Graph, Graph], fixed: dict[tuple[int, int], int], labelled: bool
) -> tuple[Colours, Colours] | None:
    """The colours of both graphs' nodes, refined until their number does not grow; None if the two
    graphs have different colours."""
    colours: list[Colours] = []
    table: dict[Hashable, int] = {}
    for side, graph in enumerate(graphs):
        first = {}
        for node in graph.before:
            kind: Hashable = node
            if isinstance(node, int):
                kind = (signature(graph.layers[node]), fixed.get((side, node), -1))
            first[node] = table.setdefault(kind, len(table))
        colours.append(first)
    while True:
        if Counter(colours[0].values()) != Counter(colours[1].values()):
            return None
        table, told = {}, len(set(colours[0].values()))
        refined: list[Colours] = []
        for graph, own in zip(graphs, colours, strict=True):
            refined.append(
                {
                    node: table.setdefault(
                        (
                            own[node],
                            _around(graph.before[node], own, labelled),
                            _around(graph.after[node], own, labelled),
                        ),
                        len(table),
                    )
                    for node in graph.before
                }
            )
        if len(set(refined[0].values())) == told:
            same = Counter(refined[0].values()) == Counter(refined[1].values())
            return (refined[0], refined[1]) if same else None
        colours = refined


def _around(edges: set[tuple[int, Hashable]], colours: Colours, labelled: bool) -> Hashable:
    return tuple(sorted((rank if labelled else 0, colours[node]) for rank, node in edges))
