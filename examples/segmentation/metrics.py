"""All metrics of a set of predictions, counted batch by batch.

    tally = Tally()
    for images, masks in batches:
        tally.update(probabilities(images), masks)
    result = tally.result()

The metrics of the published code: Dice at 21 thresholds, over the pixels of all images together,
its mean and its best; the negative log-likelihood, and the parts of it from false positives and
false negatives. (The published code adds up the likelihoods of classes, here they are averaged like
everything else.) As in the published code, probabilities are first clipped to [1e-7, 1 - 1e-7], and
a pixel is predicted if its probability is above the threshold, so threshold 0 predicts every pixel
and threshold 1 none, for every activation. Calibration uses the probabilities before clipping.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from examples.segmentation.layouts import IGNORE
from parity.common.arrays import Array

THRESHOLDS = tuple(i / 20 for i in range(21))
BINS = 15
"""Bins of the reliability diagram and the calibration error, of equal width; 1 is in the last."""
HISTOGRAM_BINS = 50
CLIP = 1e-7
MEANS = ("nll", "mean_dice", "best_dice", "best_threshold", "brier", "calibration_error")
"""The metrics that are averaged over the classes."""
_SLACK = 1e-6
"""A probability this far outside of [0, 1], from rounding, counts as 0 or 1."""


@dataclass
class _Class:
    """The sums of one class; the first axis is the truth, 0 or 1.

    counts, errors: pixels and their -log of the probability of the truth, by the number of
        thresholds below the probability.
    bins, bin_sums: pixels and their probabilities, by the bin of the reliability diagram.
    histogram: pixels, by the bin of the histogram.
    """

    counts: Array = field(default_factory=lambda: np.zeros((2, len(THRESHOLDS) + 1), np.int64))
    errors: Array = field(default_factory=lambda: np.zeros((2, len(THRESHOLDS) + 1)))
    bins: Array = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    bin_sums: Array = field(default_factory=lambda: np.zeros((2, BINS)))
    histogram: Array = field(default_factory=lambda: np.zeros((2, HISTOGRAM_BINS), np.int64))
    squares: float = 0.0

    def update(self, p: Array, truth: Array) -> None:
        """Add probabilities (P,), float64 in [0, 1], with their truth (P,), bool."""
        clipped = np.clip(p, CLIP, 1 - CLIP)
        likelihood = np.where(truth, clipped, 1 - clipped)
        below = np.searchsorted(THRESHOLDS, clipped)
        self.counts += _sums(below, truth, len(THRESHOLDS) + 1)
        self.errors += _sums(below, truth, len(THRESHOLDS) + 1, -np.log(likelihood))
        places = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        self.bins += _sums(places, truth, BINS)
        self.bin_sums += _sums(places, truth, BINS, p)
        places = np.minimum((p * HISTOGRAM_BINS).astype(np.intp), HISTOGRAM_BINS - 1)
        self.histogram += _sums(places, truth, HISTOGRAM_BINS)
        self.squares += float(np.square(p - truth).sum())

    def result(self) -> dict[str, Any]:
        """The numbers of `Tally.result` for one class."""
        pixels, positives = int(self.counts.sum()), int(self.counts[1].sum())
        # a probability with k thresholds below it is predicted at thresholds 0 to k - 1
        false_positives, hits = _above(self.counts[0]), _above(self.counts[1])
        misses = _below(self.counts[1])
        dice = _dice(hits, false_positives, misses)
        best = int(dice.argmax())
        count = self.bins.sum(0)
        least = np.maximum(count, 1)
        probability, positive = self.bin_sums.sum(0) / least, self.bins[1] / least
        return {
            "pixels": pixels,
            "positives": positives,
            "nll": float(self.errors.sum() / pixels),
            "dice": dice.tolist(),
            "mean_dice": float(dice.mean()),
            "best_dice": float(dice[best]),
            "best_threshold": THRESHOLDS[best],
            "false_positives": (false_positives / pixels).tolist(),
            "false_negatives": (misses / pixels).tolist(),
            "false_positive_error": (_above(self.errors[0]) / pixels).tolist(),
            "false_negative_error": (_below(self.errors[1]) / pixels).tolist(),
            "brier": self.squares / pixels,
            "calibration_error": float(np.abs(probability - positive) @ count / pixels),
            "reliability": {
                "count": count.tolist(),
                "probability": probability.tolist(),
                "positive": positive.tolist(),
            },
            "histogram": {
                "negative": self.histogram[0].tolist(),
                "positive": self.histogram[1].tolist(),
            },
        }


class Tally:
    """Counts over predictions; its size does not depend on the number of predictions.

    >>> import numpy as np
    >>> tally = Tally()
    >>> tally.update(np.array([[0.1, 0.6], [0.8, 0.9]])[None, ..., None], np.array([[[[0], [1]],
    ...     [[0], [255]]]], np.uint8))
    >>> found = tally.result()
    >>> found["classes"][0]["pixels"], round(found["brier"], 4), found["best_dice"]
    (3, 0.27, 0.6666666666666666)
    """

    def __init__(self) -> None:
        self._classes: list[_Class] = []

    def update(self, probabilities: Array, masks: Array) -> None:
        """Add a batch: both (N, H, W, K), any dtype; masks hold 0, 1 and `IGNORE`.

        Raises `ValueError`: shapes that are not the same or not those of the batches before,
        probabilities that are NaN or outside of [0, 1], other numbers in the masks.
        """
        p, y = np.asarray(probabilities), np.asarray(masks)
        if p.shape != y.shape or p.ndim != 4:
            raise ValueError(
                f"probabilities {p.shape} and masks {y.shape}; wanted both (N, H, W, K)"
            )
        if self._classes and len(self._classes) != p.shape[3]:
            raise ValueError(
                f"probabilities of {p.shape[3]} classes after batches of {len(self._classes)}"
            )
        valid, truth = y != IGNORE, y == 1
        if (valid & ~truth & (y != 0)).any():
            other = y[valid & ~truth & (y != 0)][0]
            raise ValueError(f"masks hold {other:g}; wanted 0, 1 and {IGNORE} for what to ignore")
        wrong = valid & ~((p >= -_SLACK) & (p <= 1 + _SLACK))
        if wrong.any():
            raise ValueError(
                f"{wrong.sum():,} of {valid.sum():,} probabilities are not in [0, 1], "
                f"such as {p[wrong][0]:g}"
            )
        self._classes = self._classes or [_Class() for _ in range(p.shape[3])]
        for k, one in enumerate(self._classes):
            mine = valid[..., k]
            values = np.clip(p[..., k][mine].astype(np.float64), 0, 1)
            one.update(values, truth[..., k][mine])

    def result(self) -> dict[str, Any]:
        """All metrics, for each class and as means over classes, for a JSON file.

            pixels, positives       the pixels that count, and those of them that are 1
            nll                     mean of -log of the probability of the truth
            dice                    at each of `THRESHOLDS`; 1 if there are no positives and none
                                    are predicted, as in `segact_torch.dice`
            mean_dice, best_dice, best_threshold    of these; the lowest threshold of equal ones
            false_positives, false_negatives        shares of all pixels, at each threshold
            false_positive_error, false_negative_error      the part of `nll` from them
            brier                   mean of (probability - truth)^2
            calibration_error       mean over the pixels of the gap between mean probability and
                                    share of positives of their bin
            reliability             `BINS` bins: count, mean probability, share of positives (both 0
                                    in an empty one)
            histogram               pixels by probability, in `HISTOGRAM_BINS` bins, by truth

        Raises `ValueError` if a class has no pixels.
        """
        if not self._classes:
            raise ValueError("no predictions")
        for k, one in enumerate(self._classes):
            if not one.counts.any():
                raise ValueError(f"class {k}: every pixel is ignored")
        classes = [one.result() for one in self._classes]
        means = {name: float(np.mean([one[name] for one in classes])) for name in MEANS}
        return {"classes": classes, **means}


def _sums(places: Array, truth: Array, size: int, weights: Array | None = None) -> Array:
    """Counts, or sums of weights, by truth and bin, (2, size)."""
    return np.bincount(places + size * truth, weights, 2 * size).reshape(2, size)


def _above(sums: Array) -> Array:
    """Sums above each threshold, (21,), from sums by the number of thresholds below, (22,)."""
    return np.cumsum(sums[:0:-1])[::-1]


def _below(sums: Array) -> Array:
    """Sums of what is not above each threshold, (21,)."""
    return np.cumsum(sums)[:-1]


def _dice(hits: Array, false_positives: Array, misses: Array) -> Array:
    """2 TP / (2 TP + FP + FN), 1 for 0 / 0."""
    whole = 2 * hits + false_positives + misses
    return np.where(whole > 0, 2 * hits / np.maximum(whole, 1), 1.0)
