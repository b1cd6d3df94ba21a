"""The printed results of a run: tables of the worst errors, and one line for each failure."""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.accuracy import bounds
from parity.accuracy.comparison import Comparison
from parity.accuracy.measurement import worst
from parity.judge.judgement import BaselineRow, Judgement
from parity.judge.user_logits import Baselines, LossRow
from parity.report.console import SHORT, new_table, print_table
from parity.report.markdown import markdown_table
from parity.suite.case import ACTIVATIONS, CONVENTIONS, METHODS, NO_ACTIVATION, REDUCED, Case
from parity.suite.inputs import DTYPES

_MOST_LINES = 60
_TITLES = {
    "binary_cross_entropy": "cross entropy",
    "binary_focal_cross_entropy": "focal cross entropy",
    "squared_error": "squared error",
}

_QUANTITIES = (*METHODS, "ppf", *_TITLES)
_APART = ("squared_error", "binary_focal_cross_entropy", "ppf")
"""Quantities with special bounds."""

_STAR = "*: nearest to its bound"


def _base(m: Comparison) -> str:
    return m.quantity.partition(",")[0]


def _number(m: Comparison) -> str:
    if m.error == 0:
        return "0"
    return f"{m.error:.1f}" if m.unit == "ulp" and m.error < 1000 else f"{m.error:.0e}"


def _nearness(m: Comparison) -> float:
    return m.error / m.bound if m.bound else m.error


def _worst_of(found: Iterable[Comparison]) -> Comparison | None:
    """The comparison nearest to its bound, or furthest beyond it."""
    return max(found, key=_nearness, default=None)


def _cell(found: list[Comparison], star: Comparison | None = None) -> Text:
    """`value/gradient`, red if over the bound, with a star at one of them."""
    cell = Text()
    value = _worst_of(m for m in found if m.part == "value")
    gradient = _worst_of(m for m in found if m.part != "value")
    for m in (value, gradient):
        if m is not None:
            cell.append("/" if cell else "").append(_number(m), "" if m.passed else "bold red")
            cell.append("*" if m is star else "")
    return cell


def _pair(found: list[Comparison]) -> str:
    """The worst pair of implementations and its error."""
    pair = _worst_of(m for m in found if not m.against_exact)
    if pair is None:
        return ""
    sides = " ".join(SHORT.get(name, name) for name in (pair.left, pair.right))
    return f"{sides} {_number(pair)}"


def _row(names: list[str], found: list[Comparison]) -> list[Text | str]:
    """The verdict, a cell for every implementation, where the starred error is, the worst pair."""
    alone = [m for m in found if m.against_exact and m.left in names]
    at = _worst_of(alone)
    star = at if at is not None and at.error > 0 and at.x is not None else None
    cells: list[Text | str] = [_cell([m for m in alone if m.left == name], star) for name in names]
    where = "" if star is None else f"{star.x:.3g}"
    pairs = [_pair(found)] if len(names) > 1 else []
    return [_verdict(found), *cells, where, *pairs]


def _verdict(found: Iterable[Comparison | LossRow]) -> Text:
    passed = all(m.passed for m in found)
    return Text("ok", "green") if passed else Text("FAIL", "bold red")


def _heads(names: list[str]) -> list[str]:
    return [SHORT.get(name, name) for name in names]


def _pair_head(names: list[str]) -> list[str]:
    return ["worst pair"] if len(names) > 1 else []


def _is_reduced(m: Comparison) -> bool:
    quantity, _, option = m.quantity.partition(",")
    return option in REDUCED.get(quantity, ())


def _is_sum(m: Comparison) -> bool:
    """Whether it depends on every element: a reduced loss, or the gradient of `linear` in x."""
    return _is_reduced(m) or (m.activation == "linear" and m.part == "grad_x")


def _elementwise(figures: list[Comparison], dtype: str) -> list[Comparison]:
    """The elementwise comparisons of activations; `convention_table` has the others."""
    return [
        m for m in figures if m.dtype == dtype and m.activation in ACTIVATIONS and not _is_sum(m)
    ]


def _usual(found: Iterable[Comparison]) -> str:
    """The most common bound (exceptions have their own)."""
    counted = Counter(m.bound for m in found)
    return f"{counted.most_common(1)[0][0]:g}" if counted else ""


def _bound_cells(names: list[str], found: list[Comparison]) -> list[str]:
    cells = []
    for name in names:
        mine = [m for m in found if m.left == name and m.against_exact]
        value = _usual(m for m in mine if m.part == "value")
        gradient = _usual(m for m in mine if m.part != "value")
        cells.append("/".join(filter(None, (value, gradient))))
    return cells


def _add_bounds(table: Table, names: list[str], found: list[Comparison]) -> None:
    """The last rows: the bounds of the quantities in the table, special ones in their own rows."""
    for apart in ("", *_APART):
        mine = [m for m in found if (_base(m) if _base(m) in _APART else "") == apart]
        cells = _bound_cells(names, mine)
        if any(cells):
            words = f"bound of {_TITLES.get(apart, apart)}" if apart else "bound"
            table.add_row(Text(words, "bold"), "", *cells)


def float32_table(names: list[str], figures: list[Comparison]) -> Table:
    """Rows: activation and quantity, elementwise, in ulp."""
    title = "float32, element by element: worst error in ulp, of the value/of the gradient"
    heads = [*_heads(names), "* at x", *_pair_head(names)]
    table = new_table(f"{title}\n{_STAR}", "", "", *heads)
    chosen = _elementwise(figures, "float32")
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
    _add_bounds(table, names, chosen)
    return table


def activation_table(names: list[str], figures: list[Comparison], dtype: str) -> Table:
    """Rows: activations, the worst over all elementwise quantities."""
    unit = "error in ulp" if dtype == "float32" else "relative error"
    title = f"{dtype}, element by element: worst {unit} of all values/all gradients"
    heads = [*_heads(names), "* at x", *_pair_head(names)]
    table = new_table(f"{title}\n{_STAR}", "", "", *heads)
    chosen = [m for m in _elementwise(figures, dtype) if m.left in names]
    for activation in ACTIVATIONS:
        found = [m for m in chosen if m.activation == activation]
        if found:
            table.add_row(activation, *_row(names, found))
    _add_bounds(table, names, chosen)
    return table


def _add_sections(table: Table, names: list[str], groups: dict[str, list[Comparison]]) -> None:
    """For each dtype a row for every group, its worst, and the bounds."""
    for dtype in DTYPES:
        rows = {
            name: [m for m in found if m.dtype == dtype and m.left in names]
            for name, found in groups.items()
        }
        rows = {name: found for name, found in rows.items() if found}
        if not rows:
            continue
        table.add_row(Text(dtype, "bold"))
        for name, found in rows.items():
            alone = [m for m in found if m.against_exact]
            cells = [_cell([m for m in alone if m.left == name]) for name in names]
            pairs = [_pair(found)] if len(names) > 1 else []
            table.add_row(f"  {name}", _verdict(found), *cells, *pairs)
        everything = [m for found in rows.values() for m in found]
        table.add_row(Text("  bound", "bold"), "", *_bound_cells(names, everything))


def reduced_table(names: list[str], figures: list[Comparison]) -> Table:
    """Rows: reduced losses, the worst over activations and options, and the gradients of linear."""
    title = "sums over all elements: worst relative error, of the loss/of the gradient"
    note = "of all activations and options; gradients: relative to the largest entry"
    table = new_table(f"{title}\n{note}", "", "", *_heads(names), *_pair_head(names))
    groups = {
        _loss_name(loss): [m for m in figures if _base(m) == loss and _is_reduced(m)]
        for loss in REDUCED
    }
    groups["gradient of linear"] = [m for m in figures if _is_sum(m) and not _is_reduced(m)]
    _add_sections(table, names, groups)
    return table


def convention_table(names: list[str], figures: list[Comparison]) -> Table:
    """Rows: the conventions of cross entropy from probabilities."""
    title = "cross entropy from probabilities: worst error, of the loss/of the gradient"
    note = "float32 in ulp, float64 relative, each convention as its framework has it"
    table = new_table(f"{title}\n{note}", "", "", *_heads(names), *_pair_head(names))
    groups = {
        name: [m for m in figures if m.activation == f"{name}_convention"] for name in CONVENTIONS
    }
    _add_sections(table, names, groups)
    return table


def _loss_name(label: str) -> str:
    """`binary_cross_entropy,mean` is the mean cross entropy; other options are named."""
    name = label.removeprefix("binary_").removesuffix(",mean").removeprefix("mean_")
    return name.replace(",", ", ").replace("_", " ")


def pair_table(names: list[str], figures: list[Comparison]) -> Table:
    """Every pair of implementations: activation and quantity, float32, value / gradient."""
    pairs = list(combinations(names, 2))
    heads = ["\n".join(_heads(list(pair))) for pair in pairs]
    table = new_table("float32, every pair: worst value/gradient, in ulp", "", *heads)
    chosen = [m for m in _elementwise(figures, "float32") if not m.against_exact]
    for activation in ACTIVATIONS:
        table.add_row(Text(activation, "bold"))
        for q in _QUANTITIES:
            found = [m for m in chosen if (m.activation, _base(m)) == (activation, q)]
            if found:
                cells = [_cell([m for m in found if (m.left, m.right) == p]) for p in pairs]
                table.add_row("  " + _TITLES.get(q, q), *cells)
    return table


def comparison_table(found: list[Comparison]) -> Table:
    """Two records: the worst of every activation and convention, float32 and float64."""
    title = "worst error of every activation: the one nearest to its bound"
    table = new_table(title, "", "", "error", "bound", "quantity", "at x")
    for dtype in DTYPES:
        table.add_row(Text(dtype, "bold"))
        for activation in dict.fromkeys(m.activation for m in found):
            chosen = [m for m in found if (m.dtype, m.activation) == (dtype, activation)]
            m = _worst_of(chosen)
            if m is not None:
                what = f"{_loss_name(m.quantity)} {m.part.replace('grad_', 'gradient in ')}"
                error, bound = f"{_number(m)} {m.unit}", f"{m.bound:g}"
                x = "" if m.x is None or not m.error else f"{m.x:.3g}"
                table.add_row(f"  {activation}", _verdict(chosen), error, bound, what, x)
    return table


def _function_title(m: Comparison) -> str:
    if m.right != "oracle":
        return f"{m.left} against {m.right}"
    of = "" if m.activation == NO_ACTIVATION else f" of {m.activation}"
    return f"{m.left} against {m.quantity}{of}, in double precision"


def function_tables(found: list[Comparison]) -> list[Table]:
    """A user's functions: for every pair the error of every part on every input set."""
    tables = []
    for title in dict.fromkeys(map(_function_title, found)):
        note = "needs: the smallest relative tolerance that would pass"
        table = new_table(
            f"{title}\n{note}", "", "", "needs", "allowed", "misses", "at x", "left", "right"
        )
        for m in (m for m in found if _function_title(m) == title):
            part = "value" if m.part == "value" else "gradient"
            table.add_row(
                f"{m.case} {part}",
                _verdict([m]),
                f"{m.error:.1e}" if m.error else "0",
                f"{m.bound:g}",
                f"{m.over:,}/{m.count:,}",
                "" if m.x is None else f"{m.x:.3g}",
                _side(m, 0),
                _side(m, 1),
            )
        tables.append(table)
    return tables


def _side(m: Comparison, side: int) -> str:
    """The number of one of two functions; its shape if the shapes differ, "none" without a
    gradient."""
    if m.without_gradient:
        return "none" if m.names[side] == m.without_gradient else "present"
    if m.difference is not None and not m.difference.comparable:
        return f"shape {m.difference.shapes[side]}"
    return f"{(m.got, m.expected)[side]:.6g}"


def print_functions(out: Console, judgement: Judgement) -> None:
    """Print a user's functions: the tables, the notes, the verdict."""
    for table in function_tables(judgement.measurements):
        print_table(out, table)
    out.print()
    for note in judgement.notes:
        out.print(escape(note), soft_wrap=True)
    failed = sum(not m.passed for m in judgement.measurements)
    if judgement.passed:
        out.print(
            f"[green]passed[/]: {len(judgement.measurements)} comparisons, all within tolerance"
        )
    else:
        out.print(f"[bold red]FAILED[/]: {failed} of {len(judgement.measurements)} comparisons")


def _short(x: float) -> str:
    """Two digits, without an exponent if none is needed."""
    return f"{float(f'{x:.2g}'):g}"


def _from(value: float, since: float) -> str:
    """The loss at the end of the range and, if it stops changing, the x from which on."""
    sticks = 0 < abs(since) < bounds.FAR and value != 0
    return f"{abs(value):.3g}" + (f" from {_short(since)}" if sticks else "")


def _percent(error: float) -> str:
    return f"{error:.1%}" if error > 5e-4 else f"{error:.0e}"


def baseline_table(rows: list[BaselineRow]) -> Table:
    """Shown, not judged: where other formulas of -log F(x) lose digits and stop changing."""
    title = "shown, not judged: -log F(x) by other formulas (float32, |x| up to 1e4)"
    note = '"from": the x from which on it no longer moves'
    columns = ("off by\nx <= 0", "at\nx = -1e4", "\nexact", "at\nx = 1e4", "\nexact")
    table = new_table(f"{title}\n{note}", "", *columns)
    for formula in dict.fromkeys(row.formula for row in rows):
        table.add_row(Text(formula.replace(", from", " on"), "bold"))
        for row in (r for r in rows if r.formula == formula):
            who = row.activation if formula.startswith("published") else row.implementation
            table.add_row(
                f"  {who}",
                _percent(row.error),
                _from(row.largest, row.largest_from),
                f"{row.exact_largest:.3g}",
                _from(row.smallest, row.smallest_from),
                f"{row.exact_smallest:.3g}",
            )
    return table


def loss_table(names: list[str], rows: list[LossRow]) -> Table:
    """A user's file: every reduced loss of every implementation, and the differences."""
    title = "losses on the file, from each implementation"
    note = f"ok: the largest relative difference is at most {bounds.FILE_AGREEMENT:g}"
    table = new_table(f"{title}\n{note}", "", "", *_heads(names), "difference")
    for activation in dict.fromkeys(row.activation for row in rows):
        table.add_row(Text(activation, "bold"))
        for row in (r for r in rows if r.activation == activation):
            values = [f"{row.values[name]:.9g}" for name in names]
            spread = f"{row.spread:.1e}" if row.spread else "0"
            table.add_row(f"  {_loss_name(row.loss)}", _verdict([row]), *values, spread)
    return table


def file_baselines_table(name: str, ours: float, baselines: Baselines) -> Table:
    """A user's file: the sigmoid's cross entropy by other formulas, and by ours."""
    title = "shown, not judged: the sigmoid's cross entropy on the file by other formulas"
    share = baselines.past_16 / baselines.outputs
    note = (
        f"{baselines.past_16:,} of {baselines.outputs:,} raw outputs ({share:.2%}) "
        "pass 16 in magnitude"
    )
    table = new_table(f"{title}\n{note}", "", "loss", "off by", "wrong, but\nno gradient")
    table.add_row(
        f"ours, {name}", f"{ours:.9g}", _percent(baselines.off(ours)), f"{baselines.stuck:,}"
    )
    for formula in baselines.formulas:
        table.add_row(
            formula.name,
            f"{formula.loss:.9g}",
            _percent(baselines.off(formula.loss)),
            f"{formula.stuck:,}",
        )
    return table


def _print_outcomes(out: Console, judgement: Judgement) -> None:
    for outcome in judgement.outcomes:
        words = (
            f"skipped: {outcome.skipped}" if outcome.skipped else "failed" if outcome.error else ""
        )
        if outcome.record:
            words = f"{outcome.record.device}, {outcome.seconds:.0f} s"
        short = SHORT.get(outcome.name, "")
        out.print(f"{short:>7}  {outcome.name:16}  {escape(words)}", soft_wrap=True)


def tables(judgement: Judgement, verbose: bool = False) -> list[Table]:
    """All tables; with `verbose` also one of every pair of implementations."""
    names = judgement.implementations
    figures = list(worst(judgement.measurements).values())
    if judgement.losses:
        dtype = figures[0].dtype
        found = [loss_table(names, judgement.losses), activation_table(names, figures, dtype)]
        found.append(reduced_table(names, figures))
        for row in judgement.losses:
            if row.baselines and names:
                found.append(file_baselines_table(names[0], row.values[names[0]], row.baselines))
        return found
    if not figures:
        return []
    found = [float32_table(names, figures), activation_table(names, figures, "float64")]
    found += [reduced_table(names, figures), convention_table(names, figures)]
    found += [pair_table(names, figures)] if verbose and len(names) > 1 else []
    return found + ([baseline_table(judgement.baselines)] if judgement.baselines else [])


def print_report(out: Console, judgement: Judgement, verbose: bool = False) -> None:
    """Print what ran, the tables, the verdict."""
    _print_outcomes(out, judgement)
    for table in tables(judgement, verbose):
        print_table(out, table)
    out.print()
    print_verdict(out, judgement)


def print_verdict(out: Console, judgement: Judgement) -> None:
    """Print whether it passed, the implementations that failed, and a line for every failure."""
    failures = judgement.failures()
    skipped = sum(bool(outcome.skipped) for outcome in judgement.outcomes)
    tail = f", {skipped} skipped" if skipped else ""
    if not failures:
        counted = sum(m.count for m in judgement.measurements)
        out.print(f"[green]passed[/]: {counted:,} comparisons, all within bounds{tail}")
        return
    many = "1 failure" if len(failures) == 1 else f"{len(failures)} failures"
    out.print(f"[bold red]FAILED[/]: {many}{tail}")
    failed = [m for m in judgement.measurements if m.against_exact and not m.passed]
    for name in dict.fromkeys(m.left for m in failed):
        activations = dict.fromkeys(m.activation for m in failed if m.left == name)
        words = f"{name} is out of bounds in {', '.join(activations)}"
        out.print(escape(words), soft_wrap=True)
    for line in failures[:_MOST_LINES]:
        out.print(escape(line), soft_wrap=True)
    if len(failures) > _MOST_LINES:
        out.print(f"and {len(failures) - _MOST_LINES} more (--json has them all)")


def summary_table(judgement: Judgement) -> Table:
    """Worst float32 ulp of all values/all gradients per activation, against the reference.

    `linear` shows its values only: its gradients are judged against the largest entry.
    """
    names = judgement.implementations
    figures = [
        m
        for m in _elementwise(list(worst(judgement.measurements).values()), "float32")
        if m.against_exact and _base(m) not in _APART and m.part != "grad_y"
    ]
    table = new_table("float32, ulp", "", *names)
    for activation in ACTIVATIONS:
        mine = [m for m in figures if m.activation == activation]
        table.add_row(activation, *(_cell([m for m in mine if m.left == name]) for name in names))
    case = Case("grid", "float32", "sigmoid", "cdf")
    limits = [
        f"{bounds.table_bound(n, case, 'value'):g}/{bounds.table_bound(n, case, 'grad_x'):g}"
        for n in names
    ]
    table.add_row(Text("bound", "bold"), *limits)
    return table


def markdown(judgement: Judgement) -> str:
    """The summary for a README: `summary_table`."""
    table = summary_table(judgement)
    heads = [str(table.title), *(str(column.header) for column in table.columns[1:])]
    cells = zip(*(column.cells for column in table.columns), strict=True)
    rows = ([str(cell).replace("/", " / ") for cell in row] for row in cells)
    return "\n".join(markdown_table(heads, rows))
