"""The task segmentation, for both frameworks."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from examples.common.batches import in_batches
from examples.common.runs import Recorder, Row, RunError
from examples.common.task import TRAIN, VALIDATION, Task
from examples.segmentation import data
from examples.segmentation.layouts import IGNORE
from examples.segmentation.metrics import MEANS, Tally
from examples.segmentation.network import build
from examples.segmentation.options import Options
from examples.segmentation.results import FORMAT, RESULT
from parity.common.arrays import Array
from parity.common.files import json_text, write_atomically

BEST = "best.json"


class Segmentation(Task):
    """One fold of a data set, and a U-Net.

    The monitored value is mean Dice over 21 thresholds on the validation images. In history.csv the
    columns `val_...` are the means over classes of `metrics.Tally.result`, and `val_loss`. A
    finished run has a result.json: the result of its best epoch.
    """

    monitor, mode, monitored = "val_mean_dice", "max", "mean Dice"
    shown = ("loss", "val_loss", "val_mean_dice")
    loss_options: ClassVar[Mapping[str, Any]] = {"ignore_index": IGNORE}

    def __init__(self, options: Options, cache: Path | None = None) -> None:
        super().__init__(options)
        samples = data.load(options.data, options.size, cache, options.classes)
        data.check_patch(samples, options.patch)
        self.samples = data.padded(samples, 2**options.depth)
        train, validation = data.folds(samples.cases, options.folds)[options.fold]
        self.parts = {TRAIN: train, VALIDATION: validation}
        self._check_masks()
        self._check_normalization(options)
        self.measured: dict[str, Any] = {}

    def _check_masks(self) -> None:
        """Something has to count on each side of the fold, for a loss and for metrics."""
        for split, part in self.parts.items():
            if (self.samples.masks[part] == IGNORE).all():
                raise RunError(
                    f"--data {self.samples.source}: every pixel of the {split} images is ignored"
                )

    def _check_normalization(self, options: Options) -> None:
        """A batch needs more than one pixel at the bottom, for batch normalization's variance."""
        sides = self.samples.images.shape[1:3]
        pixels = math.prod((options.patch or side) >> options.depth for side in sides)
        if pixels == 1 and 1 in (options.batch_size, self.counts[TRAIN] % options.batch_size):
            raise RunError(
                f"--batch-size {options.batch_size}: of {self.counts[TRAIN]} images one is a batch "
                "alone, of one pixel at the bottom of the network; wanted another --batch-size, "
                "--size or --depth"
            )

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of images on each side of the fold."""
        return {name: len(part) for name, part in self.parts.items()}

    def batch(self, split: str, indices: Array, epoch: int | None) -> tuple[Array, Array]:
        """Images (N, H, W, C) and masks (N, H, W, K), with 255 for ignored pixels."""
        options = self.options
        return data.batch(
            self.samples,
            self.parts[split][indices],
            seed=options.seed,
            epoch=epoch,
            patch=options.patch,
            augment=options.augment,
        )

    def targets(self, split: str, indices: Array) -> Array:
        """The masks without augmentation."""
        return self.samples.masks[self.parts[split][indices]].astype(np.float32)

    def network(self) -> Any:
        """A U-Net with the initial weights of the seed."""
        return build(self.options, self.samples.images.shape[-1])

    def described(self) -> dict[str, Any]:
        """The source of the images, their number, shape, and a digest of all."""
        digest = hashlib.sha256()
        for array in (self.samples.images, self.samples.masks):
            digest.update(array.tobytes())
        digest.update("\n".join(self.samples.names).encode())
        return {
            "source": self.samples.source,
            "shape": list(self.samples.images.shape[1:]),
            "dtype": str(self.samples.images.dtype),
            **self.counts,
            "sha256": digest.hexdigest(),
        }

    def learning_rate(self, rows: list[Row]) -> float:
        """The learning rate, reduced each time that some epochs had no higher mean Dice."""
        options = self.options
        rate, best, waited = options.learning_rate, -np.inf, 0
        for row in rows:
            waited = 0 if row[self.monitor] > best else waited + 1
            best = max(best, row[self.monitor])
            if waited == options.cut_patience:
                rate, waited = rate * options.cut_factor, 0
        return float(rate)

    def evaluate(self, head: Any, outputs: Array) -> dict[str, float]:
        """The loss, and the metrics of `Tally`; NaN if outputs are NaN, which ends the run."""
        if not np.isfinite(outputs).all():
            self.measured = {}
            return {f"val_{name}": math.nan for name in ("loss", *MEANS)}
        tally = Tally()
        for at in in_batches(np.arange(len(outputs)), self.options.batch_size):
            probabilities = head.probabilities(outputs[at])
            try:
                tally.update(probabilities, self.targets(VALIDATION, at))
            except ValueError as error:  # of an activation of the user's own
                raise RunError(f"--activation {self.options.activation}: {error}") from error
        self.measured = tally.result()
        found = super().evaluate(head, outputs)
        return found | {f"val_{name}": self.measured[name] for name in MEANS}

    def after_epoch(self, recorder: Recorder) -> None:
        """Keep the metrics of the best epoch."""
        if recorder.is_best:
            found = {"epoch": len(recorder.rows), "validation": self.measured}
            write_atomically(recorder.run.path(BEST), json_text(found).encode())

    def at_end(self, recorder: Recorder) -> None:
        """Write the result, whole; raises `RunError` if no epoch had one."""
        options, run = self.options, recorder.run
        if not run.path(BEST).is_file():
            raise RunError(f"{run.folder}: no result; {recorder.reason}")
        result = {
            "format": FORMAT,
            "data": self.samples.source,
            "sha256": run.config["data"]["sha256"],
            "framework": options.implementation,
            **{name: getattr(options, name) for name in ("activation", "loss", "fold", "seed")},
            "folds": options.folds,
            "epochs": len(recorder.rows),
            "stopped": recorder.reason,
            "seconds": sum(row["seconds"] for row in recorder.rows),
            **run.read_json(BEST),
        }
        write_atomically(run.path(RESULT), json_text(result).encode())
