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
    kernels: int | None = None

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
    imports: dict[str, float]

    @property
    def import_milliseconds(self) -> float:
        """What importing segact_torch adds to importing torch."""
        return (self.imports["segact_torch"] - self.imports["torch"]) * 1e3

    @property
    def shown_machine(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self.machine.items())

    @property
    def counted(self) -> bool:
        """Whether kernels are counted: on a GPU."""
        return any(row.kernels is not None for row in self.rows)

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(row.group for row in self.rows))

    @property
    def counts(self) -> list[int]:
        return list(next(iter(self.sizes.values())))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `sizes` are nanoseconds an element, `imports` seconds."""
        rows = [asdict(row) | {"met": row.met} for row in self.rows]
        return {**asdict(self), "rows": rows}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Results":
        """From what `as_dict` wrote and JSON read."""
        rows = [Row(**{key: row[key] for key in row if key != "met"}) for row in found["rows"]]
        times = {
            name: {int(count): time for count, time in by_count.items()}
            for name, by_count in found["sizes"].items()
        }
        return cls(found["machine"], tuple(found["shape"]), rows, times, found["imports"])


def _cells(row: Row, counted: bool) -> list[str]:
    """Those of `_heads`."""
    goal = "" if row.goal is None else f"{row.goal:g}"
    verdict = {None: "", True: "met", False: "missed"}[row.met]
    memory = "" if row.memory is None else f"{row.memory:.1f}"
    kernels = "" if row.kernels is None else str(row.kernels)
    time = f"{row.milliseconds:.2f}" if row.milliseconds > 1 else f"{row.milliseconds:.3f}"
    cells = [row.name, time, f"{row.spread:.0%}", f"{row.ratio:.2f}", goal, verdict, memory]
    return [*cells, *([kernels] if counted else [])]


def _heads(counted: bool) -> list[str]:
    """With the number of kernels, where it is counted."""
    heads = ["", "ms", "spread", "ratio", "goal", "", "memory"]
    return [*heads, *(["kernels"] if counted else [])]


NOTE = (
    "ms: median of a step, forward and backward; spread: between the quartiles; ratio: to the "
    "first of its kind, in the same run; memory: peak beyond inputs and gradient, in tensors of "
    "the input's size; kernels: launched in a step, on a GPU"
)


def _import_line(results: Results) -> str:
    return (
        f"import segact_torch adds {results.import_milliseconds:.0f} ms "
        f"to the {results.imports['torch'] * 1e3:.0f} ms of import torch"
    )


def print_table(out: Console, results: Results) -> None:
    """A table for every group."""
    out.print(f"{results.shown_machine}; {' x '.join(map(str, results.shape))} logits")
    for group in results.groups:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for i, head in enumerate(_heads(results.counted)):
            table.add_column(head, justify="left" if i in (0, 5) else "right", no_wrap=True)
        for row in results.rows:
            if row.group == group:
                table.add_row(
                    *_cells(row, results.counted), style="red" if row.met is False else ""
                )
        out.print(f"\n[bold]{group}[/]")
        out.print(table)
    out.print(f"\n{NOTE}")
    table = Table("", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for count in results.counts:
        table.add_column(_power(count), justify="right")
    for name, times in results.sizes.items():
        table.add_row(name, *(f"{times[count]:.2f}" for count in results.counts))
    out.print("\n[bold]nanoseconds an element, by number of elements[/]")
    out.print(table)
    if results.imports:
        out.print(f"\n{_import_line(results)}")


def _power(count: int) -> str:
    return f"{count:.0e}".replace("e+0", "e")


def markdown(results: Results) -> str:
    """The same for docs/performance.md."""
    lines = [f"{results.shown_machine}; {' x '.join(map(str, results.shape))} logits."]
    for group in results.groups:
        counted = results.counted
        lines += ["", f"| {' | '.join([group, *_heads(counted)[1:]])} |".replace("|  |", "| |")]
        lines.append("| --- | ---: | ---: | ---: | ---: | --- | ---: |" + " ---: |" * counted)
        rows = [row for row in results.rows if row.group == group]
        lines += [f"| {' | '.join(_cells(row, counted))} |" for row in rows]
    if not results.sizes:
        return "\n".join(lines)
    heads = [f"1e{len(str(count)) - 1}" for count in results.counts]
    lines += ["", f"| nanoseconds an element | {' | '.join(heads)} |"]
    lines.append("| --- |" + " ---: |" * len(heads))
    for name, times in results.sizes.items():
        cells = [f"{times[count]:.2f}" for count in results.counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    imports = ["", f"{_import_line(results)}."] if results.imports else []
    return "\n".join([*lines, *imports])
