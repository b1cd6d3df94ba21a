"""The tensors and operations of one call of a model, without numbers: which layer feeds which, and
through which operations.

Both readers, `parity.weights.keras_trace` and `parity.weights.pytorch_trace`, give a `Trace`: the
tensors of one call, in order. The operations between layers with weights can be run again on chosen
numbers (`Value.run`), as `parity.weights.elements` does to find where each element goes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Edge = tuple[tuple[int, ...], Any]
BATCH = 2
"""How many samples a traced call has: with one alone, `squeeze` would drop the axis."""
_SIZES = {2: 16, 3: 16, 4: 64, 5: 32}
_CONCATENATIONS = ("Concatenate", "cat", "concat", "concatenate", "Stack", "stack")


@dataclass(eq=False)
class Value:
    """A tensor of a traced call, with the batch axis.

    `layer` is the layer with weights that returned it; otherwise `run` computes it from the arrays
    of `sources`, or it is an input of the model. `layout` is that of the operation: channels_first,
    channels_last, or "". `given`: the input of a part of a layer whose source is only the part
    before it, such as the backward half of a Bidirectional.
    """

    shape: Shape
    operation: str
    sources: list["Value"] = field(default_factory=list)
    layer: Any = None
    layout: str = ""
    run: Callable[..., Any] | None = field(default=None, repr=False)
    origin: str = ""
    given: "Value | None" = None


@dataclass
class Trace:
    """One call of a model: its inputs, its outputs, and the calls of layers with weights."""

    inputs: list[Value]
    outputs: list[Value]
    calls: list[Value]

    def of(self, layer: Any) -> list[Value]:
        """The calls of one layer."""
        return [value for value in self.calls if value.layer is layer]


def filled(shape: Any) -> Shape:
    """A shape with numbers in place of sizes that a model does not fix."""
    open_size = _SIZES.get(len(shape), 16)
    return (BATCH, *(open_size if size is None else int(size) for size in shape[1:]))


def feeders(value: Value, inputs: list[Value]) -> Iterator[Edge]:
    """The calls of layers, or inputs of the model (by number), from which a tensor is computed,
    each with its places in the concatenations between."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    waiting: list[tuple[Value, tuple[int, ...]]] = [(value, ())]
    while waiting:
        one, places = waiting.pop()
        if (id(one), places) in seen:
            continue
        seen.add((id(one), places))
        if one.layer is not None:
            yield places, one.layer
        elif any(one is each for each in inputs):
            yield places, next(n for n, each in enumerate(inputs) if each is one)
        joined = one.operation in _CONCATENATIONS
        if one.layer is None:
            for number, source in enumerate(one.sources):
                waiting.append((source, (*places, number) if joined else places))


def consumers(trace: Trace) -> dict[int, list[Value]]:
    """The tensors that are computed from a tensor, by its id."""
    found: dict[int, list[Value]] = {}
    seen: set[int] = set()
    waiting = [*trace.outputs, *trace.calls]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        waiting += one.sources
        for source in one.sources:
            found.setdefault(id(source), []).append(one)
    return found
