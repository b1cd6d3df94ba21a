"""How it is measured: interleaved rounds, medians and spread; memory by what the system counts."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Loss

# Steps of a turn: those that only settle, and those that count.
SETTLING, COUNTED = 4, 3
# Larger than what malloc keeps (32 MiB), so that every tensor is asked of the system.
MEMORY_SHAPE = (16, 1, 1024, 1024)


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
    value = loss(x, y)
    if value.requires_grad:
        value.backward()
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
    """Every contestant once a round, so that a slow moment of the machine meets all of them.

    Each is timed in the state that training is in: steps of its own precede those that count, until
    malloc and the caches have settled on what it needs.
    """
    device = x.device.type
    timings = {c.name: Timing() for c in contestants}
    for c in contestants:
        report(c.name)
        step(c.loss, x, y)  # compile
    for _ in range(rounds):
        for c in contestants:
            report(c.name)
            for i in range(SETTLING + COUNTED):
                _synchronize(device)
                start = time.perf_counter()
                step(c.loss, x, y)
                _synchronize(device)
                if i >= SETTLING:
                    timings[c.name].seconds.append(time.perf_counter() - start)
    return timings


def _is_kernel(event: Any) -> bool:
    """Of a profile's events: a kernel on the device, and no copy, no filling, no remark."""
    return (
        event.device_type == torch.autograd.DeviceType.CUDA
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset", "## "))
    )


def kernels(loss: Loss, x: Tensor, y: Tensor) -> int | None:
    """How many kernels a step launches, by PyTorch's profiler; None but on a GPU."""
    if x.device.type != "cuda":
        return None
    step(loss, x, y)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step(loss, x, y)
        torch.cuda.synchronize()
    return sum(map(_is_kernel, profile.events() or ()))


def _resident(name: str) -> int:
    """Bytes in memory, "VmRSS" now or "VmHWM" at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def peak_memory(loss: Loss, device: str, shape: tuple[int, ...] = MEMORY_SHAPE) -> float | None:
    """Peak memory of a step beyond inputs and gradient, in tensors of the size of the input.

    None where the system does not tell.
    """
    x, y = batch(shape, device)
    step(loss, x, y)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, x, y)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            before = _resident("VmRSS")
            step(loss, x, y)
            peak = _resident("VmHWM") - before
        except OSError:
            return None
    return max(0.0, peak / (x.numel() * x.element_size()) - 1)


def import_seconds(rounds: int) -> dict[str, float]:
    """Median seconds of a fresh process that imports torch, and of one that goes on to us."""
    codes = {"torch": "import torch", "segact_torch": "import torch, segact_torch"}
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}
