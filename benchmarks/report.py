"""What a run of the benchmarks prints and writes: tables of ratios, and JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One contestant: time of a step, its ratio to the baseline in the same run, and memory."""

    group: str
    name: str
    milliseconds: float
    spread: float
    baseline: str
    ratio: float
    goal: float | None
    memory: float | None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.goal is None else self.ratio <= self.goal


@dataclass(frozen=True)
class Results:
    """Everything of a run."""

    machine: dict[str, str]
    shape: tuple[int, ...]
    rows: list[Row]
    sizes: dict[str, dict[int, float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `sizes` are nanoseconds an element."""
        rows = [asdict(row) | {"met": row.met} for row in self.rows]
        return {**asdict(self), "rows": rows}


def _cells(row: Row) -> list[str]:
    goal = "" if row.goal is None else f"{row.goal:g}"
    verdict = {None: "", True: "met", False: "missed"}[row.met]
    memory = "" if row.memory is None else f"{row.memory:.1f}"
    time = f"{row.milliseconds:.2f}"
    return [row.name, time, f"{row.spread:.0%}", f"{row.ratio:.2f}", goal, verdict, memory]


HEADS = ("", "ms", "spread", "ratio", "goal", "", "memory")
NOTE = (
    "ms: median of a step, forward and backward; ratio: to the first of its kind, in the same run; "
    "memory: peak beyond inputs and gradient, in tensors of the input's size"
)


def print_table(out: Console, results: Results) -> None:
    """A table for every group."""
    for group in dict.fromkeys(row.group for row in results.rows):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for i, head in enumerate(HEADS):
            table.add_column(head, justify="right" if 0 < i < 5 or i == 6 else "left", no_wrap=True)
        for row in results.rows:
            if row.group == group:
                table.add_row(*_cells(row), style="red" if row.met is False else "")
        out.print(f"\n[bold]{group}[/]")
        out.print(table)
    out.print(f"\n{NOTE}")
    if results.sizes:
        print_sizes(out, results)


def print_sizes(out: Console, results: Results) -> None:
    """Nanoseconds an element over sizes."""
    counts = list(next(iter(results.sizes.values())))
    table = Table("", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for count in counts:
        table.add_column(f"{count:.0e}".replace("e+0", "e"), justify="right")
    for name, times in results.sizes.items():
        table.add_row(name, *(f"{times[count]:.2f}" for count in counts))
    out.print("\n[bold]nanoseconds an element, by number of elements[/]")
    out.print(table)


def markdown(results: Results) -> str:
    """The tables for docs/performance.md."""
    lines: list[str] = []
    for group in dict.fromkeys(row.group for row in results.rows):
        lines += ["", f"| {group} | ms | spread | ratio | goal | | memory |"]
        lines.append("| --- | ---: | ---: | ---: | ---: | --- | ---: |")
        lines += [f"| {' | '.join(_cells(row))} |" for row in results.rows if row.group == group]
    return "\n".join(lines[1:])
