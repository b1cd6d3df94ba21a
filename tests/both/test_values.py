"""What the values of a batch may be: targets beyond [0, 1], groups left out, outputs in [0, 1]."""

import math
import warnings
from pathlib import Path

import batches
import numpy as np
import pytest
from batches import gradient, value
from names import LOSSES, OVERLAP

SHAPE = (4, 2, 3, 5)


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=OVERLAP)
def overlap(request):
    return request.param


def batch(rng):
    return batches.batch(rng, SHAPE, "float32")


# --- groups that are left out


def left_out(ns, rng, how):
    """Four samples of which the second and the last have nothing that counts."""
    x, y = batch(rng)
    if how == "ignore_index":
        y[[1, 3]] = 255
        return x, y, {"ignore_index": 255}
    mask = np.ones(SHAPE, "float32")
    mask[[1, 3]] = 0
    return x, y, {"mask": ns.array(mask)}


@pytest.mark.parametrize(("how", "channel_axis"), [("ignore_index", None), ("mask", 1)])
def test_groups_that_are_left_out_do_not_count(ns, overlap, how, channel_axis, rng):
    x, y, options = left_out(ns, rng, how)
    groups = {"per_sample": True, "channel_axis": channel_axis}
    kept = value(ns, overlap, x[[0, 2]], y[[0, 2]], **groups)
    got, grad = gradient(ns, overlap, x, y, **groups, **options)
    assert got == pytest.approx(kept, rel=1e-6)
    _, expected = gradient(ns, overlap, x[[0, 2]], y[[0, 2]], **groups)
    np.testing.assert_allclose(grad[[0, 2]], expected, rtol=1e-5, atol=1e-9)
    assert not grad[[1, 3]].any()


def test_a_group_that_is_left_out_has_a_loss_of_zero(ns, overlap, rng):
    x, y, options = left_out(ns, rng, "ignore_index")
    each = ns.numpy(ns.groups(overlap, ns.array(y), ns.array(x), per_sample=True, **options))
    assert each.shape == (4,)
    assert not each[[1, 3]].any()
    assert each[[0, 2]].all()


def test_no_group_at_all(ns, overlap, rng):
    x, y = batch(rng)
    for groups in ({}, {"per_sample": True}, {"channel_axis": 1}):
        got, grad = gradient(ns, overlap, x, y * 0 + 255, ignore_index=255, **groups)
        assert got == 0
        assert not grad.any()


def test_a_weight_of_zero_counts(ns, overlap, rng):
    """It is a weight, and leaves nothing out."""
    x, y = batch(rng)
    w = np.ones((4, 1, 1, 1), "float32")
    w[1] = 0
    each = ns.numpy(ns.groups(overlap, ns.array(y), ns.array(x), per_sample=True))
    got = value(ns, overlap, x, y, weight=ns.array(w), per_sample=True)
    assert got == pytest.approx((each[0] + each[2] + each[3]) / 4, rel=1e-6)


def test_cross_entropy_alone_is_that_of_the_annotated(ns, rng):
    x, y, options = left_out(ns, rng, "ignore_index")
    alone = value(ns, "dice_cross_entropy", x, y, lambda_dice=0, per_sample=True, **options)
    assert alone == pytest.approx(value(ns, "binary_cross_entropy", x, y, **options), rel=1e-6)


def test_the_classes_leave_groups_out(ns, overlap, rng):
    x, y, options = left_out(ns, rng, "ignore_index")
    loss = ns.loss_class(ns.classes[overlap], per_sample=True, **options)
    expected = value(ns, overlap, x[[0, 2]], y[[0, 2]], per_sample=True)
    assert float(loss(ns.array(y), ns.array(x))) == pytest.approx(expected, rel=1e-6)
    loss = ns.loss_class(ns.classes[overlap], per_sample=True, reduction="sum", **options)
    assert float(loss(ns.array(y), ns.array(x))) == pytest.approx(2 * expected, rel=1e-6)


# --- targets a little beyond [0, 1], and far


@pytest.mark.parametrize(("beyond", "weighted"), [(2e-7, False), (1e-6, True)])
def test_targets_of_an_interpolation_are_clamped(ns, loss, beyond, weighted, rng):
    x, y = batch(rng)
    x.flat[:2] = [-90.0, 90.0]  # where a weight of 1e-7 would be seen
    y.flat[:2] = [0.0, 1.0]
    slack = np.float32(beyond)
    near = np.where(y == 1, np.nextafter(1 + slack, np.float32(0)), -slack).astype("float32")
    assert near.min() < 0
    assert near.max() > 1
    options = {"weight": ns.array(np.full(SHAPE, 0.5, "float32"))} if weighted else {}
    for activation in [None] if loss == "lovasz_hinge" else ["normal_cdf", "linear"]:
        name = {} if activation is None else {"activation": activation}
        got, grad = gradient(ns, loss, x, near, **name, **options)
        expected, slope = gradient(ns, loss, x, y, **name, **options)
        assert got == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(grad, slope, rtol=1e-6, atol=1e-7 * np.abs(slope).max())


@pytest.mark.parametrize("wrong", [-2e-6, 1 + 2e-6, 255.0, math.nan])
def test_targets_further_out_are_refused(ns, loss, wrong, rng):
    x, y = batch(rng)
    y.flat[3] = wrong
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got values from"):
        value(ns, loss, x, y)


# --- raw outputs that look like probabilities


@pytest.fixture
def unseen(ns):
    """As in a process in which no loss has been called."""
    import importlib

    looked = importlib.import_module(f"{ns.package.__name__}._batch")._CHECKED
    before = {*looked}
    looked.clear()
    yield
    looked.clear()
    looked.update(before)


def warnings_of(ns, call):
    """What is said, each at a line of these tests: not inside of the package, or of a framework."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    told = [w for w in caught if w.category is ns.package.ActivatedInputWarning]
    assert all(Path(__file__).parents[1] in Path(w.filename).parents for w in told)
    return [str(w.message) for w in told]


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("activation", ["sigmoid", "normal_cdf", "arctan"])
def test_probabilities_for_raw_outputs_are_warned_of_once(ns, loss, activation, rng):
    p, y = rng.random(SHAPE).astype("float32"), batch(rng)[1]
    name = {} if loss == "lovasz_hinge" else {"activation": activation}
    function = lambda: value(ns, loss, p, y, **name)  # noqa: E731
    assert len(warnings_of(ns, function)) == 1
    assert warnings_of(ns, function) == []
    module = ns.loss_class(ns.classes[loss], **name)
    message = warnings_of(ns, lambda: module(ns.array(y), ns.array(p)))
    assert len(message) == 1
    assert "lies in [0, 1], from 0.0" in message[0]
    assert "from_logits=False" in message[0]
    assert warnings_of(ns, lambda: module(ns.array(y), ns.array(p))) == []


@pytest.mark.usefixtures("unseen")
def test_what_may_be_raw_outputs_is_not_warned_of(ns, loss, rng):
    x, y = batch(rng)
    p = rng.random(SHAPE).astype("float32")
    calls = [lambda: value(ns, loss, x, y), lambda: value(ns, loss, y * 0, y)]
    if loss != "lovasz_hinge":
        calls += [
            *(lambda a=a: value(ns, loss, p, y, a) for a in ("hardtanh", "linear")),
            lambda: value(ns, loss, p, y, from_logits=False),
        ]
    for call in calls:
        assert warnings_of(ns, call) == []


@pytest.mark.usefixtures("unseen")
def test_outputs_of_zeros_and_ones_are_looked_at_again(ns, rng):
    """A net may begin with outputs of 0: that tells nothing of what comes."""
    p, y = rng.random(SHAPE).astype("float32"), batch(rng)[1]
    assert warnings_of(ns, lambda: value(ns, "dice", y, y)) == []
    assert len(warnings_of(ns, lambda: value(ns, "dice", p, y))) == 1
