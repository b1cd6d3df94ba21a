"""The tables of a sweep: means and deviations, differences from sigmoid and between frameworks.

In the sweep's `tables`, each as Markdown, CSV and LaTeX (booktabs):

    results         activation x loss: mean and standard deviation over folds and seeds
    differences     from sigmoid, paired by fold and seed, with intervals
    frameworks      torch minus each backend of Keras, paired, with intervals, against a margin
    runs.csv        one row a run

The sweep may be unfinished: the tables say what is missing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.common.runs import RunError, csv_bytes, duration
from examples.common.statistics import LEVEL
from examples.segmentation.results import (
    BASE,
    MARGIN,
    OVERLAP,
    QUANTITIES,
    Difference,
    Spread,
    Sweep,
    between_frameworks,
    differences,
    read,
    within_margin,
)
from parity.common.files import write_atomically
from parity.report.console import console, print_line, print_table


class Cell(NamedTuple):
    """A cell of a table: its text, and whether it is bold."""

    text: str
    bold: bool = False


Line = list[Cell]


@dataclass(frozen=True)
class Block:
    """A table to read; the columns `heads[:names]` are names, the others numbers."""

    title: str
    names: int
    heads: tuple[str, ...]
    lines: list[Line]


@dataclass(frozen=True)
class Report:
    """Tables that belong together, a note, and the numbers as rows."""

    name: str
    note: str
    blocks: list[Block]
    rows: list[dict[str, Any]]


def _runs(count: int, wanted: int) -> str:
    return str(count) if count == wanted else f"{count} of {wanted}"


def _title(group: dict[str, str]) -> str:
    return ", ".join(group.values())


def results(sweep: Sweep) -> Report:
    """Mean and deviation of every metric; bold: the best for each loss, of those with most runs."""
    rows: list[dict[str, Any]] = []
    blocks = []
    shown = {"best_threshold": "threshold", **QUANTITIES}
    for group in sweep.groups():
        lines = []
        for loss in sweep.axis("loss", **group):
            mine: list[tuple[Line, dict[str, Spread]]] = []
            for activation in sweep.axis("activation", **group, loss=loss):
                found, wanted = sweep.cell(**group, loss=loss, activation=activation)
                spreads = {n: Spread.of([r.value(n) for r in found.values()]) for n in shown}
                names = [Cell(loss), Cell(activation), Cell(_runs(len(found), wanted))]
                mine.append((names, spreads))
                rows.append(_result_row(group, loss, activation, wanted, spreads))
            best = {name: _best(name, [spreads[name] for _, spreads in mine]) for name in shown}
            for names, spreads in mine:
                most = max(s.count for _, found in mine for s in found.values())
                cells = [
                    Cell(str(s), s.count == most and _mean(s) == best[name])
                    for name, s in spreads.items()
                ]
                lines.append(names + cells)
        heads = ("loss", "activation", "runs", *shown.values())
        blocks.append(Block(_title(group), 2, heads, lines))
    note = (
        "Mean ± standard deviation over folds and seeds, each run at the epoch of its best mean "
        "Dice, chosen on the images it is measured on. (The published tables take the best Dice "
        "and the least NLL, each at its own best epoch.) Bold: the best for each loss (highest "
        "Dice, lowest of the other metrics)."
    )
    return Report("results", f"{_progress(sweep)} {note}", blocks, rows)


def _result_row(
    group: dict[str, str], loss: str, activation: str, wanted: int, spreads: dict[str, Spread]
) -> dict[str, Any]:
    row: dict[str, Any] = {**group, "loss": loss, "activation": activation}
    row |= {"runs": next(iter(spreads.values())).count, "wanted": wanted}
    for name, spread in spreads.items():
        row |= {name: spread.mean, f"{name}_deviation": spread.deviation}
    return row


def _mean(spread: Spread) -> str:
    """The mean as printed, so that means that look equal are equal."""
    return f"{spread.mean:.4f}"


def _best(name: str, spreads: Sequence[Spread]) -> str:
    """The best mean of those with the most runs, as printed; empty if there is only one."""
    most = max(spread.count for spread in spreads)
    means = [spread.mean for spread in spreads if spread.count == most]
    if not most or len(means) == 1 or name not in QUANTITIES:
        return ""
    return f"{max(means) if name in OVERLAP else min(means):.4f}"


def _progress(sweep: Sweep) -> str:
    """The number of runs, their time, and why they ended."""
    done = [one.found for one in sweep.results.values()]
    seconds = sum(float(one.get("seconds", 0)) for one in done)
    ends = [str(one.get("stopped", "")) for one in done]
    told = ", ".join(f"{ends.count(end)} for {end}" for end in sorted(set(ends)) if end)
    said = f"{len(done)} of {len(sweep.wanted)} runs, {duration(seconds)} of training"
    return f"{said} (ended: {told})." if told else f"{said}."


_INTERVALS = (
    f"means with {LEVEL:.0%} intervals of Student's t, paired by fold and seed. Folds share "
    "training images, so that the intervals are approximate, rather too narrow; and of many "
    "intervals some exclude 0 by chance."
)


def difference_report(found: Sequence[Difference]) -> Report:
    """The differences from sigmoid: a table for Dice, and one for the metrics of probabilities."""
    blocks = []
    for group in _distinct(one.group for one in found):
        for names in (OVERLAP, tuple(name for name in QUANTITIES if name not in OVERLAP)):
            mine = [one for one in found if one.group == group and one.quantity in names]
            lines = [
                _difference_line(mine[i : i + len(names)]) for i in range(0, len(mine), len(names))
            ]
            heads = ("loss", "activation", "pairs", *(QUANTITIES[name] for name in names))
            blocks.append(Block(f"{_title(group)}, minus {BASE}", 2, heads, lines))
    note = f"Activation minus {BASE}: {_INTERVALS} Bold: the interval excludes 0."
    rows = [one.row(one.interval.verdict) for one in found]
    return Report("differences", note, blocks, rows)


def _distinct(groups: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for group in groups:
        if group not in found:
            found.append(group)
    return found


def _difference_line(mine: Sequence[Difference]) -> Line:
    first = mine[0]
    names = [first.loss, first.activation, _runs(first.interval.count, first.wanted)]
    cells = []
    for one in mine:
        verdict = one.interval.verdict
        text = f"{one}, {verdict}" if verdict != "-" else str(one)
        cells.append(Cell(text, verdict in ("higher", "lower")))
    return [*map(Cell, names), *cells]


def framework_report(found: Sequence[Difference], margin: float = MARGIN) -> Report:
    """The differences between frameworks, compared with the margin."""
    blocks = []
    for group in _distinct(one.group for one in found):
        mine = [one for one in found if one.group == group]
        lines = []
        for i in range(0, len(mine), len(OVERLAP)):
            first = mine[i]
            names = [first.loss, first.activation, _runs(first.interval.count, first.wanted)]
            verdicts = [within_margin(one.interval, margin) for one in mine[i : i + len(OVERLAP)]]
            cells = [
                Cell(f"{one}, {verdict}", verdict == "apart")
                for one, verdict in zip(mine[i:], verdicts, strict=False)
            ]
            lines.append([*map(Cell, names), *cells])
        heads = ("loss", "activation", "pairs", *(QUANTITIES[name] for name in OVERLAP))
        blocks.append(Block(_title(group), 2, heads, lines))
    note = (
        f"One framework minus the other: {_INTERVALS} Within the margin: the whole interval lies "
        f"between -{margin:g} and {margin:g}; apart: all of it lies outside."
    )
    rows = [one.row(within_margin(one.interval, margin)) for one in found]
    return Report("frameworks", note, blocks, rows)


def markdown(report: Report) -> str:
    """The note, then every table under its title."""
    parts = [report.note]
    for block in report.blocks:
        lines = [block.heads, ["---"] * block.names + ["---:"] * (len(block.heads) - block.names)]
        lines += [[f"**{c.text}**" if c.bold else c.text for c in line] for line in block.lines]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        parts.append(f"### {block.title}\n\n{table.rstrip()}")
    return "\n\n".join(parts) + "\n"


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$"} | {c: f"\\{c}" for c in "_%&#${}"}
_LATEX |= {"^": r"\^{}", "~": r"\~{}"}


def _tex(text: str) -> str:
    if text[:1] == "-" and text[1:2].isdigit():
        return "$-$" + _tex(text[1:])
    return "".join(_LATEX.get(character, character) for character in text)


def latex(report: Report) -> str:
    """Every table as a tabular of booktabs; note and titles are comments."""
    parts = [f"% needs the package booktabs\n% {report.note}"]
    for block in report.blocks:
        columns = "l" * block.names + "r" * (len(block.heads) - block.names)
        lines = [rf"% {block.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, block.heads)) + r" \\", r"\midrule"]
        for before, line in zip([None, *block.lines], block.lines, strict=False):
            if before is not None and before[0] != line[0]:
                lines.append(r"\midrule")
            cells = [rf"\textbf{{{_tex(c.text)}}}" if c.bold else _tex(c.text) for c in line]
            lines.append(" & ".join(cells) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def show(out: Console, report: Report) -> None:
    """Print the tables on a terminal."""
    for block in report.blocks:
        table = Table(title=block.title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for i, head in enumerate(block.heads):
            table.add_column(head, justify="left" if i < block.names else "right", no_wrap=True)
        for line in block.lines:
            cells = (f"[bold]{escape(c.text)}[/]" if c.bold else escape(c.text) for c in line)
            table.add_row(*cells)
        print_table(out, table)
    out.print(f"\n{report.note}", markup=False)


def run_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row a run."""
    kept = ("epoch", "epochs", "seconds", "stopped")
    return [
        {
            **key._asdict(),
            **{name: one.found.get(name, "") for name in kept},
            **{name: one.value(name) for name in ("best_threshold", *QUANTITIES)},
        }
        for key in sweep.wanted
        if (one := sweep.results.get(key))
    ]


def write(sweep: Sweep, margin: float = MARGIN) -> tuple[list[Report], list[Path]]:
    """Write all tables; returns them and the paths. Raises `RunError` if no run is finished."""
    if not sweep.results:
        raise RunError(f"{sweep.folder}: none of its runs is done")
    reports = [results(sweep), difference_report(differences(sweep))]
    reports.append(framework_report(between_frameworks(sweep), margin))
    reports = [report for report in reports if report.rows]
    folder = sweep.folder / "tables"
    folder.mkdir(exist_ok=True)
    contents = {"runs.csv": csv_bytes(run_rows(sweep))}
    for report in reports:
        contents[f"{report.name}.md"] = markdown(report).encode()
        contents[f"{report.name}.tex"] = latex(report).encode()
        contents[f"{report.name}.csv"] = csv_bytes(report.rows)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return reports, [folder / name for name in contents]


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of a sweep; results of more folders are added to the first."
        ),
    ],
    margin: Annotated[
        float,
        typer.Option(help="Frameworks whose Dice differs by less than this count as equal.", min=0),
    ] = MARGIN,
) -> None:
    """Print the tables of a sweep and write them as Markdown, CSV and LaTeX."""
    reports, paths = write(read(*folders), margin)
    for report in reports:
        show(console(), report)
    console().print()
    for path in paths:
        print_line(console(), str(path))
