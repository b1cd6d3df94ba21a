"""Which layer feeds which in a saved model: with this a file is paired like the model itself."""

import json
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from parity.weights.keras_layers import moved_ranks
from parity.weights.keras_trace import input_specs, trace_keras
from parity.weights.layer import Layer, is_keras, is_pytorch
from parity.weights.match import Graph
from parity.weights.pytorch_trace import trace_by_layers, trace_pytorch
from parity.weights.trace import Trace


@dataclass(frozen=True)
class Calls:
    """The graph of the layers of a file, and the inputs of a Keras model, for which a PyTorch
    module is called."""

    graph: Graph
    specs: list[tuple[tuple[int, ...], str]]
    moved: set[int]

    def graphs(self, sources: list[Layer], targets: list[Layer], target: Any) -> Any:
        """The graphs of some layers of the file and of a target of the other framework; None if
        the target cannot be called, or is of the same framework."""
        trace: Trace | None = None
        if is_keras(target) and not self.specs:
            trace = trace_keras(target)
        if is_pytorch(target) and self.specs:
            trace = trace_pytorch(target, self.specs, self.moved)
        return None if trace is None else (self._of(sources), Graph.of(targets, trace))

    def _of(self, layers: list[Layer]) -> Graph:
        """The graph of some of the layers."""
        places = {id(layer): n for n, layer in enumerate(self.graph.layers)}
        own = [places[id(layer)] for layer in layers]
        number: dict[Hashable, Hashable] = {place: n for n, place in enumerate(own)}
        number |= {node: node for node in self.graph.before if not isinstance(node, int)}
        before, after = (
            {
                number[node]: {(rank, number[one]) for rank, one in edges if one in number}
                for node, edges in found.items()
                if node in number
            }
            for found in (self.graph.before, self.graph.after)
        )
        return Graph(layers, [self.graph.order[place] for place in own], before, after)


def calls_as_json(model: Any, layers: list[Layer]) -> str:
    """The calls of a model for the header of a file; "" if it cannot be called."""
    keras = is_keras(model)
    trace = trace_keras(model) if keras else trace_by_layers(model, layers)
    if trace is None:
        return ""
    graph = Graph.of(layers, trace)
    nodes = list(graph.before)
    edges = [
        [rank, nodes.index(one), n]
        for n, node in enumerate(nodes)
        for rank, one in graph.before[node]
    ]
    found = {
        "order": graph.order,
        "ends": [len(trace.inputs), len(trace.outputs)],
        "edges": edges,
        "specs": input_specs(model) if keras else [],
        "moved": sorted(moved_ranks(model)) if keras else [],
    }
    return json.dumps(found)


def calls_of_json(text: str, layers: list[Layer]) -> Calls:
    """The calls of the layers of a file. Raises `ValueError`, `KeyError`, `TypeError` or
    `IndexError` for another text."""
    found = json.loads(text)
    order, (inputs, outputs) = [int(n) for n in found["order"]], found["ends"]
    if len(order) != len(layers):
        raise ValueError("the calls are those of other layers")
    nodes: list[Hashable] = [*range(len(layers))]
    nodes += [("input", n) for n in range(inputs)] + [("output", n) for n in range(outputs)]
    graph = Graph(layers, order, {n: set() for n in nodes}, {n: set() for n in nodes})
    for rank, one, other in found["edges"]:
        graph.before[nodes[other]].add((int(rank), nodes[one]))
        graph.after[nodes[one]].add((int(rank), nodes[other]))
    specs = [(tuple(int(n) for n in shape), str(dtype)) for shape, dtype in found["specs"]]
    return Calls(graph, specs, {int(n) for n in found["moved"]})
