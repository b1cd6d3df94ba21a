"""The report: one HTML page that needs no network, a JSON file and a JUnit file."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from parity.common.files import json_text, write_atomically
from parity.common.versions import VERSION, versions
from parity.judge.judgement import Judgement
from parity.report import accuracy_tables, figures, junit
from parity.report.console import SHORT
from parity.report.figures import Drawing, Style
from parity.report.training_tables import gap_table, loss_table
from parity.suite.case import ACTIVATIONS

if TYPE_CHECKING:
    from parity.training.run import Trainings

FILES = ("index.html", "report.json", "junit.xml")
"""What `write` writes."""

Check = Mapping[str, Any]
"""A check of a test: `name`, `what`, `passed`, `message`, and the worst difference's `share` of the
tolerance, `rtol` and `atol`, each perhaps None."""

MOST_LINES = 60
"""Failures listed at the top of the page."""

_LONG = 30
"""Rows from which on a table is folded."""

_CLASSES = {"green": "good", "bold red": "bad", "bold": "strong"}
_MARKS = {
    "": "",
    "o": "M22 6a4 4 0 1 1-8 0a4 4 0 1 1 8 0z",
    "s": "M14 2h8v8h-8z",
    "D": "M18 1l5 5l-5 5l-5-5z",
    "^": "M18 1l5 9h-10z",
}
_FULL = {short: name for name, short in SHORT.items()}


@dataclass(frozen=True)
class Row:
    """Cells of pieces of text, each with the class it is shown in."""

    cells: list[list[tuple[str, str]]]
    indent: bool = False
    group: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table of the page; `folded` is closed until it is asked for, `prose` may break lines."""

    title: str
    note: str
    heads: list[str]
    rows: list[Row]
    folded: bool = False
    prose: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a line with its mark."""

    name: str
    variable: str
    mark: str
    width: float = 1.6


@dataclass(frozen=True)
class Section:
    """A part of the page; empty parts are omitted."""

    id: str
    heading: str
    words: list[str] = field(default_factory=list)
    tables: list[Sheet] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)


def _pieces(cell: object) -> list[tuple[str, str]]:
    """The text of a cell of a terminal's table, cut where its style changes."""
    if not isinstance(cell, Text):
        return [(str(cell).strip(), "")]
    found, at, whole = [], 0, _CLASSES.get(str(cell.style), "")
    for span in cell.spans:
        found.append((cell.plain[at : span.start], whole))
        found.append((cell.plain[span.start : span.end], _CLASSES.get(str(span.style), whole)))
        at = span.end
    found.append((cell.plain[at:], whole))
    return [(text, kind) for text, kind in found if text]


def _sheet(table: Table, folded: bool = False) -> Sheet:
    """A table of `parity.report` for the page, with the whole names of implementations."""
    title, _, note = str(table.title).partition("\n")
    heads = []
    for column in table.columns:
        lines = str(column.header).splitlines()
        heads.append(" ".join(_FULL.get(line, line) for line in lines))
    rows = []
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        group = isinstance(cells[0], Text) and not any(str(cell) for cell in cells[1:])
        indent = str(cells[0]).startswith("  ")
        rows.append(Row([_pieces(cell) for cell in cells], indent, group))
    return Sheet(title, note, heads, rows, folded)


def _keys(styles: Mapping[str, Style], names: Iterable[str]) -> list[Key]:
    """A legend of the names that occur, in the order of the styles."""
    there = set(names)
    return [Key(n, s.variable, _MARKS[s.mark]) for n, s in styles.items() if n in there]


def _accuracy(judgement: Judgement) -> Section | None:
    """The tables of the terminal; the long ones folded."""
    if not judgement.measurements:
        return None
    names = judgement.implementations
    if not names:  # a user's own functions
        sheets = [
            _sheet(table) for table in accuracy_tables.function_tables(judgement.measurements)
        ]
        return Section("accuracy", "Accuracy", list(judgement.notes), sheets)
    sheets = []
    if not judgement.losses:
        title = "float32: worst error in ulp, of all values/all gradients"
        sheets.append(replace(_sheet(accuracy_tables.summary_table(judgement)), title=title))
    for table in accuracy_tables.tables(judgement, verbose=True):
        sheets.append(_sheet(table, folded=table.row_count > _LONG and not judgement.losses))
    words = [
        "Every implementation against the reference, and the two that are furthest from each "
        "other. A number in red is beyond its bound."
    ]
    short = [f"{short} is {name}" for short, name in _FULL.items() if name in names]
    words += [f"In pairs, {', '.join(short)}."] if short and len(names) > 1 else []
    return Section("accuracy", "Accuracy", words, sheets)


def _errors(judgement: Judgement) -> Section | None:
    """The error over x, a figure for each activation."""
    activations = {a for curves in judgement.error_curves.values() for a, _ in curves.worst}
    drawings = [
        drawing
        for activation in ACTIVATIONS
        if activation in activations
        and (drawing := figures.error_figure(activation, judgement.error_curves))
    ]
    if not drawings:
        return None
    words = [
        "The worst float32 error at each raw output x, of every quantity that is computed element "
        "by element (the quantile apart). The outermost points hold everything beyond ±1e4; the "
        "axis is linear between -1 and 1. The gradients of linear are sums over the batch and not "
        "counted in ulp. A cross at the upper edge lies beyond it."
    ]
    swept = any(outcome.sweep for outcome in judgement.outcomes)
    words += [] if swept else ["Without the dense sweep: the points of the grid alone."]
    keys = _keys(figures.STYLES, judgement.error_curves)
    return Section("errors", "Errors along the raw output", words, keys=keys, drawings=drawings)


def _losses(judgement: Judgement) -> Section | None:
    """The cross entropy and its gradient over x."""
    curves = judgement.loss_curves
    if not curves:
        return None
    words = [
        "Cross entropy of a positive target, -log F(x), in float32, and the magnitude of its "
        "gradient: the exact curve, ours on it, and the published formula with epsilon 1e-7, whose "
        "loss stops at 16.1 on the left and whose gradient ends where its probability does."
    ]
    formulas = {name for curve in curves for name in curve.loss}
    keys = [
        Key(key.name, key.variable, key.mark, 5 if key.name == "ours" else 1.4)
        for key in _keys(figures.FORMULAS, formulas)
    ]
    drawings = [figures.loss_figure(curve) for curve in curves]
    return Section("losses", "Loss and gradient", words, keys=keys, drawings=drawings)


def _training(trainings: "Trainings") -> Section:
    """A figure for each optimizer and precision, and the failures."""
    words = [
        "The same small network, weights and batches in every implementation: the loss before each "
        "step, and how far it is from the reference's, where it is not equal. A line of many "
        "colours is many that coincide."
    ]
    for kind, found in (("skipped", trainings.skipped), ("failed", trainings.failed)):
        words += [f"{name} {kind}: {reason}" for name, reason in found.items()]
    drawings = [figures.training_figure(run) for run in trainings.runs if run.curves]
    keys = _keys(figures.STYLES, trainings.implementations)
    tables = [
        loss_table([run for run in trainings.runs if run.dtype == dtype])
        for dtype in dict.fromkeys(run.dtype for run in trainings.runs)
    ]
    tables += [gap_table(trainings)] if trainings.gaps else []
    sheets = [_sheet(table, folded=True) for table in tables]
    return Section("training", "Training", words, sheets, keys, drawings)


def _number(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, int | float) else "" if value is None else str(value)


def _percent(share: Any) -> str:
    """The share of a tolerance that is used, in percent."""
    if not isinstance(share, float):
        return "" if share is None else str(share)
    return f"{share:.0%}" if share < 10 else f"{share:.3g} times"


def _checks(checks: Sequence[Check]) -> Section:
    """A table of every check, then the messages of those that failed."""
    rows = []
    for check in checks:
        verdict = ("ok", "good") if check["passed"] else ("FAIL", "bad")
        rest = [_percent(check.get("share"))]
        rest += [_number(check.get(key)) for key in ("rtol", "atol")]
        rest.append(str(check.get("what", "")))
        cells = [[(str(check["name"]), "")], [verdict], *([(text, "")] for text in rest)]
        rows.append(Row(cells))
    heads = ["test", "", "of tolerance", "rtol", "atol", "what"]
    title = f"{len(checks)} checks" if len(checks) != 1 else "1 check"
    tables = [Sheet(title, "", heads, rows, prose=True)] if rows else []
    messages = [
        (str(check["name"]), str(check.get("message", "")))
        for check in checks
        if not check["passed"]
    ]
    return Section("checks", "Checks", tables=tables, messages=messages)


def _versions(judgement: Judgement | None) -> Section:
    """Implementations, devices and versions: a column for every implementation."""
    made = {}
    for outcome in judgement.outcomes if judgement else ():
        record = outcome.record
        if record:
            made[outcome.name] = {
                "device": record.device,
                "time": f"{outcome.seconds:.0f} s",
                "platform": record.platform,
                "seed": record.seed,
            } | record.versions
    if not made:
        made["this process"] = {"platform": f"{platform.system()} {platform.machine()}"}
        made["this process"] |= versions()
    rows = [
        Row([[(name, "")], *([(column.get(name, ""), "")] for column in made.values())])
        for name in dict.fromkeys(name for column in made.values() for name in column)
    ]
    words = [f"Written on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC by segact {VERSION}."]
    table = Sheet("who ran, where, with what", "", ["", *made], rows)
    return Section("versions", "Versions", words, [table])


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count != 1 else f"1 {what.removesuffix('s')}"


def _counts(
    judgement: Judgement | None, trainings: "Trainings | None", checks: Sequence[Check] | None
) -> list[str]:
    """The number of comparisons, one line for each kind."""
    lines = []
    if judgement:
        compared = sum(m.count for m in judgement.measurements)
        who = judgement.implementations or [o.name for o in judgement.outcomes if not o.skipped]
        names = f": {', '.join(who)}" if who else ""
        lines.append(f"{_many(compared, 'comparisons')}{names}.")
        lines += [f"{o.name} skipped: {o.skipped}." for o in judgement.outcomes if o.skipped]
    if trainings:
        how = "compared step by step" if trainings.compared else "with nothing to compare with"
        lines.append(f"{_many(len(trainings.runs), 'trainings')}, {how}.")
    if checks is not None:
        failed = sum(not check["passed"] for check in checks)
        lines.append(f"{_many(len(checks), 'checks')} in tests, {failed} failed.")
    return lines


def failures(
    judgement: Judgement | None, trainings: "Trainings | None", checks: Sequence[Check] | None
) -> list[str]:
    """One line for each failure; empty if all parts pass."""
    lines = judgement.failures() if judgement else []
    lines += trainings.failures() if trainings else []
    lines += [f"{c['name']}: {c.get('what', '')}" for c in checks or () if not c["passed"]]
    if judgement is None and trainings is None and not checks:
        lines.append("nothing was checked")
    return lines


def html(
    judgement: Judgement | None = None,
    trainings: "Trainings | None" = None,
    checks: Sequence[Check] | None = None,
) -> str:
    """The page. It loads nothing and runs no script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    sections: list[Section | None] = []
    if judgement:
        sections += [_accuracy(judgement), _errors(judgement), _losses(judgement)]
    sections += [_training(trainings)] if trainings else []
    sections += [_checks(checks)] if checks is not None else []
    wrong = failures(judgement, trainings, checks)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html").render(
        passed=not wrong,
        counts=_counts(judgement, trainings, checks),
        failures=wrong[:MOST_LINES],
        more_failures=max(len(wrong) - MOST_LINES, 0),
        sections=[section for section in (*sections, _versions(judgement)) if section],
    )


def as_dict(
    judgement: Judgement | None = None,
    trainings: "Trainings | None" = None,
    checks: Sequence[Check] | None = None,
) -> dict[str, Any]:
    """Everything, for JSON: what `--json` writes, with the trainings and the checks."""
    wrong = failures(judgement, trainings, checks)
    found: dict[str, Any] = {"format": 1, "segact": VERSION, "versions": versions()}
    found |= judgement.as_dict() if judgement else {}
    found |= {"passed": not wrong, "failures": wrong}
    found |= {"trainings": trainings.as_dict()} if trainings else {}
    return found | ({"checks": [dict(check) for check in checks]} if checks is not None else {})


def write(
    folder: Path,
    judgement: Judgement | None = None,
    trainings: "Trainings | None" = None,
    checks: Sequence[Check] | None = None,
) -> None:
    """Write `FILES` into the folder, which is made if it is not there.

    Each part may be absent: `judgement` of a run, `trainings`, `checks` of tests (see `Check`).
    Raises `OSError` where the folder cannot be written to.
    """
    folder = Path(folder)
    content = (
        html(judgement, trainings, checks),
        json_text(as_dict(judgement, trainings, checks)),
        junit.text(judgement, trainings, checks),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(FILES, content, strict=True):
        write_atomically(folder / name, text.encode())
