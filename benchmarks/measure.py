"""How it is measured: rounds that alternate between ours and theirs, and their ratios."""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TURN = 2e-3
"""The least number of measured seconds in a turn: short steps are repeated."""
LONG = 20e-3
"""From this step time on, a turn is one step to settle and one that counts."""
FEWEST = 5
"""The least number of rounds; three for long steps."""

Step = Callable[[], None]


@dataclass(frozen=True)
class Times:
    """Seconds of a step, the median of each round: ours and theirs."""

    ours: list[float]
    theirs: list[float]

    @property
    def milliseconds(self) -> tuple[float, float]:
        """Medians, ours and theirs."""
        return statistics.median(self.ours) * 1e3, statistics.median(self.theirs) * 1e3

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Ours to theirs, round by round: lower quartile, median, upper quartile."""
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, middle, high


def _turn(step: Step, settling: int, counted: int) -> float:
    """The median seconds of a step, in the steady state of training.

    The first steps are not counted, as memory allocation and caches settle.
    """
    for _ in range(settling):
        step()
    seconds = []
    for _ in range(counted):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def beside(ours: Step, theirs: Step, rounds: int, budget: float, queued: int = 1) -> Times:
    """Both in turns, so that a slow moment of the machine affects both.

    Each step ends when its gradient is computed; `queued` says how many it consists of. At most
    `rounds` rounds, and none beyond `budget` seconds but the first few.
    """
    ours()  # compiles
    theirs()
    longest = max(_turn(ours, 1, 1), _turn(theirs, 1, 1))
    long = longest > LONG
    steps = (1, 1) if long else (4, max(3, min(500, int(TURN / longest))))
    fewest = min(3 if long else FEWEST, rounds)
    found, ends = Times([], []), time.perf_counter() + budget
    for i in range(rounds):
        if i >= fewest and time.perf_counter() > ends:
            break
        found.ours.append(_turn(ours, *steps) / queued)
        found.theirs.append(_turn(theirs, *steps) / queued)
    return found


def is_kernel(event: Any) -> bool:
    """Whether a profile's event is a kernel on the device, not a copy, a fill or an annotation."""
    import torch

    return (
        event.device_type == torch.autograd.DeviceType.CUDA
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset", "## "))
    )


def kernels(step: Step, queued: int = 1) -> tuple[int, float]:
    """The kernels that a step launches on a GPU, and their milliseconds, by PyTorch's profiler.

    `queued` says of how many steps it consists.
    """
    import torch

    step()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
    found = list(filter(is_kernel, profile.events() or ()))
    milliseconds = sum(event.time_range.elapsed_us() for event in found) / 1e3
    return len(found) // queued, milliseconds / queued


def processor() -> str:
    """The name of the processor, from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _resident(name: str) -> int:
    """Bytes in memory, "VmRSS" now or "VmHWM" at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


MEMORY_BYTES = 40 * 2**20
"""The input size for measuring memory: more than malloc keeps (32 MiB), so that every tensor is
requested from the system."""


def peak_memory(step: Step, device: str) -> int | None:
    """The peak memory of a step in bytes; None if the system does not report it."""
    step()
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        before = _resident("VmRSS")
        step()
        return _resident("VmHWM") - before
    except OSError:
        return None


class _Watched:
    """A backend that records its name when one of its functions serves."""

    def __init__(self, backend: Any, names: set[str]) -> None:
        self._backend, self._names = backend, names

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._backend, name)  # or AttributeError, as the backend has it

        def watched(*arguments: Any) -> Any:
            found = function(*arguments)
            if found is not None:
                self._names.add(self._backend.__name__.rpartition(".")[2])
            return found

        return watched


def backends(step: Step) -> str:
    """The backends of segact_torch that serve a step; "formula" if none does."""
    from unittest.mock import patch

    from segact_torch import _backends

    names: set[str] = set()
    chosen = _backends.chosen

    def watched(batch: Any) -> Iterator[Any]:
        return (_Watched(backend, names) for backend in chosen(batch))

    with patch.object(_backends, "chosen", watched):
        step()
    return " + ".join(sorted(names)) or "formula"


def import_seconds(rounds: int) -> dict[str, float]:
    """Median seconds that new processes take to import torch, and then to have imported both."""
    code = (
        "from time import perf_counter as now; start = now(); import torch; print(now() - start); "
        "import segact_torch; print(now() - start)"
    )
    seconds = []
    for _ in range(rounds):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds.append([float(line) for line in done.stdout.split()])
    names = ("torch", "segact_torch")
    return dict(zip(names, map(statistics.median, zip(*seconds, strict=True)), strict=True))
