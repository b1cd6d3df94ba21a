"""`segact-parity`: checks that the implementations give the same numbers, and the right ones.

Exit code 0: everything that was judged is within bounds.
1: something is out of bounds, or nothing could be judged.
2: wrong usage, or a file that cannot be used.
"""

from typing import Annotated

import typer

from parity.cli import compare, conventions, record, run, train
from parity.common.versions import VERSION

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"segact-parity {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command(context_settings={"allow_extra_args": True})(run.run)
app.command()(record.record)
app.command(name="compare")(compare.compare_records)
app.command()(conventions.conventions)
app.command()(train.train)


def main() -> None:
    """The console script."""
    app()
