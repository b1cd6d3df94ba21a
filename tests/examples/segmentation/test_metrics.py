"""`Tally`: against threshold by threshold, by hand, and against torchmetrics."""

import json
import math
import time

import numpy as np
import pytest

from examples.segmentation.metrics import BINS, MEANS, THRESHOLDS, Tally
from parity.common.arrays import Array


def predictions(shape: tuple[int, ...] = (12, 9, 7, 2)) -> tuple[Array, Array]:
    """Probabilities with exact 0, 1 and thresholds among them, and masks with all three values."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.4, 0.6, shape).astype(np.float32)
    y = (rng.random(shape) < 0.2 + 0.6 * p).astype(np.uint8)
    flat, chosen = p.reshape(-1), rng.permutation(p.size)[: p.size // 4]
    flat[chosen] = rng.choice(np.array([0, 1, *THRESHOLDS], np.float32), len(chosen))
    y[rng.random(shape) < 0.1] = 255
    return p, y


def tallied(p: Array, y: Array) -> dict:
    tally = Tally()
    tally.update(p, y)
    return tally.result()


def test_every_threshold_on_its_own() -> None:
    p, y = predictions()
    for k, found in enumerate(tallied(p, y)["classes"]):
        valid = y[..., k] != 255
        truth = y[..., k][valid] == 1
        mine = p[..., k][valid].astype(np.float64)
        clipped = np.clip(mine, 1e-7, 1 - 1e-7)
        error = np.where(truth, -np.log(clipped), -np.log(1 - clipped))
        assert (found["pixels"], found["positives"]) == (valid.sum(), truth.sum())
        assert found["nll"] == pytest.approx(error.mean(), rel=1e-12)
        assert found["brier"] == pytest.approx(np.mean((mine - truth) ** 2), rel=1e-12)
        for i, threshold in enumerate(THRESHOLDS):
            predicted = clipped > threshold
            false, missed = predicted & ~truth, ~predicted & truth
            dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
            assert found["dice"][i] == pytest.approx(dice, rel=1e-12)
            assert found["false_positives"][i] == pytest.approx(false.mean(), rel=1e-12)
            assert found["false_negatives"][i] == pytest.approx(missed.mean(), rel=1e-12)
            ours = found["false_positive_error"][i], found["false_negative_error"][i]
            theirs = (error * false).mean(), (error * missed).mean()
            assert ours == pytest.approx(theirs, rel=1e-12)
        assert found["mean_dice"] == pytest.approx(np.mean(found["dice"]), rel=1e-12)
        assert found["best_dice"] == max(found["dice"])
        assert found["best_threshold"] == THRESHOLDS[found["dice"].index(found["best_dice"])]


def test_by_hand() -> None:
    p = np.array([0.0, 0.03, 0.5, 0.91, 1.0, 0.7], np.float32).reshape(1, 2, 3, 1)
    y = np.array([0, 1, 1, 1, 0, 255], np.uint8).reshape(p.shape)
    (found,) = tallied(p, y)["classes"]
    assert found["dice"][0] == 6 / 8  # threshold 0 predicts all, 0 too
    assert found["dice"][1] == 4 / 6  # 0.03 is below 0.05
    assert found["dice"][10] == 2 / 5  # 0.5 is not above 0.5
    assert found["dice"][9] == 4 / 6
    assert found["dice"][20] == 0  # nothing is above 1
    assert (found["best_dice"], found["best_threshold"]) == (6 / 8, 0)
    assert found["false_negatives"][10] == 2 / 5
    assert found["false_positives"][10] == 1 / 5
    assert found["false_positive_error"][19] == pytest.approx(-math.log(1e-7) / 5, rel=1e-8)
    assert found["nll"] * 5 == pytest.approx(
        -math.log(0.03) - math.log(0.5) - math.log(0.91) - math.log(1e-7), rel=1e-7
    )
    assert found["histogram"]["negative"][0] == 1
    assert found["histogram"]["negative"][49] == 1  # the bin of 1
    assert np.flatnonzero(found["histogram"]["positive"]).tolist() == [1, 25, 45]
    assert found["reliability"]["count"][BINS - 1] == 1
    assert sum(found["reliability"]["count"]) == sum(found["histogram"]["positive"]) + 2 == 5


def test_batches_add_up_and_classes_are_averaged() -> None:
    p, y = predictions()
    tally = Tally()
    for start in range(0, len(p), 5):
        tally.update(p[start : start + 5], y[start : start + 5].astype(np.float32))
    whole, parts = tallied(p, y), tally.result()
    assert parts["classes"][1]["dice"] == whole["classes"][1]["dice"]
    assert parts["classes"][0]["histogram"] == whole["classes"][0]["histogram"]
    for name in MEANS:
        assert parts[name] == pytest.approx(whole[name], rel=1e-12)
        alone = [tallied(p[..., k : k + 1], y[..., k : k + 1])[name] for k in range(2)]
        assert whole[name] == pytest.approx(sum(alone) / 2, rel=1e-12)
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


def test_what_is_ignored_counts_nowhere() -> None:
    p, y = predictions()
    other = np.where(y == 255, np.float32(np.nan), p)
    assert tallied(other, y) == tallied(p, y)


@pytest.mark.needs("torch")
def test_dice_without_positives_is_that_of_segact() -> None:
    import torch

    import segact_torch

    y = np.zeros((1, 2, 2, 1), np.uint8)
    p = np.full(y.shape, 0.33, np.float32)
    found = tallied(p, y)["classes"][0]["dice"]
    for dice, threshold in zip(found, THRESHOLDS, strict=True):
        predicted = torch.from_numpy((p > threshold).astype(np.float32))
        loss = segact_torch.dice(predicted, torch.from_numpy(y).float(), from_logits=False)
        assert dice == 1 - loss.item()
    assert found[0] == 0
    assert found[-1] == 1


@pytest.mark.needs("torch", "torchmetrics")
def test_the_same_as_torchmetrics() -> None:
    import torch
    from torchmetrics.functional import classification as theirs

    p, y = predictions()
    p = np.where(p == 1, np.float32(0.999), p)  # torchmetrics has a sixteenth bin, for 1
    found = tallied(p, y)["classes"][0]
    valid = y[..., 0] != 255
    predicted = torch.from_numpy(p[..., 0][valid])
    truth = torch.from_numpy(y[..., 0][valid]).int()
    error = theirs.binary_calibration_error(predicted.double(), truth, n_bins=BINS)
    assert found["calibration_error"] == pytest.approx(error.item(), abs=1e-7)
    for i in (1, 9, 13, 19):
        dice = theirs.binary_f1_score(predicted.double(), truth, threshold=THRESHOLDS[i])
        assert found["dice"][i] == pytest.approx(dice.item(), abs=1e-6)


def test_calibration_of_bins() -> None:
    p = np.array([0.02, 0.04, 0.5, 0.5, 0.52]).reshape(1, 1, 5, 1)
    y = np.array([0, 1, 1, 1, 0]).reshape(p.shape)
    (found,) = tallied(p, y)["classes"]
    assert np.flatnonzero(found["reliability"]["count"]).tolist() == [0, 7]
    assert found["reliability"]["probability"][7] == pytest.approx(1.52 / 3)
    assert found["reliability"]["positive"][7] == pytest.approx(2 / 3)
    assert found["calibration_error"] == pytest.approx((0.94 + 0.48) / 5)


def test_a_validation_set_of_nuclei_is_quick() -> None:
    p, y = predictions((134, 96, 96, 1))
    since = time.process_time()
    tallied(p, y)
    assert time.process_time() - since < 1  # 0.15 s on an idle machine


@pytest.mark.parametrize(
    ("p", "y", "words"),
    [
        (np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 3, 1)), r"\(1, 2, 2, 1\) and masks \(1, 2, 3, 1"),
        (np.zeros((2, 2, 1)), np.zeros((2, 2, 1)), r"wanted both \(N, H, W, K\)"),
        (np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), "of 2 classes after batches of 1"),
        (np.zeros((1, 1, 2, 1)), np.full((1, 1, 2, 1), 2), "masks hold 2; wanted 0, 1 and 255"),
        (np.full((1, 1, 2, 1), np.nan), np.zeros((1, 1, 2, 1)), r"2 of 2 .* not in .* as nan"),
        (np.full((1, 1, 2, 1), 1.01), np.zeros((1, 1, 2, 1)), "such as 1.01"),
    ],
)
def test_what_cannot_be_counted(p: Array, y: Array, words: str) -> None:
    tally = Tally()
    tally.update(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1)))
    before = tally.result()
    with pytest.raises(ValueError, match=words):
        tally.update(p, y)
    assert tally.result() == before


def test_nothing_to_count() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        Tally().result()
    p = np.zeros((1, 1, 1, 2))
    with pytest.raises(ValueError, match="class 1: every pixel is ignored"):
        tallied(p, np.array([0, 255]).reshape(p.shape))


def test_rounding_beyond_the_ends_is_forgiven() -> None:
    p = np.array([-1e-7, 1 + 1e-7]).reshape(1, 1, 2, 1)
    y = np.array([0, 1]).reshape(p.shape)
    assert tallied(p, y) == tallied(np.clip(p, 0, 1), y)
