"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; a bar in a cell would end it, and becomes a slash."""
    head, *lines = (
        f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |".replace("|  |", "| |")
        for cells in (heads, *rows)
    )
    return [head, f"|{' --- |' * len(heads)}", *lines]
