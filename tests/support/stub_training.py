"""A program like the examples, with epochs that take no time, for the tests of scheduling.

    train --out RUN [--resume] --epochs N --seed S ...
    sweep OUT RUNS [ADDRESS]

It writes a line to OUT/NAME.trained for every epoch. With seed 13 it fails. After its second epoch
it waits for the file OUT/go, so that a test can kill a process in the middle of a run.
"""

import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

from examples.common.files import held_alone
from examples.common.runs import LOCK, Run

EPOCHS, GATE = 4, 2


def train(words: list[str]) -> None:
    asked = dict(pairwise(words))
    folder, seed = Path(asked["--out"]), int(asked["--seed"])
    out = folder.parents[1]
    trained = out / f"{folder.name}.trained"
    if seed == 13:
        sys.exit("stub: seed 13 brings no luck")
    if "--resume" in words:
        run = Run.open(folder)
    else:
        run = Run.create(folder, {"options": {}, "data": {}})
    with held_alone(folder / LOCK, "taken"):
        rows = run.history()
        while len(rows) < EPOCHS:
            with trained.open("a") as file:
                file.write(f"{len(rows) + 1} {os.getppid()}\n")
            rows.append({"epoch": len(rows) + 1, "seconds": 1.0})
            run.write_history(rows, [])
            while len(rows) == GATE and not (out / "go").exists():
                time.sleep(0.01)
        run.config["finished"] = True
        run.write_config()


def sweep(out: Path, seeds: range | list[int], device: str = "cpu", **where) -> list[str]:
    from rich.console import Console

    from examples.common import scheduling
    from examples.common.options import TrainingOptions
    from parity.report.console import print_line

    out.mkdir(exist_ok=True)
    (out / "plan").touch()
    jobs = [
        scheduling.Job("stub_training", TrainingOptions(seed=s, device=device), f"seed{s}", out)
        for s in seeds
        if not (run := Run(out / "runs" / f"seed{s}")).path("config.json").is_file()
        or not Run.open(run.folder).finished
    ]
    tell = Console(stderr=True, width=200)
    workers = scheduling.Workers(**where)
    print_line(tell, f"{len(jobs)} to train")
    return scheduling.train_all(jobs, workers, out / "plan", tell, lambda rows, side: f"{side}")


def main() -> None:
    command, *words = sys.argv[1:]
    if command == "train":
        train(words)
        return

    import typer

    from examples.common.cli import plain_errors

    # A process started in the background by a shell ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with plain_errors("stub"):
            failed = sweep(Path(words[0]), range(int(words[1])), scheduler=(*words, None)[2])
    except typer.Exit as end:
        sys.exit(end.exit_code)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
