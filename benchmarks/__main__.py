"""`python -m benchmarks`: our losses and their peers, interleaved in one run; ratios count."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from parity.extras import needs

with needs("benchmarks", "benchmarks"):
    import torch
    import typer
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    import segact_torch
    from benchmarks import contestants, figure, keras_xla, measure, report
    from parity.implementations import environment, missing
    from parity.records import write_atomically

SHAPE = (8, 1, 512, 512)
QUICK_SHAPE = (2, 1, 64, 64)
LARGE_SHAPE = (64, 1, 1024, 1024)  # what a GPU's bandwidth is measured on
SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
QUICK_SIZES = (1_000, 10_000)
Say = Callable[[str], None]
SWEPT = ("segact, sigmoid", "segact, normal_cdf", "segact, arctan", contestants.STOCK)


class Device(StrEnum):
    """Where to measure."""

    cpu = "cpu"
    cuda = "cuda"


def _processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def machine(device: str, threads: int) -> dict[str, str]:
    """What the figures were measured on."""
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": str(threads),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device == "cpu":
        found["vectors"] = torch.backends.cpu.get_cpu_capability()
        found["compiled loops"] = segact_torch.backends()["cpu"]
    return found


def _rows(
    group: list[contestants.Contestant],
    device: str,
    shape: tuple[int, ...],
    rounds: int,
    say: Say,
    memory: Callable[[contestants.Loss], float | None] | None = None,
) -> list[report.Row]:
    x, y = measure.batch(shape, device)
    timings = measure.interleaved(group, x, y, rounds, say)
    return [
        report.Row(
            group=c.group,
            name=c.name,
            milliseconds=timings[c.name].median * 1e3,
            spread=timings[c.name].spread,
            baseline=c.baseline,
            ratio=timings[c.name].median / timings[c.baseline].median,
            goal=c.goal,
            memory=memory(c.loss) if memory else None,
            kernels=measure.kernels(c.loss, x, y),
        )
        for c in group
    ]


def _keras_rows(shape: tuple[int, ...], rounds: int, threads: int) -> list[report.Row]:
    """Keras on TensorFlow under XLA, against its stock loss from logits; empty if not installed."""
    if missing("keras-tensorflow"):
        return []
    command = [sys.executable, "-m", "benchmarks.keras_xla", "--shape", json.dumps(shape)]
    command += ["--rounds", str(rounds)]
    env = {**os.environ, **environment("keras-tensorflow", "cpu", threads)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"benchmarks.keras_xla failed:\n{done.stderr[-2000:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
    timings = {name: measure.Timing(found) for name, found in seconds.items()}
    stock = timings[keras_xla.STOCK].median
    return [
        report.Row(
            group="Keras on TensorFlow, XLA",
            name=name,
            milliseconds=timing.median * 1e3,
            spread=timing.spread,
            baseline=keras_xla.STOCK,
            ratio=timing.median / stock,
            goal=keras_xla.goal(name),
            memory=None,
        )
        for name, timing in timings.items()
    ]


def _sizes(
    found: list[contestants.Contestant], device: str, sizes: tuple[int, ...], say: Say
) -> dict[str, dict[int, float]]:
    """Nanoseconds an element, by number of elements."""
    chosen = [c for c in found if c.name in SWEPT]
    times: dict[str, dict[int, float]] = {c.name: {} for c in chosen}
    for size in sizes:
        x, y = measure.batch((size,), device)
        rounds = max(3, min(20, 20_000_000 // size))
        for name, timing in measure.interleaved(chosen, x, y, rounds, say).items():
            times[name][size] = timing.median / size * 1e9
    return times


def _bandwidth(rows: list[report.Row]) -> str:
    """By the copy that was measured beside our losses."""
    (seconds,) = (r.milliseconds / 1e3 for r in rows if r.name == contestants.COPY_3)
    return f"{3 * 4 * math.prod(LARGE_SHAPE) / seconds / 1e9:.0f} GB/s"


def _write(results: report.Results, path: Path | None) -> None:
    if path:
        write_atomically(path, (json.dumps(results.as_dict(), indent=1) + "\n").encode())


def main(
    device: Annotated[Device, typer.Option(help="Where to measure.")] = Device.cpu,
    threads: Annotated[int, typer.Option(min=1, help="How many threads PyTorch has.")] = 2,
    rounds: Annotated[int, typer.Option(min=3, help="How often each loss is measured.")] = 15,
    quick: Annotated[bool, typer.Option(help="Small and few: that it runs, not how fast.")] = False,
    compiled: Annotated[bool, typer.Option(help="Measure torch.compile as well.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there.")
    ] = None,
    figure_file: Annotated[
        Path | None, typer.Option("--figure", help="Draw the figure there, as .png or .svg.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Print the tables as Markdown.")] = False,
) -> None:
    """Our losses beside their peers: time, ratio, memory, and time per element over sizes."""
    if device is Device.cuda and not torch.cuda.is_available():
        print("benchmarks: torch sees no CUDA device", file=sys.stderr)
        raise typer.Exit(2)
    if figure_file and figure_file.suffix not in (".png", ".svg"):
        print(f"benchmarks: --figure wants a .png or .svg, got {figure_file}", file=sys.stderr)
        raise typer.Exit(2)
    torch.set_num_threads(threads)
    shape, sizes = (QUICK_SHAPE, QUICK_SIZES) if quick else (SHAPE, SIZES)
    rounds = 3 if quick else rounds
    eager = [contestants.cross_entropy(), contestants.dice()]
    memory = partial(measure.peak_memory, device=device.value)
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("")

        def say(name: str) -> None:
            bar.update(task, description=name)

        results = report.Results(machine(device, threads), shape, [], {}, {})

        def add(rows: list[report.Row]) -> None:
            # goals are for the full size
            results.rows.extend(replace(row, goal=None) if quick else row for row in rows)
            _write(results, json_file)  # what there is, should it end before its time

        for group in eager:
            add(_rows(group, device, shape, rounds, say, memory))
        if device is Device.cuda and not quick:
            add(_rows(contestants.bandwidth(), device, LARGE_SHAPE, rounds, say))
            results.machine["copy bandwidth"] = _bandwidth(results.rows)
        if compiled and not quick:
            add(_rows(contestants.compiled(), device, shape, rounds, say))
        if device is Device.cpu:
            say("Keras on TensorFlow, XLA")
            add(_keras_rows(shape, rounds, threads))
        results.sizes.update(_sizes(eager[0], device, sizes, say))
        if device is Device.cpu:  # importing takes what it takes, with a GPU and without
            say("importing")
            results.imports.update(measure.import_seconds(3 if quick else 9))
        if compiled and device is Device.cuda and not quick:
            add(_rows(contestants.compiled_bandwidth(), device, LARGE_SHAPE, rounds, say))
    _write(results, json_file)
    if figure_file:
        figure.draw(results, figure_file)
    if markdown:
        print(report.markdown(results))
    else:
        report.print_table(Console(width=100), results)


if __name__ == "__main__":
    with needs("benchmarks", "benchmarks"):
        typer.run(main)
