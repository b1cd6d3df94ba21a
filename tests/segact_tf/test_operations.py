"""What the losses cost on the torch backend, which runs each operation by itself."""

import pytest

keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("the torch backend alone runs eagerly", allow_module_level=True)

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

import segact_tf  # noqa: E402
from segact_tf import _compact  # noqa: E402

SHAPE = (4, 64, 64, 1)
# They make room, and move nothing.
ROOM = {"empty", "empty_like", "new_empty", "detach", "_unsafe_view"}


class Counter(TorchDispatchMode):
    """Counts the operations on at least half of the elements."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.names = elements, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = (t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
        large = any(2 * t.numel() >= self.elements for t in tensors)
        if large and not func.is_view and func.overloadpacket.__name__ not in ROOM:
            self.names.append(func.overloadpacket.__name__)
        return out


def count(loss, *args, **options):
    """The names of the operations, forward and backward."""
    x = torch.linspace(-6, 6, 4 * 64 * 64).reshape(SHAPE).requires_grad_()
    y = (torch.arange(x.numel()).reshape(SHAPE) % 3 == 0).float()
    loss(y, x, *args, **options)  # the first outputs are looked at
    with Counter(x.numel()) as counter:
        loss(y, x, *args, **options).sum().backward()
    return counter.names


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
    ("cross entropy", ""): (25, 36, 28, 37, 98),
    ("cross entropy", "weight"): (35, 46, 38, 47, 108),
    ("cross entropy", "mask"): (40, 51, 43, 52, 113),
    ("cross entropy", "pos_weight"): (29, 40, 32, 41, 102),
    ("cross entropy", "each"): (23, 34, 26, 35, 96),
    ("squared error", ""): (24, 24, 22, 28, 79),
    ("focal", ""): (41, 51, 44, 53, 112),
    ("Dice", ""): (34, 35, 33, 39, 90),
    ("Dice", "weight"): (41, 42, 40, 46, 97),
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
