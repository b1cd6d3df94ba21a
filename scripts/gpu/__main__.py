"""`python -m scripts.gpu` (`make gpu`): everything that needs a GPU, in under eight minutes."""

import os
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from parity.common.extras import needs

with needs("gpu", "dev"):
    import typer
    from rich.console import Console

    from parity.common.files import json_text, write_atomically
    from parity.common.naming import unknown
    from scripts.gpu import curves, page
    from scripts.gpu.plan import ON_CPU, Plan
    from scripts.gpu.steps import FAILED, ROOT, WAITING, Result, Runner, Step

BUDGET = 470
"""The budget in seconds, of the eight minutes."""
BUDGET_SHORT = 1200
"""The budget on a busy machine with two cores."""


class Device(StrEnum):
    """Where to compute."""

    cpu = "cpu"
    cuda = "cuda"


def _environment(short: bool, jobs: int) -> dict[str, str]:
    """The environment of every step: frameworks share the GPU, and processes share the cores."""
    threads = 1 if short else max(1, (os.cpu_count() or 1) // jobs)
    found = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return found | (ON_CPU if short else {})


class Book:
    """The results so far, written after every step: gpu.json, gpu.md, gpu.log."""

    def __init__(self, output: Path, plan: Plan, runner: Runner, steps: list[Step]) -> None:
        self.output, self.plan, self.runner = output, plan, runner
        self.results = {step.name: Result(step) for step in steps}
        self.started, self.clock = datetime.now(UTC), time.monotonic()
        (output / "gpu.log").write_bytes(b"")

    def add(self, result: Result) -> None:
        """Add the result of a step."""
        self.results[result.step.name] = result
        with (self.output / "gpu.log").open("ab") as log:
            for command in result.step.commands:
                path = self.runner.folder(result.step) / command.log
                content = path.read_bytes() if path.is_file() else b""
                log.write(f"== {command.shown()}\n".encode() + content + b"\n")
        self.write()

    def write(self) -> None:
        """The JSON and the page."""
        results = list(self.results.values())
        seconds = time.monotonic() - self.clock
        found = {
            "format": 1,
            "device": self.plan.device,
            "short": self.plan.short,
            "command": shlex.join([Path(sys.executable).name, "-m", "scripts.gpu", *sys.argv[1:]]),
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "steps": [result.as_dict() for result in results],
        }
        write_atomically(self.output / "gpu.json", json_text(found).encode())
        work = self.runner.work
        text = page.markdown(results, self.plan, work, seconds)
        write_atomically(self.output / "gpu.md", text.encode())


def _chosen(steps: list[Step], only: list[str]) -> list[Step]:
    names = [step.name for step in steps]
    for name in only:
        if name not in names:
            print(f"gpu: {unknown('step', name, tuple(names))}", file=sys.stderr)
            raise typer.Exit(2)
    return [step for step in steps if not only or step.name in only]


def main(
    output: Annotated[Path, typer.Option(help="A folder for the results.")] = Path("build/gpu"),
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cuda,
    interpret: Annotated[
        bool,
        typer.Option(
            "--interpret", help="A short run without a GPU; Triton's kernels are simulated."
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder of cats_and_dogs_filtered and dsb2018_96; else synthetic images.",
            envvar="SEGACT_DATA",
        ),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this step; may be repeated.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="The number of steps at a time, except for the timed ones."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help=f"Seconds for everything; {BUDGET} on a GPU.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the trainings and records in this folder.")
    ] = None,
) -> None:
    """Judge, measure and train on a GPU; exit code 1 if a step failed."""
    plan = Plan("cpu" if interpret else device.value, interpret, data and data.resolve())
    jobs = jobs or max(1, min(5, (os.cpu_count() or 1) // 3))
    budget = budget or (BUDGET_SHORT if interpret else BUDGET)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="segact-gpu-") as temporary:
        work = (keep or Path(temporary)).resolve()
        steps = _chosen(plan.steps(work), only or [])
        runner = Runner(work, _environment(interpret, jobs), budget)
        book = Book(output, plan, runner, steps)

        def tell(result: Result) -> None:
            line = f"{result.step.title}: {result.status}, {result.seconds:.0f} s"
            console.print(f"{line}  {result.reason}", markup=False, soft_wrap=True)
            book.add(result)

        book.write()
        results = runner.run_all(steps, jobs, tell)
        curves.draw(results, plan.device, output / page.FIGURE)
        book.write()
    print(output / "gpu.md")
    raise typer.Exit(1 if any(r.status in (FAILED, WAITING) for r in results) else 0)


if __name__ == "__main__":
    with needs("gpu", "dev"):
        typer.run(main)
