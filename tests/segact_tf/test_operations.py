"""What the losses cost on the torch backend, which runs each operation by itself."""

import sys
from pathlib import Path

import pytest

keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("the torch backend alone runs eagerly", allow_module_level=True)

import torch  # noqa: E402

import segact_tf  # noqa: E402
from segact_tf import _compact  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not installed
counts = pytest.importorskip("benchmarks.counts", reason="needs a source checkout")

SHAPE = (4, 64, 64, 1)


def count(loss, *args, **options):
    """The names of the operations, forward and backward."""
    x = torch.linspace(-6, 6, 4 * 64 * 64).reshape(SHAPE).requires_grad_()
    y = (torch.arange(x.numel()).reshape(SHAPE) % 3 == 0).float()
    return counts.count(lambda x, y: loss(y, x, *args, **options).sum(), x, y).names


WEIGHT = torch.linspace(0, 1, 4 * 64 * 64).reshape(SHAPE)
OPTIONS = {
    "": {},
    "weight": {"sample_weight": WEIGHT},
    "mask": {"mask": WEIGHT > 0.5},
    "pos_weight": {"pos_weight": torch.tensor([2.0])},
    "each": {"axis": ()},
}
LOSSES = {
    "cross entropy": segact_tf.binary_cross_entropy,
    "squared error": segact_tf.mean_squared_error,
    "focal": segact_tf.binary_focal_cross_entropy,
    "Dice": segact_tf.dice,
}
# By loss and option: the most that the four with a short tail may take, and the normal CDF.
GOALS = {
    ("cross entropy", ""): (37, 105),
    ("cross entropy", "weight"): (52, None),
    ("cross entropy", "mask"): (52, None),
    ("cross entropy", "pos_weight"): (52, None),
    ("cross entropy", "each"): (52, None),
    ("squared error", ""): (52, 120),
    ("focal", ""): (53, 120),
    ("Dice", ""): (45, 90),
    ("Dice", "weight"): (57, None),
}
# What they take, in the order of ACTIVATIONS.
LIMITS = {
    ("cross entropy", ""): (23, 34, 26, 35, 92),
    ("cross entropy", "weight"): (31, 42, 34, 43, 100),
    ("cross entropy", "mask"): (36, 47, 39, 48, 105),
    ("cross entropy", "pos_weight"): (30, 41, 33, 42, 99),
    ("cross entropy", "each"): (21, 32, 24, 33, 90),
    ("squared error", ""): (23, 23, 21, 27, 76),
    ("focal", ""): (38, 48, 41, 50, 103),
    ("Dice", ""): (32, 32, 30, 36, 85),
    ("Dice", "weight"): (39, 39, 37, 43, 92),
}
ACTIVATIONS = ["sigmoid", "arctan", "softsign", "inverse_square_root", "normal_cdf"]


def names_of(loss, option, activation):
    options = dict(OPTIONS[option])
    if loss != "Dice":
        options.setdefault("axis", None)
    return count(LOSSES[loss], activation, validate=False, **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("loss", "option"), GOALS)
def test_operations_are_few(loss, option, activation):
    names = names_of(loss, option, activation)
    print(f"{loss}, {option}, {activation}: {len(names)}")
    limit = LIMITS[loss, option][ACTIVATIONS.index(activation)]
    goal = GOALS[loss, option][activation == "normal_cdf"]
    assert goal is None or limit <= goal
    assert len(names) <= limit, names


@pytest.mark.parametrize("activation", ["sigmoid", "arctan", "softsign", "normal_cdf"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_formulas_take_more(loss, activation, monkeypatch):
    """What the compact way saves."""
    few = len(names_of(loss, "", activation))
    monkeypatch.setattr(_compact, "serves", lambda batch: False)
    many = len(names_of(loss, "", activation))
    print(f"formula of {loss}, {activation}: {many}")
    assert many >= 1.5 * few


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_number_is_copied_to_a_device(loss, activation, monkeypatch):
    """By us: on a GPU the host waits for `torch.tensor`, and a CUDA graph cannot hold it."""
    monkeypatch.setattr(torch, "tensor", None)
    assert names_of(loss, "", activation)
