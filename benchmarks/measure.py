"""How it is measured: interleaved rounds, medians and spread; memory by every tensor alive."""

import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.contestants import Contestant, Loss


@dataclass
class Timing:
    """Seconds of every round, forward and backward together."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance of the quartiles, relative to the median."""
        if len(self.seconds) < 4:
            return max(self.seconds) / min(self.seconds) - 1
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median


def batch(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor]:
    """Logits ~ N(0, 4) that want a gradient, and hard targets, a third of them 1."""
    generator = torch.Generator().manual_seed(20210902)
    x = 2 * torch.randn(shape, generator=generator)
    y = (torch.rand(shape, generator=generator) < 1 / 3).float()
    return x.to(device).requires_grad_(), y.to(device)


def step(loss: Loss, x: Tensor, y: Tensor) -> None:
    """Forward and backward, as in training; the gradient is dropped."""
    loss(x, y).backward()
    x.grad = None


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(
    contestants: Sequence[Contestant],
    x: Tensor,
    y: Tensor,
    rounds: int,
    report: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:
    """Every contestant once a round, so that a slow moment of the machine meets all of them."""
    device = x.device.type
    timings = {c.name: Timing() for c in contestants}
    for c in contestants:
        report(c.name)
        for _ in range(2):  # warm up, and compile
            step(c.loss, x, y)
    for _ in range(rounds):
        for c in contestants:
            report(c.name)
            _synchronize(device)
            start = time.perf_counter()
            step(c.loss, x, y)
            _synchronize(device)
            timings[c.name].seconds.append(time.perf_counter() - start)
    return timings


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still alive."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor):
                self._count(t)
        return result

    def _count(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak_memory(loss: Loss, x: Tensor, y: Tensor) -> float:
    """Peak memory of a step beyond inputs and gradient, in tensors of the size of the input."""
    size = x.numel() * x.element_size()
    if x.device.type == "cuda":
        step(loss, x, y)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(x, y).backward()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with _Alive((x, y)) as alive:
            loss(x, y).backward()
        peak = alive.peak
    x.grad = None
    return peak / size - 1
