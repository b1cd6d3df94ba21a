"""What is trained, defined once for both frameworks: `Task`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from examples.common.batches import in_batches
from examples.common.runs import Recorder, Row, RunError
from parity.common.arrays import Array

Measure = Callable[[Any, Any, Any], Any]
"""Metrics, from a head and the raw outputs and targets of a batch."""
TRAIN, VALIDATION = "train", "validation"
_START = {"sum": 0.0, "min": math.inf, "max": -math.inf}


class Task(ABC):
    """The data, the network and the metrics.

    Arrays are NumPy arrays, float32, channels last: inputs (N, H, W, C), targets and raw outputs
    (N, ...). Only the tensors within PyTorch's network have the channels first.
    """

    monitor: ClassVar[str] = "loss"
    """The monitored column of history.csv,"""
    mode: ClassVar[str] = "min"
    """whether larger values of it are better,"""
    monitored: ClassVar[str] = "training loss"
    """and its name in words."""
    measures: ClassVar[Mapping[str, tuple[str, Measure]]] = {}
    """By column: how the batches of an epoch are combined (`mean` of the samples, `sum`, `min`,
    `max`), and that of one batch."""
    shown: ClassVar[tuple[str, ...]] = ("loss", "val_loss")
    """The columns that progress bars show."""
    loss_options: ClassVar[Mapping[str, Any]] = {}
    """Parameters of the loss, in addition to the activation."""
    frozen: tuple[str, ...] = ()
    """Parts of PyTorch's network that are frozen; in Keras the layers are marked."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """The number of samples in the splits `train` and `validation`."""

    @abstractmethod
    def batch(self, split: str, indices: Array, epoch: int | None) -> tuple[Array, Array]:
        """Inputs and targets; without augmentation if `epoch` is None."""

    @abstractmethod
    def targets(self, split: str, indices: Array) -> Array:
        """Only the targets, without augmentation."""

    @abstractmethod
    def network(self) -> Any:
        """The network in the run's framework, with its initial weights."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """The description of the data in a run's configuration."""

    def check_devices(self, even: bool = False) -> None:
        """Each device needs a sample of every batch; `even`: the same number as every other.

        Raises `RunError`.
        """
        options, count = self.options, self.counts[TRAIN]
        for size in (options.batch_size, count % options.batch_size):
            if 0 < size < options.devices or (even and size % options.devices):
                wanted = f"a multiple of {options.devices}" if even else f">= {options.devices}"
                raise RunError(
                    f"--batch-size {options.batch_size}: of {count} samples a batch has {size}, "
                    f"for --devices {options.devices}; wanted {wanted}"
                )

    def learning_rate(self, rows: list[Row]) -> float:
        """The learning rate of the next epoch, after these epochs."""
        return float(self.options.learning_rate)

    def evaluate(self, head: Any, outputs: Array) -> dict[str, float]:
        """The columns of an epoch that begin with `val_`, from the raw outputs of all samples."""
        found = {name: _START.get(how, 0.0) for name, (how, _) in self.measures.items()}
        loss, count = 0.0, len(outputs)
        for at in in_batches(np.arange(count), self.options.batch_size):
            raw = head.tensor(outputs[at])
            targets = head.tensor(self.targets(VALIDATION, at))
            loss += float(head.loss_of(raw, targets)) * len(at) / count
            for name, (how, measure) in self.measures.items():
                value = head.array(measure(head, raw, targets))
                joined = float(value.sum() / count if how == "mean" else value)
                found[name] = {"min": min, "max": max}.get(how, _add)(found[name], joined)
        return {f"val_{name}": value for name, value in ({"loss": loss} | found).items()}

    def row(self, epoch: int, logs: Mapping[str, Any], seconds: float) -> Row:
        """The row of history.csv of an epoch, counted from 1."""
        columns = ("loss", *self.measures)
        found: Row = {"epoch": epoch, **{name: float(logs[name]) for name in columns}}
        found |= {name: float(value) for name, value in logs.items() if name.startswith("val_")}
        return found | {"learning_rate": float(logs["learning_rate"]), "seconds": round(seconds, 3)}

    @abstractmethod
    def after_epoch(self, recorder: Recorder) -> None:
        """Write the files of the epoch that has just ended."""

    @abstractmethod
    def at_end(self, recorder: Recorder) -> None:
        """Write the files of a finished run, other than its weights."""


def _add(one: float, other: float) -> float:
    return one + other
