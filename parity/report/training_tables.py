"""The printed results of `segact-parity train`: a table for each precision, and the verdict."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.report.console import SHORT, new_table, print_table
from parity.training.run import ENOUGH, Training, Trainings


def _step(step: int | None) -> str:
    return "-" if step is None else str(step)


def _row(run: Training, name: str) -> list[Text | str]:
    """Verdict, first and last loss, where it halves, the largest difference from the reference."""
    losses, parted, halved = run.curves[name], run.parted(name), run.halved(name)
    slow = len(losses) >= ENOUGH and halved is None
    good = parted is None and not slow
    verdict = Text("ok", "green") if good else Text("FAIL", "bold red")
    alone = [f"{losses[0]:.6g}", f"{losses[-1]:.6g}"]
    learns = Text(_step(halved), "bold red" if slow else "")
    if name == run.reference:
        return [verdict, *alone, learns, "", ""]
    worst = max(run.differences(name))
    error = Text(f"{worst:.1e}" if worst else "0", "" if parted is None else "bold red")
    return [verdict, *alone, learns, error, _step(parted)]


def loss_table(runs: list[Training]) -> Table:
    """Rows: optimizers and implementations, in one precision."""
    first = runs[0]
    steps = len(first.curves[first.reference])
    title = f"{first.dtype}: {first.loss} of {first.activation}, {steps} steps"
    note = (
        f"difference: the worst at any step, relative to {first.reference}; bound {first.bound:g}"
    )
    heads = ("first loss", "last loss", "halved at", "difference", "parted at")
    table = new_table(f"{title}\n{note}", "", "", *heads)
    for run in runs:
        table.add_row(Text(run.optimizer, "bold"))
        for name in run.curves:
            table.add_row(f"  {name}", *_row(run, name))
    return table


def gap_table(trainings: Trainings) -> Table:
    """Rows: settings that may look equivalent; columns: implementations."""
    rows = trainings.gaps
    names = list(rows[0].differences)
    title = "shown, not judged: what remains with other settings of the optimizers"
    note = (
        f"of the loss before step {rows[0].steps - 1}, relative to PyTorch's, in float64; "
        "the same learning rate in both"
    )
    table = new_table(f"{title}\n{note}", "", *[SHORT.get(name, name) for name in names])
    for optimizer in dict.fromkeys(row.optimizer for row in rows):
        table.add_row(Text(optimizer, "bold"))
        for row in (row for row in rows if row.optimizer == optimizer):
            cells = [f"{d:.0e}" if d else "0" for d in row.differences.values()]
            table.add_row(f"  Keras {row.keras}, PyTorch {row.torch}", *cells)
    return table


def print_trainings(out: Console, trainings: Trainings) -> None:
    """Print what ran, the tables, the verdict."""
    words = {name: f"cpu, {seconds:.0f} s" for name, seconds in trainings.seconds.items()}
    words |= dict.fromkeys(trainings.failed, "failed")
    words |= {name: f"skipped: {why}" for name, why in trainings.skipped.items()}
    for name, text in words.items():
        out.print(f"{SHORT.get(name, ''):>7}  {name:16}  {escape(text)}", soft_wrap=True)
    for dtype in dict.fromkeys(run.dtype for run in trainings.runs):
        print_table(out, loss_table([run for run in trainings.runs if run.dtype == dtype]))
    if trainings.gaps:
        print_table(out, gap_table(trainings))
    out.print()
    print_verdict(out, trainings)


def print_verdict(out: Console, trainings: Trainings) -> None:
    """Print whether it passed, and a line for every failure."""
    failures = trainings.failures()
    names = trainings.implementations
    tail = f", {len(trainings.skipped)} skipped" if trainings.skipped else ""
    if failures:
        many = "1 failure" if len(failures) == 1 else f"{len(failures)} failures"
        out.print(f"[bold red]FAILED[/]: {many}{tail}")
        for line in failures:
            out.print(escape(line), soft_wrap=True)
    elif not trainings.compared:
        out.print(
            f"[bold red]nothing was compared[/]: {names[0]} alone was trained{tail}",
            soft_wrap=True,
        )
    else:
        out.print(
            f"[green]passed[/]: {len(trainings.runs)} trainings in {len(names)} implementations, "
            f"all within bounds at every step{tail}",
            soft_wrap=True,
        )
