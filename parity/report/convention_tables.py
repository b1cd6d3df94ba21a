"""The printed results of `segact-parity conventions`: the tables, their notes, the Markdown."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from parity.conventions.results import RAW, TOLERANCE, Results, Row, all_versions, exact
from parity.conventions.worker import LABELS
from parity.report.console import extent, new_table, print_table
from parity.report.convention_groups import Group, cell, ends, groups, number, package, pair
from parity.report.markdown import markdown_table

LINES = {
    "sigmoid": "sigmoid(x), loss",
    "hidden": "sigmoid(x), reshape, loss",
    "raw": "loss from raw outputs",
    "segact": "segact, convention=",
}
"""The lines of code, in the order of the tables; they wrap like the names below them."""

_MARKDOWN_LINES = {
    "sigmoid": "sigmoid, loss: {}",
    "hidden": "sigmoid, reshape, loss: {}",
    "raw": "from raw outputs: {}",
    "segact": 'segact, `convention="{}"`',
}

_SHOWN = {0: (-200, -17, 16, 17, 50, 200), 1: (200, -16, -17, -50, -200)}
"""The raw outputs of the table of each label, from right to wrong."""

_DROPPED = (50, 16)
"""Columns that a narrow terminal omits, in this order."""

_MARKDOWN = (-200, 17, 200)
_ENDS = ("largest", "largest_from", "largest_gradient_0_from", "smallest", "smallest_from")
_MADE_BY = ("python", "keras", "tensorflow", "jax", "torch", "tf-keras")
_NAME_WIDTH = (19, 28)
"""The least and the most columns of the first column; longer names wrap."""

_EXACT = Row("", "", "", "", "", "", {})
"""Stands for the exact loss in the tables."""


def _columns(results: Results, label: int) -> list[float]:
    """The raw outputs of the table of a label: all that were asked for, or a few."""
    return list(_SHOWN[label]) if results.raw == list(RAW) else results.raw


def _table(
    out: Console,
    title: str,
    heads: list[str],
    found: list[Group],
    cells: Callable[[Group], list[Text]],
) -> Table:
    """A table of groups below their lines of code; names wrap in the width that is left."""
    table = new_table(title, "", *heads)
    line = ""
    for group in found:
        if group.line and group.line != line:
            line = group.line
            table.add_row(Text(LINES[line], "bold"))
        table.add_row(Padding(group.name, (0, 0, 0, 2)), *cells(group))
    names, (least, most) = table.columns[0], _NAME_WIDTH
    names.no_wrap, names.max_width = False, least
    names.max_width = min(most, least + max(0, out.width - extent(out, table)))
    return table


def _label_tables(out: Console, results: Results, label: int) -> list[Table]:
    """Loss and gradient at a few raw outputs, the exact ones first, in tables that fit."""
    columns = _columns(results, label)
    dropped = list(_DROPPED) if results.raw == list(RAW) else []
    found = groups(results, lambda row: tuple(cell(results, row, x, label).plain for x in columns))
    found.insert(0, Group("", "exact", _EXACT))

    def cells(group: Group, shown: list[float]) -> list[Text]:
        if group.row is _EXACT:
            return [Text(pair(*_rounded(x, label)) + " ") for x in shown]
        return [cell(results, group.row, x, label) for x in shown]

    def table(shown: list[float]) -> Table:
        heads = [f"x = {x:g} " if i == 0 else f"{x:g} " for i, x in enumerate(shown)]
        title = f"label {label}: the loss/its gradient in the raw output x, float32"
        title += f"\n!: relative error above {TOLERANCE:.1%}"
        if results.raw == list(RAW):
            title += f"; {len(shown)} of {len(RAW)} raw outputs, --raw has others, --json all"
        if any(group.line == "hidden" for group in found):
            title += "\nreshape: frameworks that are not listed give the same as without it"
        return _table(out, title, heads, found, lambda group: cells(group, shown))

    def blocks(shown: list[float]) -> list[Table]:
        """In halves, as long as they are wider than the terminal."""
        whole, half = table(shown), (len(shown) + 1) // 2
        if half == len(shown) or extent(out, whole) <= out.width:
            return [whole]
        return blocks(shown[:half]) + blocks(shown[half:])

    while dropped and extent(out, table(columns)) > out.width:
        narrower = dropped.pop(0)
        columns = [x for x in columns if abs(x) != narrower]
    return blocks(columns)


def _rounded(x: float, label: int) -> tuple[float, float]:
    """The exact loss and gradient as float32 holds them."""
    loss, gradient = map(float, np.array(exact(x, label)).astype(np.float32))
    return loss, gradient


def _ends_table(out: Console, results: Results) -> Table:
    """Where loss and gradient stop; ours of one implementation, as sigmoids differ in rounding."""
    heads = ["largest", "from x", "gradient 0", "smallest", "from x"]

    def texts(row: Row) -> tuple[str, ...]:
        return tuple(ends(row, key) for key in _ENDS)

    ours = {id(row) for row in results.ours}
    one = replace(results, rows=[r for r in results.rows if r.line != "segact" or id(r) in ours])
    found = [g for g in groups(one, texts) if set("".join(texts(g.row))) != set("-/")]
    title = "where the loss sticks (the others do not)"
    title += (
        "\nfor label 0/label 1; gradient 0: the x past which a wrong output gets none; -: nowhere"
    )
    return _table(out, title, heads, found, lambda group: [Text(t) for t in texts(group.row)])


def limit_line(results: Results) -> str:
    """What the gradient does exactly on the clip's upper limit; empty without such a row."""
    if 16 not in results.raw:
        return ""
    index = results.raw.index(16)
    rows = [row for row in results.good if row.line == "hidden" and row.framework != "tf-keras"]
    rows += [row for row in results.ours if row.variant == "keras"]
    by_factor: dict[str, list[str]] = {}
    for row in rows:
        factor = number(row.labels["0"]["gradient"][index] / exact(16, 0)[1], 2)
        name = "segact" if row.line == "segact" else row.framework
        names = by_factor.setdefault(factor, [])
        names += [] if name in names else [name]
    words = ", ".join(f"{f} in {_listed(names)}" for f, names in sorted(by_factor.items()))
    head = "at x = 16, p = 1 - 2^-23 is exactly the upper limit of Keras's clip; the gradient is"
    return f"{head} multiplied there by {words}" if words else ""


def _listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def ours_line(results: Results) -> str:
    """Which of our implementations the conventions are from."""
    frameworks = dict.fromkeys(row.framework for row in results.good if row.line == "segact")
    names = _listed([package(name) for name in frameworks])
    return f"segact: {names}; one that differs has a row of its own" if frameworks else ""


def print_results(out: Console, results: Results) -> None:
    """Who ran, the two tables, where the loss sticks, what failed."""
    versions = [f"{name} {made}" for name, made in all_versions().items() if name in _MADE_BY]
    out.print(", ".join(versions), soft_wrap=True)
    for name, words in results.skipped.items():
        out.print(f"{name}: skipped: {words}", soft_wrap=True)
    if results.good:
        tables = [table for label in LABELS for table in _label_tables(out, results, label)]
        for table in [*tables, _ends_table(out, results)]:
            print_table(out, table)
        out.print()
        for words in filter(None, (limit_line(results), ours_line(results))):
            out.print(words)
    print_failures(out, results)


def print_failures(out: Console, results: Results) -> None:
    """One line for everything that failed."""
    for words in results.failures:
        out.print(Text.assemble(("failed", "bold red"), f": {words}"), soft_wrap=True)
    if not results.rows:
        out.print("nothing could be run: no framework is installed")


def markdown(results: Results) -> str:
    """The short table of a README: label 0 at a few raw outputs, in bold where off."""
    columns = [x for x in _MARKDOWN if x in results.raw] or results.raw[:4]

    def cells(row: Row) -> tuple[str, ...]:
        found = [cell(results, row, x, 0).plain.replace("/", " / ").strip() for x in columns]
        return tuple(f"**{c[:-1]}**" if c.endswith("!") else c for c in found)

    heads = ["label 0: loss / gradient", *(f"x = {x:g}" for x in columns)]
    rows = [["exact", *(pair(*_rounded(x, 0)).replace("/", " / ") for x in columns)]]
    for group in groups(results, cells):
        name, _, who = group.name.partition(": ")
        name = ": ".join(filter(None, (_MARKDOWN_LINES[group.line].format(name), who)))
        rows.append([name, *cells(group.row)])
    return "\n".join(markdown_table(heads, rows))
