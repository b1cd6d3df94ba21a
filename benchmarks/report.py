"""The output of the benchmarks: tables of ratios, slower losses first, and JSON."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import causes
from benchmarks.cases import FRAMEWORKS, MIDDLE, USUAL
from parity.report.markdown import markdown_table

BETWEEN_RUNS = 1.1
"""The tolerance for the drift of a ratio between runs, beyond the quartiles of both."""


@dataclass(frozen=True)
class Row:
    """Our loss and its counterpart, at one size; pairs are (ours, theirs).

    Args:
        framework: by its name on the command line.
        same: whether both compute the same number.
        served: the backends that served ours, or "formula".
        milliseconds: of a step, forward and backward.
        ratio: ours to theirs in the same round: lower quartile, median, upper quartile.
        memory: peak beyond inputs and gradient, in tensors of the input's size.
        operations, moved: on at least half of the elements, and the tensors they read and write,
            of PyTorch's own operations.
        kernels, on_device: launched on a GPU, and their milliseconds, without the host's.
        profile: where the time goes, of a slower row from 100,000 elements on.
    """

    framework: str
    loss: str
    options: str
    counterpart: str
    same: bool
    elements: int
    served: str
    milliseconds: tuple[float, float]
    ratio: tuple[float, float, float]
    memory: tuple[float, float] | None = None
    operations: tuple[int, int] | None = None
    moved: tuple[float, float] | None = None
    kernels: tuple[int, int] | None = None
    on_device: tuple[float, float] | None = None
    profile: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return f"{self.loss}, {self.options}" if self.options else self.loss

    @property
    def key(self) -> tuple[str, str, int]:
        """The key for the comparison with another run."""
        return self.framework, f"{self.name} / {self.counterpart}", self.elements

    @property
    def is_slower(self) -> bool:
        """Whether it is slower than a loss; a copy of the same bytes is not a loss."""
        return self.ratio[1] > 1 and self.framework != "bandwidth"


@dataclass(frozen=True)
class Results:
    """All results of a run; `skipped` and `failed` say which row and why, `imports` are seconds."""

    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    imports: dict[str, float] = field(default_factory=dict)

    @property
    def shown_machine(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self.machine.items())

    @property
    def slower(self) -> list[Row]:
        """The rows that are slower than their counterpart, the slowest first."""
        return sorted((r for r in self.rows if r.is_slower), key=lambda r: -r.ratio[1])

    def add(self, row: Row) -> None:
        """Add a row, or replace one that was measured again."""
        self.rows[:] = [r for r in self.rows if r.key != row.key] + [row]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Results":
        """From the dictionary of `as_dict`, after JSON."""
        return cls(**{**found, "rows": [row_of(row) for row in found["rows"]]})


def row_of(found: dict[str, Any]) -> Row:
    """A row from JSON."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Row(**fields)


def exceeding(now: Iterable[Row], recorded: Iterable[Row]) -> list[tuple[Row, Row]]:
    """The rows that are slower than recorded by more than the noise, each with the recorded row.

    That is, the lower quartile is more than a tenth above the recorded upper quartile.
    """
    known = {row.key: row for row in recorded}
    pairs = [(row, known[row.key]) for row in now if row.key in known]
    return [(row, old) for row, old in pairs if row.ratio[0] > BETWEEN_RUNS * old.ratio[2]]


def comparison(row: Row, old: Row) -> str:
    """One line: the measured and the recorded ratio."""
    framework, name, elements = row.key
    found = f"{ratio_of(row)}, recorded {ratio_of(old)}"
    return f"{framework}: {name}, {power(elements)} elements: {found}"


NOTE = (
    "A cell is the time of our step over that of the counterpart's, forward and backward: the "
    "median of the rounds, with the quartiles in brackets; a letter is a cause. ms: ours / theirs "
    "at the largest of these sizes. memory: peak beyond inputs and gradient, ours / theirs, in "
    "tensors of the input's size. operations, moved: without loops and kernels, ours / theirs, on "
    "at least half of 16,384 elements, and the tensors of that size that they read and write. "
    "kernels: launched on a GPU. on it: their ms, ours / theirs. (sigmoid): the counterpart has no "
    "other activation."
)


def power(count: int) -> str:
    """The number of elements, in few characters."""
    return f"{count:.0e}".replace("e+0", "e") if count >= 1000 else str(count)


def _number(found: float) -> str:
    """A number with its significant digits."""
    return f"{found:.2f}" if found < 10 else f"{found:.1f}" if found < 100 else f"{found:.0f}"


def ratio_of(row: Row) -> str:
    """The median and the quartiles, with the letter of its cause."""
    low, middle, high = map(_number, row.ratio)
    letter = causes.letter(row) if row.is_slower else ""
    return f"{middle} ({low}-{high}) {letter}".rstrip()


def _pair(found: tuple[float, float] | None, form: str) -> str:
    return "" if found is None else " / ".join(format(number, form) for number in found)


def _milliseconds(row: Row) -> str:
    return " / ".join(f"{m:.3g}" if m < 100 else f"{m:.0f}" for m in row.milliseconds)


def _counterpart(row: Row) -> str:
    plain = row.same or row.framework == "bandwidth"
    return row.counterpart if plain else f"{row.counterpart} (sigmoid)"


@dataclass(frozen=True)
class Sheet:
    """A table: its title, its heads and its lines."""

    title: str
    heads: list[str]
    lines: list[list[str]]


def summary(results: Results) -> Sheet:
    """Of each framework the number of rows from 100,000 elements on, and their ratios."""
    lines = []
    for name, title in FRAMEWORKS.items():
        of_it = (row for row in results.rows if row.framework == name != "bandwidth")
        rows = sorted((row for row in of_it if row.elements >= MIDDLE), key=lambda r: r.ratio[1])
        if len(rows) < 2:
            continue
        quartiles = statistics.quantiles((r.ratio[1] for r in rows), n=4, method="inclusive")
        low, middle, high = map(_number, quartiles)
        slower = sum(row.is_slower for row in rows)
        largest = f"{_number(rows[-1].ratio[1])}, {rows[-1].name}"
        lines.append([title, str(len(rows)), str(slower), f"{middle} ({low}-{high})", largest])
    heads = ["", "rows", "slower", "ratio", "largest"]
    return Sheet("All rows from 1e5 elements on", heads, lines)


def _slower(results: Results) -> Sheet:
    """From 100,000 elements on, the slowest first, each with its cause."""
    heads = ["", "counterpart", "elements", "ratio", "ms", "by"]
    lines = [
        [f"{FRAMEWORKS[row.framework]}: {row.name}", _counterpart(row), power(row.elements),
         ratio_of(row), _milliseconds(row), row.served]
        for row in results.slower if row.elements >= MIDDLE
    ]  # fmt: skip
    return Sheet("Slower than its counterpart, from 1e5 elements on", heads, lines)


def _profiles(results: Results) -> Sheet:
    """Where the time of these rows goes, ours and theirs."""
    lines = [
        [f"{FRAMEWORKS[row.framework]}: {row.name}", power(row.elements), *row.profile]
        for row in results.slower
        if row.profile
    ]
    return Sheet("Where the time of these goes", ["", "elements", "ours", "theirs"], lines)


def _worst(rows: list[Row]) -> float:
    """The largest ratio from 100,000 elements on, or of all."""
    large = [row.ratio[1] for row in rows if row.elements >= MIDDLE]
    return max(large or [row.ratio[1] for row in rows])


def _framework(results: Results, framework: str) -> Sheet:
    """A line for every case, sorted by its largest ratio, without sizes that few cases have."""
    rows = [row for row in results.rows if row.framework == framework]
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row.key[1], []).append(row)
    few = [case for case in cases.values() if len(case) <= len(USUAL)] or cases.values()
    sizes = sorted({row.elements for case in few for row in case})
    more = {
        "memory": lambda row: _pair(row.memory, ".1f"),
        "operations": lambda row: _pair(row.operations, "d"),
        "moved": lambda row: _pair(row.moved, ".0f"),
        "kernels": lambda row: _pair(row.kernels, "d"),
        "on it": lambda row: _pair(row.on_device, ".3g"),
    }
    more = {name: cell for name, cell in more.items() if any(cell(row) for row in rows)}
    lines = []
    for case in sorted(cases.values(), key=_worst, reverse=True):
        by_size = {row.elements: row for row in case if row.elements in sizes}
        cells = [ratio_of(by_size[size]) if size in by_size else "" for size in sizes]
        last = by_size[max(by_size)]
        lines.append([last.name, _counterpart(last), *cells, _milliseconds(last), last.served,
                      *(cell(last) for cell in more.values())])  # fmt: skip
    heads = ["", "counterpart", *map(power, sizes), "ms", "by", *more]
    return Sheet(FRAMEWORKS[framework], heads, lines)


def by_size(results: Results) -> dict[str, dict[int, Row]]:
    """The rows of PyTorch that have more sizes than usual, by case and number of elements."""
    found: dict[str, dict[int, Row]] = {}
    for row in results.rows:
        if row.framework == "torch":
            found.setdefault(row.key[1], {})[row.elements] = row
    return {name: rows for name, rows in found.items() if len(rows) > len(USUAL)}


def _sweep(results: Results) -> Sheet:
    """Nanoseconds an element, ours / theirs, by number of elements."""
    swept = by_size(results)
    sizes = sorted({size for rows in swept.values() for size in rows})
    lines = []
    for name, rows in swept.items():
        cells = [
            " / ".join(_number(m / size * 1e6) for m in rows[size].milliseconds)
            if size in rows else ""
            for size in sizes
        ]  # fmt: skip
        lines.append([name, *cells])
    return Sheet("Nanoseconds an element", ["", *map(power, sizes)], lines)


def sheets(results: Results) -> list[Sheet]:
    """All tables."""
    found = [summary(results), _slower(results), _profiles(results)]
    measured = {row.framework for row in results.rows}
    found += [_framework(results, name) for name in FRAMEWORKS if name in measured]
    return [sheet for sheet in (*found, _sweep(results)) if sheet.lines]


def _sentences(results: Results) -> list[str]:
    """The sentences above the tables."""
    slower, all_rows = results.slower, results.rows
    small = [row for row in slower if row.elements < MIDDLE]
    found = [
        f"{len(all_rows)} rows; {len(slower)} are slower than their counterpart, "
        f"{len(small)} of them below 1e5 elements."
    ]
    used = dict.fromkeys(map(causes.letter, slower))
    named = [f"- {c}: {causes.WORDS[c]}" for c in sorted(used) if c in causes.WORDS]
    found += ["\n".join(named)] if named else []
    why: dict[str, list[str]] = {}
    for name, reason in results.skipped.items():
        why.setdefault(reason, []).append(name)
    found += [f"Not measured, as {reason}: {'; '.join(n)}." for reason, n in why.items()]
    found += [f"Failed: {line}" for line in results.failed]
    if results.imports:
        torch, both = (results.imports[n] * 1e3 for n in ("torch", "segact_torch"))
        found.append(
            f"import segact_torch adds {both - torch:.0f} ms to the {torch:.0f} ms of import torch."
        )
    return found


def print_tables(out: Console, results: Results) -> None:
    """Print the tables on a terminal."""
    out.print(results.shown_machine, highlight=False)
    for sheet in sheets(results):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for head in sheet.heads:
            table.add_column(head, overflow="fold")
        for line in sheet.lines:
            table.add_row(*line)
        out.print(f"\n[bold]{sheet.title}[/]")
        out.print(table, highlight=False)
    for text in (NOTE, *_sentences(results)):
        out.print(f"\n{text}", highlight=False, markup=False)


def markdown(results: Results) -> str:
    """The tables as Markdown, for docs/results/performance.md."""
    lines = [f"{results.shown_machine}."]
    first, *more = _sentences(results)
    for paragraph in (first, NOTE, *more):
        lines += ["", paragraph]
    for sheet in sheets(results):
        lines += ["", f"### {sheet.title}", "", *table(sheet)]
    return "\n".join(lines)


def table(sheet: Sheet) -> list[str]:
    """The lines of a table in Markdown."""
    return markdown_table(sheet.heads, sheet.lines)


START, END = "<!-- python -m benchmarks -->", "<!-- end -->"


def into_page(page: str, results: Results) -> str:
    """A page with the tables between its markers; ValueError if it has none."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"no lines {START} and {END}")
    return f"{before}{start}\n\n{markdown(results)}\n\n{end}{after}"
