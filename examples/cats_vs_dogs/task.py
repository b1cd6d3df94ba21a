"""The task cats against dogs, for both frameworks.

For training samples the columns of history.csv are from the raw outputs that the loss got: with
dropout, and while the weights change. For validation samples they are from the weights at the end
of the epoch.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from examples.cats_vs_dogs import data
from examples.cats_vs_dogs.network import build
from examples.cats_vs_dogs.options import Options
from examples.common.batches import as_input
from examples.common.runs import Recorder, Row
from examples.common.task import Measure, Task
from parity.common.arrays import Array

Splits = Mapping[str, data.Split]


def load(options: Options, cache: Path | None = None) -> Splits:
    """The images of both splits, by name."""
    return dict(zip(data.SPLITS, data.load(options.folder, options.size, cache), strict=True))


def _right(head: Any, raw: Any, labels: Any) -> Any:
    return head.xp.where(head.wrong(raw, labels), 0.0, 1.0)


def _clipped(head: Any, raw: Any, labels: Any) -> Any:
    return head.xp.sum(head.clipped(raw))


def _clipped_wrong(head: Any, raw: Any, labels: Any) -> Any:
    return head.xp.sum(head.xp.logical_and(head.clipped(raw), head.wrong(raw, labels)))


def _least(label: int) -> Measure:
    def least(head: Any, raw: Any, labels: Any) -> Any:
        return head.xp.min(head.xp.where(labels == label, raw, math.inf))

    return least


def _most(label: int) -> Measure:
    def most(head: Any, raw: Any, labels: Any) -> Any:
        return head.xp.max(head.xp.where(labels == label, raw, -math.inf))

    return most


class CatsVsDogs(Task):
    """The images of a folder, or drawn ones, and the network of the options."""

    measures: ClassVar[Mapping[str, tuple[str, Measure]]] = {
        "accuracy": ("mean", _right),
        "clipped": ("sum", _clipped),
        "clipped_wrong": ("sum", _clipped_wrong),
        "cat_min": ("min", _least(0)),
        "cat_max": ("max", _most(0)),
        "dog_min": ("min", _least(1)),
        "dog_max": ("max", _most(1)),
    }
    shown = ("loss", "accuracy", "val_loss", "val_accuracy")

    def __init__(self, options: Options, cache: Path | None = None) -> None:
        super().__init__(options)
        self.splits = load(options, cache)
        self.frozen = () if options.model == "convnet" else ("base",)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many images each split has."""
        return {name: len(split.names) for name, split in self.splits.items()}

    def batch(self, split: str, indices: Array, epoch: int | None) -> tuple[Array, Array]:
        """Images (N, H, W, 3) and labels (N, 1); never augmented."""
        return as_input(self.splits[split].images[indices]), self.targets(split, indices)

    def targets(self, split: str, indices: Array) -> Array:
        """Labels (N, 1)."""
        return self.splits[split].labels[indices].astype(np.float32)[:, None]

    def network(self) -> Any:
        """The network, with the initial weights of the seed."""
        return build(self.options)

    def described(self) -> dict[str, Any]:
        """Whether the images are drawn, their number, and a digest of all."""
        digest = hashlib.sha256()
        for split in self.splits.values():
            for part in (split.images.tobytes(), split.labels.tobytes(), "\n".join(split.names)):
                digest.update(part.encode() if isinstance(part, str) else part)
        drawn = self.options.folder is None
        return {"synthetic": drawn, **self.counts, "sha256": digest.hexdigest()}

    def row(self, epoch: int, logs: Mapping[str, Any], seconds: float) -> Row:
        """The row of an epoch, with counts as whole numbers."""
        found = super().row(epoch, logs, seconds)
        return {name: int(v) if "clipped" in name else v for name, v in found.items()}

    def after_epoch(self, recorder: Recorder) -> None:
        """Write weights and raw outputs of the epoch that the options name."""
        epoch = self.options.checkpoint_epoch
        if len(recorder.rows) == epoch:
            recorder.save(recorder.run.path(f"epoch_{epoch}.safetensors"))
            self._write_outputs(recorder, f"epoch_{epoch}")

    def at_end(self, recorder: Recorder) -> None:
        """Write the raw outputs of full training."""
        self._write_outputs(recorder, "full")

    def _write_outputs(self, recorder: Recorder, when: str) -> None:
        arrays = {}
        for name, split in self.splits.items():
            arrays[f"{name}_raw"] = recorder.predict(name)[:, 0]
            arrays[f"{name}_labels"] = np.asarray(split.labels)
            arrays[f"{name}_names"] = np.array(split.names)
        recorder.run.write_outputs(when, arrays)
