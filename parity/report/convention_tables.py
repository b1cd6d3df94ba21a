"""What a person reads of `segact-parity conventions`: the tables, their lines, the Markdown."""

import textwrap
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.text import Text

from parity.conventions.results import RAW, TOLERANCE, Results, Row, all_versions, exact
from parity.conventions.worker import LABELS
from parity.report.convention_groups import Group, cell, ends, groups, number, package, pair

LINES = {
    "sigmoid": "sigmoid(x), then the loss",
    "hidden": "sigmoid(x), reshaped, then the loss (who is not listed: as above)",
    "raw": "the loss from raw outputs (from_logits=True, ..._with_logits)",
    "segact": "segact, by convention=",
}
"""The lines of code, in the order of the tables."""

_MARKDOWN_LINES = {
    "sigmoid": "sigmoid, loss: {}",
    "hidden": "sigmoid, reshape, loss: {}",
    "raw": "from raw outputs: {}",
    "segact": 'segact, `convention="{}"`',
}

_SHOWN = {0: (-200, -17, 16, 17, 50, 200), 1: (200, -16, -17, -50, -200)}
"""The raw outputs of the table of each label, from right to wrong."""

_DROPPED = (50, 16)
"""Those a narrow terminal goes without, the first one first."""

_MARKDOWN = (-200, 17, 200)
_ENDS = ("largest", "largest_from", "largest_gradient_0_from", "smallest", "smallest_from")
_MADE_BY = ("python", "keras", "tensorflow", "jax", "torch", "tf-keras")
_NAME_WIDTH = (18, 28)
"""The least and the most columns of the first column; longer names wrap."""

_EXACT = Row("", "", "", "", "", "", {})
"""Stands for the exact loss in the tables."""


def _columns(results: Results, label: int) -> list[float]:
    """The raw outputs of the table of a label: all that were asked for, or a few."""
    return list(_SHOWN[label]) if results.raw == list(RAW) else results.raw


def _grid(
    out: Console, heads: list[str], found: list[Group], cells: Callable[[Group], list[Text]]
) -> list[Text]:
    """The lines of a table: names at the left, wrapped into what the columns leave of the width."""
    table = [(group, cells(group)) for group in found]
    widths = [max(map(len, column)) for column in zip(heads, *(c for _, c in table), strict=True)]
    least, most = _NAME_WIDTH
    width = min(most, max(least, out.width - sum(widths) - len(widths) - 2))
    lines = [_line("", width, [Text(head) for head in heads], widths)]
    title = ""
    for group, row in table:
        if group.line and group.line != title:
            title = group.line
            lines.append(Text(LINES[title], "bold"))
        first, *more = textwrap.wrap(group.name, width, break_on_hyphens=False)
        lines.append(_line(first, width, row, widths))
        lines += [Text(f"    {word}") for word in more]
    return lines


def _line(name: str, width: int, cells: list[Text], widths: list[int]) -> Text:
    line = Text(f"  {name:{width}}")
    for text, room in zip(cells, widths, strict=True):
        line.append(" " * (1 + room - len(text))).append_text(text)
    line.rstrip()
    return line


def _print_lines(out: Console, title: str, note: str, lines: list[Text]) -> None:
    out.print(f"\n[bold]{title}[/]", soft_wrap=True)
    out.print(note, soft_wrap=True)
    for line in lines:
        out.print(line, soft_wrap=True)


def _label_table(out: Console, results: Results, label: int) -> None:
    """Loss and gradient at a few raw outputs, the exact ones first, in blocks that fit."""
    columns = _columns(results, label)
    dropped = list(_DROPPED) if results.raw == list(RAW) else []
    found = groups(results, lambda row: tuple(cell(results, row, x, label).plain for x in columns))
    while dropped and _too_wide(out, _label_lines(out, results, label, columns, found)):
        narrower = dropped.pop(0)
        columns = [x for x in columns if abs(x) != narrower]
    title = f"label {label}: the loss/its gradient in the raw output x, float32"
    note = f"!: further than {TOLERANCE:.1%} from the exact one"
    if results.raw == list(RAW):
        note += f"; {len(columns)} of {len(RAW)} raw outputs, --raw has others, --json all"
    for i, block in enumerate(_blocks(out, results, label, columns, found)):
        lines = _label_lines(out, results, label, block, found)
        _print_lines(out, title if i == 0 else f"{title}, continued", note, lines)


def _blocks(
    out: Console, results: Results, label: int, columns: list[float], found: list[Group]
) -> list[list[float]]:
    """The columns in halves, as long as they are wider than the terminal."""
    half = (len(columns) + 1) // 2
    if half == len(columns) or not _too_wide(
        out, _label_lines(out, results, label, columns, found)
    ):
        return [columns]
    parts = columns[:half], columns[half:]
    return [block for part in parts for block in _blocks(out, results, label, part, found)]


def _too_wide(out: Console, lines: list[Text]) -> bool:
    return max(map(len, lines)) > out.width


def _label_lines(
    out: Console, results: Results, label: int, columns: list[float], found: list[Group]
) -> list[Text]:
    def cells(group: Group) -> list[Text]:
        if group.row is _EXACT:
            return [Text(pair(*_rounded(x, label)) + " ") for x in columns]
        return [cell(results, group.row, x, label) for x in columns]

    heads = [f"x = {x:g} " if i == 0 else f"{x:g} " for i, x in enumerate(columns)]
    return _grid(out, heads, [Group("", "exact", _EXACT), *found], cells)


def _rounded(x: float, label: int) -> tuple[float, float]:
    """The exact loss and gradient as float32 holds them."""
    loss, gradient = map(float, np.array(exact(x, label)).astype(np.float32))
    return loss, gradient


def _ends_table(out: Console, results: Results) -> None:
    """Where loss and gradient stop; ours of one implementation, as sigmoids differ in rounding."""
    heads = ["largest", "from x", "gradient 0", "smallest", "from x"]

    def texts(row: Row) -> tuple[str, ...]:
        return tuple(ends(row, key) for key in _ENDS)

    ours = {id(row) for row in results.ours}
    one = replace(results, rows=[r for r in results.rows if r.line != "segact" or id(r) in ours])
    found = [g for g in groups(one, texts) if set("".join(texts(g.row))) != set("-/")]
    note = "for label 0/label 1; gradient 0: the x past which a wrong output gets none; -: nowhere"
    lines = _grid(out, heads, found, lambda group: [Text(text) for text in texts(group.row)])
    _print_lines(out, "where the loss sticks (the others do not)", note, lines)


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
        for label in LABELS:
            _label_table(out, results, label)
        _ends_table(out, results)
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

    lines = ["| label 0: loss / gradient | " + " | ".join(f"x = {x:g}" for x in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    truth = [pair(*_rounded(x, 0)).replace("/", " / ") for x in columns]
    lines.append("| exact | " + " | ".join(truth) + " |")
    for group in groups(results, cells):
        name, _, who = group.name.partition(": ")
        name = ": ".join(filter(None, (_MARKDOWN_LINES[group.line].format(name), who)))
        lines.append(f"| {name} | " + " | ".join(cells(group.row)) + " |")
    return "\n".join(lines)
