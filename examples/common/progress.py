"""Progress bars on standard error, which are erased at the end; none without a terminal."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def progress_display(*, of_bytes: bool = False, console: Console | None = None) -> Progress:
    """A bar with what is done and the time left; `of_bytes` counts bytes and shows the speed."""
    counts = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    console = console or Console(stderr=True, highlight=False, emoji=False)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(30),
        *counts,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
