"""The folder of a training run. Every file in it is written whole, or not at all.

    config.json             options, data, versions; `finished` says whether the run has ended
    history.csv             one row an epoch
    steps.csv               the loss of each of the first steps
    initial.safetensors     the weights before the first step;
    best.safetensors        after the best epoch, by the column that the task monitors;
    final.safetensors       and at the end
    last.*                  the framework's own checkpoint, for --resume
    tensorboard             logs (Keras writes them if TensorFlow is installed)

and the files of the task (`Task.after_epoch`, `Task.at_end`).

A resumed run starts from its checkpoint, which is written after everything else of its epoch: the
files of later epochs are written again.
"""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.files import json_text, write_atomically
from parity.common.versions import versions

FORMAT = 1
LOCK = ".lock"
"""The lock of the process that trains the run."""
STEPS = 100
"""The number of steps whose loss is recorded."""
Row = dict[str, float]


class RunError(ValueError):
    """A run that cannot be started, continued or read; the message is one line."""


def all_versions() -> dict[str, str]:
    """The versions in a record of the judge, and those of the examples' own packages."""
    found = versions()
    for package in ("lightning", "torchvision", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A table, with the keys of the first row as its head; numbers are read back exactly."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()


def _number(path: Path, text: str | None) -> float:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text or "")
    raise RunError(f"{path}: {text!r} where a number is wanted")


def read_csv(path: Path, *columns: str) -> list[Row]:
    """The rows of a table of numbers; none if there is no such file.

    Raises `RunError` if it is damaged, or lacks one of these columns.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:  # bytes that are no text
        raise RunError(f"{path}: damaged ({error})") from error
    for row in rows:
        if None in row:
            raise RunError(f"{path}: damaged (a row is longer than the head)")
        for name in columns:
            if name not in row:
                raise RunError(f"{path}: has no column {name}")
    return [{key: _number(path, text) for key, text in row.items()} for row in rows]


def best(values: Sequence[float], mode: str) -> int:
    """The index of the first of the best values; -1 without any that is finite."""
    better = {"min": min, "max": max}[mode]
    finite = [value for value in values if math.isfinite(value)]
    return list(values).index(better(finite)) if finite else -1


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `RunError` if it is missing, damaged or not an object."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: cannot be read ({reason})") from error
    if not isinstance(found, dict):
        raise RunError(f"{path}: holds no object")
    return found


def counted(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """`25 s`, `1.5 min`, `2.5 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def stopped(
    values: Sequence[float], patience: int, mode: str = "min", of: str = "training loss"
) -> str:
    """Why training ends after these values; empty if it continues. As in both frameworks.

    Also for a run that was killed before its end was recorded.

    >>> stopped([3.0, 2.0, 2.5, 2.0], patience=2), stopped([3.0, 2.0, 2.5, 1.0], patience=2)
    ('no lower training loss for 2 epochs', '')
    """
    if values and not math.isfinite(values[-1]):
        return f"the {of} is no longer finite"
    if values and len(values) - 1 - best(values, mode) >= patience:
        more = "lower" if mode == "min" else "higher"
        return f"no {more} {of} for {counted(patience, 'epoch')}"
    return ""


@dataclass
class Run:
    """The folder of a run, and its configuration."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def check_new(cls, folder: Path) -> None:
        """Raises `RunError` if there is already something in the folder."""
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder}: wanted a folder")
        if not folder.exists() or not any(folder.iterdir()):
            return
        if not (folder / "config.json").is_file():
            raise RunError(f"{folder}: holds something else; choose another folder")
        if cls.open(folder).finished:
            raise RunError(f"{folder}: holds a finished run; choose another folder")
        raise RunError(f"{folder}: holds an unfinished run; --resume continues it")

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any]) -> "Run":
        """A new run; raises `RunError` if the folder is not empty."""
        cls.check_new(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, {"format": FORMAT, "finished": False, "stopped": "", **config})
        run.write_config()
        return run

    @classmethod
    def open(cls, folder: Path, kind: type | None = None) -> "Run":
        """An existing run; raises `RunError` if it cannot be read.

        `kind`: the options class of the example that the run has to belong to.
        """
        path = folder / "config.json"
        if not path.exists():
            raise RunError(f"{folder}: no run; it has no config.json")
        config = read_json(path)
        parts = (config.get("options"), config.get("data"))
        if config.get("format") != FORMAT or not all(isinstance(part, dict) for part in parts):
            raise RunError(f"{path}: not the configuration of a run, format {FORMAT}")
        own = {f.name for f in fields(kind)} if kind else set()
        missing = ", ".join(sorted(own - set(config["options"])))
        if missing:
            raise RunError(
                f"{folder}: a run of another example, or of another version of this one; it has "
                f"no option {missing}"
            )
        return cls(folder, config)

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return bool(self.config.get("finished"))

    @property
    def options(self) -> dict[str, Any]:
        """The options that the run was started with."""
        return dict(self.config["options"])

    def clear_leftovers(self) -> None:
        """Remove partly written files that a kill has left; their names are hidden."""
        for path in self.folder.glob(".*"):
            if path.name == LOCK:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """The path of a file of the run."""
        return self.folder / name

    def need(self, name: str) -> Path:
        """The path of a file of the run; raises `RunError` if there is no such file."""
        if not self.path(name).is_file():
            state = "" if self.finished else ", and the run is not finished"
            raise RunError(f"{self.folder}: has no {name}{state}")
        return self.path(name)

    def write_config(self) -> None:
        """Write the configuration."""
        write_atomically(self.path("config.json"), json_text(self.config).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of the run; raises `RunError`."""
        return read_json(self.need(name))

    def history(self, *columns: str) -> list[Row]:
        """One row for every epoch; raises `RunError` if it lacks one of these columns."""
        return read_csv(self.path("history.csv"), *columns)

    def steps(self) -> list[float]:
        """The loss of each of the first steps."""
        return [row["loss"] for row in read_csv(self.path("steps.csv"), "loss")]

    def write_history(self, rows: Sequence[Row], steps: Sequence[float]) -> None:
        """Write both tables again."""
        numbered = [{"step": number, "loss": loss} for number, loss in enumerate(steps, 1)]
        write_atomically(self.path("steps.csv"), csv_bytes(numbered))
        write_atomically(self.path("history.csv"), csv_bytes(rows))

    def write_outputs(self, when: str, arrays: Mapping[str, Array]) -> None:
        """`outputs_WHEN.npz`."""
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_atomically(self.path(f"outputs_{when}.npz"), content.getvalue())

    def outputs(self, when: str) -> dict[str, Array]:
        """The arrays of `write_outputs`; raises `RunError` if the file is missing or damaged."""
        path = self.need(f"outputs_{when}.npz")
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            raise RunError(f"{path}: damaged ({error})") from error


@dataclass
class Recorder:
    """Writes the files of a run while it trains, in either framework.

    Args:
        run: the run.
        task: the `Task` that is trained.
        save: writes the current weights to a path.
        predict: the raw outputs of the current network for a split, in inference mode.
        done: the number of epochs of the checkpoint from which a resumed run continues.
        steps_an_epoch: the number of steps in an epoch.
    """

    run: Run
    task: Any
    save: Callable[[Path], None]
    predict: Callable[[str], Array]
    done: int
    steps_an_epoch: int

    def __post_init__(self) -> None:
        self.rows = self.run.history("loss", "seconds", self.task.monitor)[: self.done]
        self.steps = self.run.steps()[: min(STEPS, self.done * self.steps_an_epoch)]
        if len(self.rows) < self.done:
            raise RunError(
                f"{self.run.folder}: the checkpoint is of epoch {self.done}, history.csv has "
                f"{len(self.rows)}"
            )

    @property
    def watched(self) -> list[float]:
        """The monitored value of every epoch."""
        return [row[self.task.monitor] for row in self.rows]

    @property
    def reason(self) -> str:
        """Why training ends now; empty if it continues."""
        task, options = self.task, self.task.options
        if self.rows and not math.isfinite(self.rows[-1]["loss"]):
            return "the training loss is no longer finite"
        full = len(self.rows) >= options.epochs
        return stopped(self.watched, options.patience, task.mode, task.monitored) or (
            f"the cap of {counted(len(self.rows), 'epoch')}" if full else ""
        )

    @property
    def wants_steps(self) -> bool:
        """Whether the loss of the next step is to be appended to `steps`."""
        return len(self.steps) < STEPS

    @property
    def is_best(self) -> bool:
        """Whether the last epoch is better than all before."""
        return best(self.watched, self.task.mode) == len(self.rows) - 1

    def end_of_epoch(self, row: Row) -> None:
        """Write the row of the epoch, and the weights and files that are due after it."""
        self.rows.append(row)
        self.run.write_history(self.rows, self.steps)
        if self.is_best:
            self.save(self.run.path("best.safetensors"))
        self.task.after_epoch(self)

    def end(self) -> None:
        """Write the files of a finished run, the configuration last."""
        self.save(self.run.path("final.safetensors"))
        self.task.at_end(self)
        self.run.config |= {"finished": True, "stopped": self.reason, "epochs": len(self.rows)}
        self.run.write_config()
