"""What a person reads: tables of the worst errors, and one line for everything that failed."""

from collections.abc import Iterable
from itertools import combinations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity import bounds
from parity.cases import ACTIVATIONS, METHODS, REDUCED, Case
from parity.compare import Measurement, worst
from parity.judgement import Judgement, ShownRow
from parity.userfile import LossRow

WIDTH = 100
_MOST_LINES = 60
_SHORT = {"keras-tensorflow": "k-tf", "keras-jax": "k-jax", "keras-torch": "k-torch"}
_QUANTITIES = (*METHODS, "ppf", "binary_cross_entropy", "squared_error")
_TITLES = {"binary_cross_entropy": "cross entropy", "squared_error": "squared error"}
_REDUCED_LABELS = tuple(f"{q},{option}" if option else q for q, option in REDUCED)


def console(stderr: bool = False) -> Console:
    """A console of at most 100 columns, and of exactly 100 where there is no terminal."""
    found = Console(stderr=stderr, highlight=False, soft_wrap=False)
    found.width = min(found.width, WIDTH) if found.is_terminal else WIDTH
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def print_table(out: Console, table: Table) -> None:
    """The title on a line of its own, wider than the table if need be, then the table."""
    title, table.title = str(table.title), None
    out.print(f"\n[bold]{title}[/]")
    out.print(table)


def _base(m: Measurement) -> str:
    return m.quantity.partition(",")[0]


def _number(m: Measurement) -> str:
    if m.error == 0:
        return "0"
    return f"{m.error:.1f}" if m.unit == "ulp" and m.error < 1000 else f"{m.error:.0e}"


def _worst_of(found: Iterable[Measurement]) -> Measurement | None:
    """The one nearest to its bound, or furthest beyond it."""
    return max(found, key=lambda m: m.error / m.bound if m.bound else m.error, default=None)


def _cell(found: list[Measurement]) -> Text:
    """`value/gradient`, red where over the bound."""
    cell = Text()
    value = _worst_of(m for m in found if m.part == "value")
    gradient = _worst_of(m for m in found if m.part != "value")
    for m in (value, gradient):
        if m is not None:
            cell.append("/" if cell else "").append(_number(m), "" if m.passed else "bold red")
    return cell


def _row(names: list[str], found: list[Measurement]) -> list[Text | str]:
    """A cell for every implementation, the worst pair, where the worst error is, the verdict."""
    alone = [m for m in found if m.judged_alone]
    cells: list[Text | str] = [_cell([m for m in alone if m.left == name]) for name in names]
    if len(names) > 1:
        pair = _worst_of(m for m in found if not m.judged_alone)
        sides = " ".join(_SHORT.get(name, name) for name in (pair.left, pair.right)) if pair else ""
        cells.append(f"{sides} {_number(pair)}" if pair else "")
    at = _worst_of(alone) or _worst_of(found)
    cells.append("" if at is None or at.x is None else f"{at.x:.3g}")
    return [*cells, _verdict(all(m.passed for m in found))]


def _verdict(passed: bool) -> Text:
    return Text("ok", "green") if passed else Text("FAIL", "bold red")


def _columns(names: list[str]) -> list[str]:
    pairs = ["worst pair"] if len(names) > 1 else []
    return [_SHORT.get(name, name) for name in names] + [*pairs, "at x", ""]


def _elementwise(figures: list[Measurement]) -> list[Measurement]:
    return [m for m in figures if m.quantity not in _REDUCED_LABELS]


def float32_table(names: list[str], figures: list[Measurement]) -> Table:
    """Rows: activation and quantity, elementwise, in ulp (the gradients of linear: relative)."""
    title = (
        "float32, elementwise: worst error of the value / of the gradient, in ulp (1e-07: relative)"
    )
    table = _table(title, "", *_columns(names))
    chosen = [m for m in _elementwise(figures) if m.dtype == "float32"]
    for activation in ACTIVATIONS:
        rows = {
            q: [m for m in chosen if (m.activation, _base(m)) == (activation, q)]
            for q in _QUANTITIES
        }
        if any(rows.values()):
            table.add_row(Text(activation, "bold"))
        for quantity, found in rows.items():
            if found:
                table.add_row("  " + _TITLES.get(quantity, quantity), *_row(names, found))
    return table


def activation_table(names: list[str], figures: list[Measurement], dtype: str) -> Table:
    """Rows: activations, the worst over all elementwise quantities."""
    unit = "error in ulp" if dtype == "float32" else "relative error"
    title = f"{dtype}, elementwise: worst {unit} of all values / of all gradients"
    table = _table(title, "", *_columns(names))
    for activation in ACTIVATIONS:
        chosen = [m for m in _elementwise(figures) if m.dtype == dtype]
        found = [m for m in chosen if m.activation == activation and m.left in names]
        if found:
            table.add_row(activation, *_row(names, found))
    return table


def reduced_table(names: list[str], figures: list[Measurement]) -> Table:
    """Rows: reduced losses and dtypes; the worst over activations, and whose it is."""
    title = "reduced losses: worst relative error / of the gradient, against its largest entry"
    heads = [_SHORT.get(name, name) for name in names]
    table = _table(title, "", *heads, *(["worst pair"] if len(names) > 1 else []), "of", "")
    for label in _REDUCED_LABELS:
        table.add_row(Text(_loss_name(label), "bold"))
        for dtype in ("float32", "float64"):
            found = [m for m in figures if (m.quantity, m.dtype) == (label, dtype)]
            alone = [m for m in found if m.judged_alone]
            pair = _worst_of(m for m in found if not m.judged_alone)
            at = _worst_of(alone)
            if at is not None:
                cells = [_cell([m for m in alone if m.left == name]) for name in names]
                pairs = [_number(pair)] if pair else []
                verdict = _verdict(all(m.passed for m in found))
                table.add_row(f"  {dtype}", *cells, *pairs, at.activation, verdict)
    return table


def _loss_name(label: str) -> str:
    """`binary_cross_entropy,mean` is the mean cross entropy; only Dice needs its option said."""
    name = label.removeprefix("binary_").removesuffix(",mean").removeprefix("mean_")
    return name.replace(",", ", ").replace("_", " ")


def pair_table(names: list[str], figures: list[Measurement]) -> Table:
    """Every pair of implementations: activation and quantity, float32, value / gradient."""
    pairs = list(combinations(names, 2))
    heads = [" ".join(_SHORT.get(name, name) for name in pair) for pair in pairs]
    table = _table("float32, every pair: worst value / gradient, in ulp", "", *heads)
    chosen = [m for m in _elementwise(figures) if m.dtype == "float32" and not m.judged_alone]
    for activation in ACTIVATIONS:
        table.add_row(Text(activation, "bold"))
        for q in _QUANTITIES:
            found = [m for m in chosen if (m.activation, _base(m)) == (activation, q)]
            if found:
                cells = [_cell([m for m in found if (m.left, m.right) == p]) for p in pairs]
                table.add_row("  " + _TITLES.get(q, q), *cells)
    return table


def comparison_table(found: list[Measurement]) -> Table:
    """Two records: the worst of every activation, float32 and float64."""
    table = _table("worst error by activation", "", "error", "bound", "quantity", "at x", "")
    for dtype in ("float32", "float64"):
        for activation in ACTIVATIONS:
            chosen = [m for m in found if (m.dtype, m.activation) == (dtype, activation)]
            m = _worst_of(chosen)
            if m is not None:
                x = "" if m.x is None else f"{m.x:.4g}"
                verdict = _verdict(m.passed)
                what = f"{m.quantity} {m.part}"
                table.add_row(
                    f"{activation}, {dtype}",
                    f"{_number(m)} {m.unit}",
                    f"{m.bound:g}",
                    what,
                    x,
                    verdict,
                )
    return table


def _from(value: float, since: float) -> str:
    """The loss at the end of the range and, if it sticks there, the x from which it does."""
    sticks = 0 < abs(since) < bounds.FAR and value != 0
    return f"{abs(value):.3g}" + (f" from {since:.2g}" if sticks else "")


def _percent(error: float) -> str:
    return f"{error:.1%}" if error > 5e-4 else f"{error:.0e}"


def shown_table(rows: list[ShownRow]) -> Table:
    """What is shown and not judged: where other formulas of -log F(x) lose digits and stick."""
    title = "shown, not judged: -log F(x) by other formulas (target 1, float32, |x| up to 1e4)"
    columns = ("off by, x <= 0", "at x = -1e4", "exact", "at x = 1e4", "exact")
    table = _table(title, "", *columns)
    for formula in dict.fromkeys(row.formula for row in rows):
        table.add_row(Text(formula, "bold"))
        for row in (r for r in rows if r.formula == formula):
            who = row.activation if formula.startswith("published") else row.implementation
            table.add_row(
                f"  {who}",
                f"{_percent(row.error)} at {row.x:.2g}",
                _from(row.largest, row.largest_from),
                f"{row.exact_largest:.3g}",
                _from(row.smallest, row.smallest_from),
                f"{row.exact_smallest:.3g}",
            )
    return table


def loss_table(names: list[str], rows: list[LossRow]) -> Table:
    """A user's file: every reduced loss of every implementation, and how far they are apart."""
    title = "losses on the file, from each implementation"
    table = _table(title, "", *(_SHORT.get(name, name) for name in names), "difference", "")
    for activation in dict.fromkeys(row.activation for row in rows):
        table.add_row(Text(activation, "bold"))
        for row in (r for r in rows if r.activation == activation):
            values = [f"{row.values[name]:.9g}" for name in names]
            spread = f"{row.spread:.1e}"
            table.add_row(f"  {_loss_name(row.loss)}", *values, spread, _verdict(row.passed))
    return table


def _bounds_line(names: list[str]) -> str:
    """The bounds of the first table in words, from the table of bounds."""
    case = Case("grid", "float32", "sigmoid", "cdf")
    ppf = Case("probabilities", "float32", "sigmoid", "ppf")
    parts = []
    for name in names:
        value, gradient = (bounds.table_bound(name, case, p) for p in ("value", "grad_x"))
        quantile = bounds.table_bound(name, ppf, "value")
        parts.append(f"{_SHORT.get(name, name)} {value:g}/{gradient:g} (ppf {quantile:g})")
    return "bounds in ulp: " + ", ".join(parts)


def print_report(out: Console, judgement: Judgement, verbose: bool = False) -> None:
    """Everything: who ran, the tables, the verdict."""
    for outcome in judgement.outcomes:
        words = (
            f"skipped: {outcome.skipped}" if outcome.skipped else "failed" if outcome.error else ""
        )
        if outcome.record:
            words = f"{outcome.record.device}, {outcome.seconds:.0f} s"
        out.print(f"{outcome.name:>16}  {escape(words)}")
    names = judgement.implementations
    figures = list(worst(judgement.measurements).values())
    tables = []
    if judgement.losses:
        dtype = figures[0].dtype
        tables = [loss_table(names, judgement.losses), activation_table(names, figures, dtype)]
    elif figures:
        tables = [float32_table(names, figures), activation_table(names, figures, "float64")]
        tables += [reduced_table(names, figures)]
        tables += [pair_table(names, figures)] if verbose and len(names) > 1 else []
        tables += [shown_table(judgement.shown)] if judgement.shown else []
    for table in tables:
        print_table(out, table)
    if figures:
        out.print(f"\n{_bounds_line(names)}")
    print_verdict(out, judgement)


def print_verdict(out: Console, judgement: Judgement) -> None:
    """Pass, or who fails in what, and then a line for every failure."""
    failures = judgement.failures()
    if not failures:
        counted = sum(m.count for m in judgement.measurements)
        out.print(f"[green]passed[/]: {counted:,} comparisons, all within bounds")
        return
    out.print(f"[bold red]FAILED[/]: {len(failures)} quantities out of bounds or not judged")
    failed = [m for m in judgement.measurements if m.judged_alone and not m.passed]
    for name in dict.fromkeys(m.left for m in failed):
        activations = dict.fromkeys(m.activation for m in failed if m.left == name)
        out.print(f"{name} is out of bounds in {', '.join(activations)}", soft_wrap=True)
    for line in failures[:_MOST_LINES]:
        out.print(escape(line), soft_wrap=True)
    if len(failures) > _MOST_LINES:
        out.print(f"and {len(failures) - _MOST_LINES} more (--json has them all)")


def markdown(judgement: Judgement) -> str:
    """The summary for a README: worst float32 ulp of all values / all gradients per activation.

    `linear` shows its values only: its gradients are judged against the largest entry.
    """
    names = judgement.implementations
    figures = [
        m
        for m in _elementwise(list(worst(judgement.measurements).values()))
        if m.judged_alone and m.unit == "ulp" and not m.quantity.startswith("ppf")
    ]
    lines = ["| float32, ulp | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for activation in ACTIVATIONS:
        cells = []
        for name in names:
            mine = [m for m in figures if (m.left, m.activation) == (name, activation)]
            cells.append(_cell([m for m in mine if m.part != "grad_y"]).plain.replace("/", " / "))
        lines.append(f"| {activation} | " + " | ".join(cells) + " |")
    case = Case("grid", "float32", "sigmoid", "cdf")
    limits = [
        f"{bounds.table_bound(n, case, 'value'):g} / {bounds.table_bound(n, case, 'grad_x'):g}"
        for n in names
    ]
    return "\n".join([*lines, "| bound | " + " | ".join(limits) + " |"])
