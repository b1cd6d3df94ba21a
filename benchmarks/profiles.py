"""Where the time of a step goes: the largest shares, by the profiler of each framework."""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import Step, is_kernel

SHOWN = 4
"""The number of shares that are named."""
STEPS = 3
"""The number of steps in a profile."""
LEAST = 0.005
"""Smaller shares are not shown."""

Event = tuple[str, str, float]
"""The line (a thread) and the name of an event, and its duration."""


def words(times: dict[str, float]) -> str:
    """The largest shares of a total, such as "mul 40 %, add 22 %"."""
    total = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    shares = [(name, time / total) for name, time in largest if time > LEAST * total]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)


# PyTorch


def _recorded(function: Any) -> Any:
    """A function of the compiled loops; its calls are events of PyTorch's profiler."""
    from torch.profiler import record_function

    def recorded(*arguments: Any) -> Any:
        with record_function("compiled loops"):
            return function(*arguments)

    return recorded


def of_torch(step: Step, device: str) -> str:
    """By PyTorch's operations and the compiled loops; on a GPU by kernels.

    What no operation takes on a CPU, such as the work of Python and autograd, is "between them".
    """
    from torch.profiler import ProfilerActivity, profile, record_function

    from segact_torch._backends import cpu

    function = cpu._function
    with patch.object(cpu, "_function", lambda *name: _recorded(function(*name))):
        step()
        if device == "cuda":
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                for _ in range(STEPS):
                    step()
            return words(kernels(found.events() or ()))
        with profile(activities=[ProfilerActivity.CPU]) as found, record_function("between them"):
            for _ in range(STEPS):
                step()
    times: defaultdict[str, float] = defaultdict(float)
    for event in found.key_averages():
        compiled = event.key.startswith("## Call CompiledFxGraph")
        name = "compiled code" if compiled else event.key.removeprefix("aten::")
        times[name] += event.self_cpu_time_total
    return words(times)


def kernels(events: Iterable[Any]) -> dict[str, float]:
    """The microseconds of each kernel on a GPU, from a profile's events."""
    times: defaultdict[str, float] = defaultdict(float)
    for event in filter(is_kernel, events):
        times[event.name] += event.time_range.elapsed_us()
    return times


# TensorFlow and JAX write their profiles in one format.


def of_graph(step: Step) -> str:
    """By the operations of TensorFlow's graph."""
    import tensorflow as tf

    def events(folder: Path) -> Iterable[Event]:
        from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

        for path in folder.rglob("*.xplane.pb"):
            for plane in XSpace.FromString(path.read_bytes()).planes:
                for line in plane.lines:
                    for event in line.events:
                        name = plane.event_metadata[event.metadata_id].name
                        yield line.name, name, event.duration_ps

    with tempfile.TemporaryDirectory() as folder:
        step()
        with tf.profiler.experimental.Profile(folder):
            for _ in range(STEPS):
                step()
        return words(operations(events(Path(folder))))


def of_xla(step: Step) -> str:
    """By the fused loops of a program that XLA compiled for JAX, named by what they fuse."""
    import jax

    def events(folder: Path) -> Iterable[Event]:
        for path in folder.rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for line in plane.lines:
                    for event in line.events:
                        yield line.name, event.name, event.duration_ns

    with tempfile.TemporaryDirectory() as folder:
        step()
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                step()
        return words(loops(events(Path(folder))))


def of_program(text: str) -> str:
    """By the operations of a program that XLA compiled for TensorFlow, whose loops have no events.

    These are counts, not shares of the time.
    """
    found = Counter(re.findall(r"= (?:\([^)]*\)|\S+) ([a-z0-9-]+)\(", text))
    fused = found.pop("fusion", 0)
    named = [(name, count) for name, count in found.most_common() if name not in _NO_WORK]
    listed = ", ".join(f"{count} {name}" for name, count in named[:SHOWN])
    return f"{fused} loops of {sum(count for _, count in named)} operations: {listed}"


_NO_WORK = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "broadcast", "call"),
    *("copy", "reshape", "iota", "slice", "pad"),
)


def operations(events: Iterable[Event]) -> dict[str, float]:
    """The time of each kind of operation: events of TensorFlow are named `mul_3:Mul`."""
    times: defaultdict[str, float] = defaultdict(float)
    for line, name, time in events:
        found = re.fullmatch(r"[\w/]+:(\w+)", name)
        if found and line != "python":
            times[found[1]] += time
    return times


def loops(events: Iterable[Event]) -> dict[str, float]:
    """The time of each loop of XLA; events of its runtime have `::` or blanks in their names."""
    times: defaultdict[str, float] = defaultdict(float)
    for line, name, time in events:
        if line != "python" and re.fullmatch(r"[\w.-]+", name):
            times[name] += time
    return times
