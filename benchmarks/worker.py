"""The process that measures one framework: one JSON object per line on standard output.

Keras fixes its backend when it is imported, so each framework runs in its own process. It reads a
`Task` on standard input; its lines are {"row": ...}, {"skipped": [name, why]}, {"failed": ...} or
{"name": the row that is measured now}, and last {"machine": versions}.
"""

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks import measure, profiles
from benchmarks.cases import HUGE, MIDDLE, SWEEP, Case, Loss, as_they_are
from benchmarks.report import Row

COUNTED = 4 * 64 * 64
"""The number of elements for counting operations."""
QUEUED = 10
"""The steps of a row of "bandwidth": as in training, the host does not wait for each."""


@dataclass(frozen=True)
class Task:
    """What to measure, and how long.

    Args:
        framework: of `cases.FRAMEWORKS`.
        device: "cpu" or "cuda".
        threads: of PyTorch; those of the others are in the environment.
        rounds, budget: see `measure.beside`.
        sizes: the numbers of elements, instead of the cases' own.
        huge: also the largest size, for cases with several sizes.
        only: words that a case's key has to hold, all of them.
        keys: rows to measure, [key, elements]; None for all.
        done: rows that are measured already.
        quick: without memory and other slow measurements.
    """

    framework: str
    device: str = "cpu"
    threads: int = 2
    rounds: int = 15
    budget: float = 1.0
    sizes: tuple[int, ...] | None = None
    huge: bool = False
    only: tuple[str, ...] = ()
    keys: list[tuple[str, int]] | None = None
    done: tuple[tuple[str, int], ...] = ()
    quick: bool = False

    def sizes_of(self, case: Case) -> list[int]:
        """The sizes at which a case is to be measured."""
        more = (HUGE,) if self.huge and case.sizes == SWEEP else ()
        wanted = [] if self.keys is None else [tuple(key) for key in self.keys]
        done = [tuple(key) for key in self.done]
        return [
            size
            for size in self.sizes or (*case.sizes, *more)
            if (case.key, size) not in done and (self.keys is None or (case.key, size) in wanted)
        ]

    def asks_for(self, case: Case) -> bool:
        """Whether the case's name has all words, and a size of it is to be measured."""
        return all(word in case.key for word in self.only) and bool(self.sizes_of(case))


@functools.lru_cache(maxsize=1)
def arrays(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Raw outputs ~ N(0, 4), and hard targets, a third of them 1, in float32."""
    rng = np.random.default_rng(20210902)
    x = 2 * rng.standard_normal(shape, dtype=np.float32)
    return x, (rng.random(shape, dtype=np.float32) < 1 / 3).astype(np.float32)


class Engine:
    """Makes a step of a loss, forward and backward, on tensors of a framework."""

    channels_last = False
    queued = 1  # the steps that are launched before the device is waited for

    def batch(self, case: Case, size: int) -> tuple[Any, Any]:
        """The inputs of the losses of a case."""
        shape = (8, size // 8, 1) if self.channels_last else (8, 1, size // 8)
        return case.inputs(*self.tensors(*arrays(shape)))

    def tensors(self, x: Any, y: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def step(self, loss: Loss, x: Any, y: Any) -> measure.Step:
        raise NotImplementedError

    def profile(self, loss: Loss, x: Any, y: Any) -> str:
        """Where the time of a step goes (`benchmarks.profiles`)."""
        raise NotImplementedError


class Torch(Engine):
    """PyTorch, and Keras on torch."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        self.task, self.torch = task, torch
        self.channels_last = task.framework.startswith("keras")
        self.queued = QUEUED if task.framework == "bandwidth" else 1

    def tensors(self, x: Any, y: Any) -> tuple[Any, Any]:
        device, tensor = self.task.device, self.torch.from_numpy
        return tensor(x).to(device).requires_grad_(), tensor(y).to(device)

    def step(self, loss: Loss, x: Any, y: Any) -> measure.Step:
        synchronize = self.torch.cuda.synchronize if self.task.device == "cuda" else None

        def step() -> None:
            for _ in range(self.queued):
                value = loss(x, y)
                if value.requires_grad:
                    value.backward()
                x.grad = None
            if synchronize:
                synchronize()

        return step

    def profile(self, loss: Loss, x: Any, y: Any) -> str:
        return profiles.of_torch(self.step(loss, x, y), self.task.device)


class TensorFlow(Engine):
    """A graph, or one that XLA compiles."""

    last = True

    def __init__(self, task: Task) -> None:
        import tensorflow as tf

        self.tf, self.xla = tf, task.framework == "xla"

    def tensors(self, x: Any, y: Any) -> tuple[Any, Any]:
        return self.tf.constant(x), self.tf.constant(y)

    def step(self, loss: Loss, x: Any, y: Any) -> measure.Step:
        gradient = self._function(loss, x, y)
        return lambda: gradient(x, y)[1].numpy()

    def profile(self, loss: Loss, x: Any, y: Any) -> str:
        if not self.xla:
            return profiles.of_graph(self.step(loss, x, y))
        program = self._function(loss, x, y).experimental_get_compiler_ir(x, y)
        return profiles.of_program(program(stage="optimized_hlo"))

    def _function(self, loss: Loss, x: Any, y: Any) -> Any:
        """The value and the gradient of a loss, for any number of samples: as in Keras's fit."""
        tf = self.tf
        signature = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in (x, y)]

        @tf.function(jit_compile=self.xla, autograph=False, input_signature=signature)
        def gradient(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(x, y)
            return value, tape.gradient(value, x)

        return gradient


class Jax(Engine):
    """Compiled by `jax.jit`."""

    last = True

    def __init__(self, task: Task) -> None:
        import jax

        self.jax = jax

    def tensors(self, x: Any, y: Any) -> tuple[Any, Any]:
        return self.jax.numpy.asarray(x), self.jax.numpy.asarray(y)

    def step(self, loss: Loss, x: Any, y: Any) -> measure.Step:
        gradient = self.jax.jit(self.jax.value_and_grad(loss))
        return lambda: self.jax.block_until_ready(gradient(x, y))

    def profile(self, loss: Loss, x: Any, y: Any) -> str:
        return profiles.of_xla(self.step(loss, x, y))


ENGINES: dict[str, Callable[[Task], Engine]] = {"tensorflow": TensorFlow, "xla": TensorFlow}
ENGINES |= {"jax": Jax} | dict.fromkeys(("torch", "compile", "bandwidth", "keras-torch"), Torch)
SERVED = {"compile": "compiled", "tensorflow": "graph", "xla": "XLA", "jax": "XLA"}
SERVED |= {"keras-torch": "eager"}


def cases(framework: str) -> list[Case]:
    """The cases of a framework; for Keras on the active backend."""
    if framework in ("torch", "compile", "bandwidth"):
        from benchmarks import torch_cases

        return torch_cases.CASES[framework]()
    from benchmarks import keras_cases

    return keras_cases.cases()


def _pair(function: Callable[[Loss], Any], case: Case) -> tuple[Any, Any] | None:
    """A pair (ours, theirs), or None if one is missing."""
    assert case.theirs is not None
    found = function(case.ours), function(case.theirs)
    return None if None in found else found


def _memory(engine: Engine, task: Task, case: Case) -> tuple[float, float] | None:
    """Peak beyond inputs and gradient, in tensors of the size of the input."""
    x, y = engine.batch(case, measure.MEMORY_BYTES // 4)

    def peak(loss: Loss) -> float | None:
        found = measure.peak_memory(engine.step(loss, x, y), task.device)
        return None if found is None else max(0.0, found / (x.numel() * 4) - 1)

    return _pair(peak, case)


def _counts(case: Case, last: bool) -> tuple[tuple[int, int], tuple[float, float]]:
    """Operations and tensors moved, without loops and kernels."""
    import torch

    from benchmarks import counts

    shape = (4, 64, 64, 1) if last else (4, 1, 64, 64)
    x = torch.linspace(-6, 6, COUNTED).reshape(shape).requires_grad_()
    x, y = case.inputs(x, (torch.arange(COUNTED).reshape(shape) % 3 == 0).float())
    with counts.bare():
        found = _pair(functools.partial(counts.count, x=x, y=y), case)
    assert found is not None
    ours, theirs = found
    return (ours.operations, theirs.operations), (round(ours.moved, 1), round(theirs.moved, 1))


def _of_the_case(engine: Engine, task: Task, case: Case) -> dict[str, Any]:
    """The fields of a row that do not depend on the size."""
    found: dict[str, Any] = {}
    plain = case.inputs is as_they_are
    if task.framework in ("torch", "keras-torch") and plain and task.device == "cpu":
        found["operations"], found["moved"] = _counts(case, engine.channels_last)
    # a sort of 10 million takes seconds, for any activation
    quick = task.quick or (case.loss == "lovasz" and case.options != "sigmoid")
    if task.framework == "torch" and plain and not quick:
        found["memory"] = _memory(engine, task, case)
    if task.device == "cuda":
        x, y = engine.batch(case, case.sizes[-1])
        kernels = _pair(lambda loss: measure.kernels(engine.step(loss, x, y), engine.queued), case)
        assert kernels is not None
        found["kernels"], found["on_device"] = zip(*kernels, strict=True)
    return found


def _row(engine: Engine, task: Task, case: Case, size: int, known: dict[str, Any]) -> Row:
    assert case.theirs is not None
    x, y = engine.batch(case, size)
    ours, theirs = engine.step(case.ours, x, y), engine.step(case.theirs, x, y)
    times = measure.beside(ours, theirs, task.rounds, task.budget, engine.queued)
    served = SERVED.get(task.framework) or measure.backends(ours)
    # on a GPU the kernels are counted and timed for every row
    profiled = times.ratio[1] > 1 and size >= MIDDLE and task.device == "cpu"
    profile = _pair(lambda loss: engine.profile(loss, x, y), case) if profiled else None
    return Row(
        framework=task.framework,
        loss=case.loss,
        options=case.options,
        counterpart=case.counterpart,
        same=case.same,
        elements=size,
        served=served,
        milliseconds=times.milliseconds,
        ratio=times.ratio,
        profile=profile,
        **known,
    )


def measured(task: Task) -> Iterator[dict[str, Any]]:
    """The output lines."""
    engine = ENGINES[task.framework](task)
    for case in cases(task.framework):
        if not task.asks_for(case):
            continue
        yield {"name": case.key}
        if case.theirs is None:
            yield {"skipped": [f"{task.framework}: {case.key}", f"{case.needs} is not installed"]}
            continue
        try:
            known = _of_the_case(engine, task, case)
            for size in task.sizes_of(case):
                yield {"row": asdict(_row(engine, task, case, size, known))}
        except Exception as error:  # an error does not stop the other rows
            words = str(error).strip().splitlines() or [""]
            yield {"failed": f"{task.framework}: {case.key}: {type(error).__name__}: {words[0]}"}


def _machine(framework: str) -> dict[str, str]:
    """The versions of the measured packages."""
    names = ("torch", "keras", "tensorflow", "jax", "monai")
    found = {n: str(sys.modules[n].__version__) for n in names if n in sys.modules}
    if "torch" in found and framework in ("torch", "compile", "bandwidth"):
        import torch

        import segact_torch

        if torch.cuda.is_available():
            found["device"] = torch.cuda.get_device_name()
        else:
            found["vectors"] = torch.backends.cpu.get_cpu_capability()
            found["compiled loops"] = segact_torch.backends()["cpu"]
    return found


def main() -> None:
    """Measure, and print each result at once."""
    task = Task(**json.load(sys.stdin))
    out, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with our lines
    warnings.simplefilter("ignore")
    for line in measured(task):
        print(json.dumps(line), file=out, flush=True)
    print(json.dumps({"machine": _machine(task.framework)}), file=out, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    main()
