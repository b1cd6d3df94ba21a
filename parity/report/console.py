"""The terminal, and tables that fit it."""

import os

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement as Extent
from rich.table import Table

WIDTH = 100
SHORT = {"keras-tensorflow": "k-tf", "keras-jax": "k-jax", "keras-torch": "k-torch"}
_OPTIONAL = ("* at x", "worst pair", "at x", "difference")
"""Columns at the right that a narrow terminal omits."""


def console(stderr: bool = False) -> Console:
    """As wide as the terminal or `COLUMNS`, at most 100 columns; 100 if both are unknown."""
    found = Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=False)
    told = found.is_terminal or "COLUMNS" in os.environ
    found.width = min(found.width, WIDTH) if told else WIDTH
    return found


def print_line(out: Console, line: str) -> None:
    """Print a line as it is: no markup, and not wrapped."""
    out.print(line, markup=False, soft_wrap=True)


def new_table(title: str, *columns: str) -> Table:
    """An empty table: the first column left-aligned, those with a head right-aligned."""
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    return table


def extent(out: Console, table: Table) -> int:
    """The width of a table that nothing narrows."""
    return Extent.get(out, out.options.update(width=10_000), table).maximum


def print_table(out: Console, table: Table) -> None:
    """The title on lines of its own, then the table, without optional columns if they do not fit.

    Nothing is cut: a table that is still too wide is printed in its full width.
    """
    title, table.title = str(table.title), None
    head, _, note = title.partition("\n")
    out.print(f"\n[bold]{escape(head)}[/]", soft_wrap=True)
    if note:
        out.print(escape(note), soft_wrap=True)
    while table.columns[-1].header in _OPTIONAL and extent(out, table) > out.width:
        table.columns.pop()
    width = out.width
    out.width = max(width, extent(out, table))
    try:
        out.print(table)
    finally:
        out.width = width
