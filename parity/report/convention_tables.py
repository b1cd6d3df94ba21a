"""What a person reads of `segact-parity conventions`: the tables, their lines, the Markdown."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.text import Text

from parity.conventions.results import RAW, TOLERANCE, Results, Row, all_versions, exact, off
from parity.conventions.worker import LABELS

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


@dataclass(frozen=True)
class Group:
    """Rows of one line of code that are printed alike."""

    line: str
    name: str
    row: Row


def number(x: float, digits: int = 5) -> str:
    """A few digits, or two of a small number; 0 for less than float32's smallest normal one."""
    if abs(x) < np.finfo(np.float32).tiny:
        return "0"
    text = f"{x:.{digits}g}" if abs(x) >= 1e-3 else f"{x:.1e}"
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].replace("+", ""), text)


def _pair(loss: float, gradient: float) -> str:
    return f"{number(loss)}/{number(gradient, 3)}"


def _cell(results: Results, row: Row, x: float, label: int) -> Text:
    """`loss/gradient`, red and with a mark where either is off."""
    index, values = results.raw.index(x), row.labels[str(label)]
    text = _pair(values["loss"][index], values["gradient"][index])
    bad = any(off(row, x, index, label))
    return Text(text + ("!" if bad else " "), "bold red" if bad else "")


def _ends(row: Row, key: str) -> str:
    """One figure of where the loss ends: that of label 0/that of label 1."""
    found = [row.labels[str(label)][key] for label in LABELS]
    digits = 5 if key in ("largest", "smallest") else 3
    texts = ["-" if value is None else number(value, digits) for value in found]
    return "/".join(texts)


def _columns(results: Results, label: int) -> list[float]:
    """The raw outputs of the table of a label: all that were asked for, or a few."""
    return list(_SHOWN[label]) if results.raw == list(RAW) else results.raw


def _name(members: list[Row], same_line: list[Row]) -> str:
    """Who is in a group: a framework, with its mode if others of its modes are not."""
    names = []
    for head in dict.fromkeys((row.framework, row.variant) for row in members):
        inside = [row.mode for row in members if (row.framework, row.variant) == head]
        everywhere = [row.mode for row in same_line if (row.framework, row.variant) == head]
        name = " on ".join(filter(None, head))
        names.append(name if inside == everywhere else f"{name} ({', '.join(inside)})")
    return ", ".join(names)


def groups(results: Results, texts: Callable[[Row], tuple[str, ...]]) -> list[Group]:
    """The rows, those with the same texts merged.

    The reshaped sigmoid is there only where the reshape makes a difference.
    """
    plain = {
        (r.framework, r.variant, r.mode): texts(r) for r in results.good if r.line == "sigmoid"
    }
    found = []
    for line in ("sigmoid", "hidden", "raw"):
        rows = [row for row in results.good if row.line == line]
        if line == "hidden":
            rows = [r for r in rows if plain.get((r.framework, r.variant, r.mode)) != texts(r)]
        for key in dict.fromkeys(map(texts, rows)):
            members = [row for row in rows if texts(row) == key]
            found.append(Group(line, _name(members, rows), members[0]))
    return found + _our_groups(results, texts)


def _our_groups(results: Results, texts: Callable[[Row], tuple[str, ...]]) -> list[Group]:
    """The conventions; an implementation has a row of its own only where it differs."""
    found = []
    for shown in results.ours:
        rows = [r for r in results.good if (r.line, r.variant) == ("segact", shown.variant)]
        for key in dict.fromkeys([texts(shown), *map(texts, rows)]):
            members = [row for row in rows if texts(row) == key]
            who = "" if key == texts(shown) else f": {_our_name(members, rows)}"
            found.append(Group("segact", shown.variant + who, members[0]))
    return found


def _our_name(members: list[Row], same_line: list[Row]) -> str:
    """As `_name`, with our packages for the frameworks."""

    def packages(rows: list[Row]) -> list[Row]:
        return [replace(row, framework=_package(row.framework), variant="") for row in rows]

    return _name(packages(members), packages(same_line))


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
    for cell, room in zip(cells, widths, strict=True):
        line.append(" " * (1 + room - len(cell))).append_text(cell)
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
    found = groups(results, lambda row: tuple(_cell(results, row, x, label).plain for x in columns))
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
            return [Text(_pair(*_rounded(x, label)) + " ") for x in columns]
        return [_cell(results, group.row, x, label) for x in columns]

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
        return tuple(_ends(row, key) for key in _ENDS)

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
    names = _listed([_package(name) for name in frameworks])
    return f"segact: {names}; one that differs has a row of its own" if frameworks else ""


def _package(framework: str) -> str:
    backend = framework.removeprefix("keras-")
    return "segact_torch" if framework == "torch" else f"segact_tf on {backend}"


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
        found = [_cell(results, row, x, 0).plain.replace("/", " / ").strip() for x in columns]
        return tuple(f"**{c[:-1]}**" if c.endswith("!") else c for c in found)

    lines = ["| label 0: loss / gradient | " + " | ".join(f"x = {x:g}" for x in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    truth = [_pair(*_rounded(x, 0)).replace("/", " / ") for x in columns]
    lines.append("| exact | " + " | ".join(truth) + " |")
    for group in groups(results, cells):
        name, _, who = group.name.partition(": ")
        name = ": ".join(filter(None, (_MARKDOWN_LINES[group.line].format(name), who)))
        lines.append(f"| {name} | " + " | ".join(cells(group.row)) + " |")
    return "\n".join(lines)
