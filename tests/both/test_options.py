"""The options of the losses: weights, what is left out, smoothing, and groups."""

import importlib
import math
import re
from functools import partial

import batches
import numpy as np
import pytest
from batches import gradient, value
from names import ELEMENTWISE, LOSSES, OVERLAP, RATIOS

SHAPE = (3, 2, 4, 5)


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=OVERLAP)
def overlap(request):
    return request.param


def batch(rng, shape=SHAPE, dtype="float64"):
    return batches.batch(rng, shape, dtype)


# --- weights


def test_a_weight_of_two_is_an_element_twice(ns, loss, rng):
    """In the sums of an overlap; a mean still divides by the number of elements."""
    x, y = batch(rng)
    w = rng.integers(0, 4, SHAPE)
    several = [np.repeat(a.ravel(), w.ravel()) for a in (x, y)]
    weighted = value(ns, loss, x, y, weight=ns.array(w))
    repeated = value(ns, loss, *several)
    if loss in ELEMENTWISE:
        repeated *= w.sum() / w.size
    if loss == "dice_cross_entropy":
        entropy = value(ns, "binary_cross_entropy", *several)
        repeated += entropy * (w.sum() / w.size - 1)
    assert weighted == pytest.approx(repeated, rel=1e-12)


def test_a_factor_of_all_weights_cancels(ns, overlap, rng):
    """Weights that float32 cannot hold: the sums of them are in float64."""
    if overlap == "dice_cross_entropy":
        pytest.skip("its cross entropy is multiplied")
    x, y = batch(rng)
    w = rng.integers(1, 9, SHAPE)
    whole, tenth = (value(ns, overlap, x, y, weight=ns.array(w * f)) for f in (1, 0.1))
    assert tenth == pytest.approx(whole, rel=1e-13)


def test_weights_of_samples(ns, loss, rng):
    x, y = batch(rng)
    w = np.array([0.5, 0.0, 2.0]).reshape(3, 1, 1, 1)
    whole = np.broadcast_to(w, SHAPE).copy()
    assert value(ns, loss, x, y, weight=ns.array(w)) == pytest.approx(
        value(ns, loss, x, y, weight=ns.array(whole)), rel=1e-14
    )


def test_a_weight_of_zero_silences_anything(ns, loss, rng):
    """NaN and infinity included, in value and gradient."""
    x, y = batch(rng)
    w = np.ones(SHAPE)
    for i, junk in enumerate((np.nan, np.inf, -np.inf)):
        x[i, 0, 0, 0], w[i, 0, 0, 0] = junk, 0
    result, grad = gradient(ns, loss, x, y, weight=ns.array(w))
    quiet = np.where(w > 0, x, 0.0)
    assert result == value(ns, loss, quiet, y, weight=ns.array(w))
    np.testing.assert_array_equal(grad[w == 0], 0)
    assert np.isfinite(grad).all()


def test_bad_weights(ns, rng):
    x, y = (ns.array(a) for a in batch(rng))
    for shape in ((3,), (4, 5), (3, 2, 4, 4)):
        with pytest.raises(ValueError, match=r"weight must have the rank of .* got \w*weight \("):
            ns.mean("dice", y, x, weight=ns.array(np.ones(shape)))
    with pytest.raises(ValueError, match=r"weight must be >= 0 and finite, got values from -1"):
        ns.mean("dice", y, x, weight=ns.array(-np.ones(SHAPE)))


def test_pos_weight(ns, rng):
    x, y = batch(rng)
    each = ns.numpy(ns.elementwise("binary_cross_entropy", ns.array(y), ns.array(x), "arctan"))
    per_channel = np.array([3.0, 0.5])
    for pos_weight, factor in (
        (2.5, np.where(y > 0, 2.5, 1)),
        (
            ns.array(per_channel.reshape(2, 1, 1)),
            np.where(y > 0, per_channel[None, :, None, None], 1),
        ),
    ):
        assert value(
            ns, "binary_cross_entropy", x, y, "arctan", pos_weight=pos_weight
        ) == pytest.approx(np.mean(factor * each), rel=1e-13)
    with pytest.raises(ValueError, match=r"pos_weight must broadcast .* \(7,\)"):
        value(ns, "binary_cross_entropy", x, y, pos_weight=ns.array(np.ones(7)))


# --- what is left out


def with_junk(rng, x, y, ignore_index):
    """A third left out: targets there are `ignore_index`, raw outputs anything."""
    out = rng.random(SHAPE) < 1 / 3
    junk = rng.choice([np.nan, np.inf, -np.inf, 1e300, -3.0], SHAPE)
    return np.where(out, junk, x), np.where(out, ignore_index, y), out


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_ignored_elements_are_as_good_as_absent(ns, loss, activation, ignore_index, rng):
    if activation != "sigmoid" and (loss == "lovasz_hinge" or ignore_index < 0):
        pytest.skip("takes no activation, or tried with the sigmoid alone")
    args = () if loss == "lovasz_hinge" else (activation,)
    x, y = batch(rng)
    junk_x, junk_y, out = with_junk(rng, x, y, ignore_index)
    result, grad = gradient(ns, loss, junk_x, junk_y, *args, ignore_index=ignore_index)
    rest, rest_grad = gradient(ns, loss, x[~out], y[~out], *args)
    assert result == pytest.approx(rest, rel=1e-12)
    np.testing.assert_array_equal(grad[out], 0)
    np.testing.assert_allclose(grad[~out], rest_grad, rtol=1e-10, atol=1e-13)
    mask, (masked_grad,) = ns.gradients(
        lambda x: ns.mean(loss, ns.array(y), x, *args, mask=ns.array(~out)), junk_x
    )
    assert mask == result
    np.testing.assert_array_equal(masked_grad, grad)
    with np.errstate(all="ignore"):  # the naive way: multiply by the mask
        p = 1 / (1 + np.exp(-junk_x))
        assert np.isnan(np.mean(~out * -np.log(p)))


def test_targets_are_not_differentiated_where_they_are_ignored(ns, rng):
    x, y = batch(rng)
    y[0, 0, 0, :3] = 255
    _, (gy,) = ns.gradients(lambda y: ns.mean("dice", y, ns.array(x), ignore_index=255), y)
    np.testing.assert_array_equal(gy[0, 0, 0, :3], 0)
    assert np.all(gy[1] != 0)


def test_everything_left_out(ns, loss, rng):
    x, y = batch(rng)
    result, grad = gradient(ns, loss, x * np.nan, y * 0 + 255, ignore_index=255)
    assert result == 0
    np.testing.assert_array_equal(grad, 0)


def test_a_sample_left_out_whole(ns, overlap, rng):
    """Its loss is 0 and counts in the mean over samples."""
    x, y = batch(rng)
    y[1] = 255
    each = ns.numpy(ns.groups(overlap, ns.array(y), ns.array(x), per_sample=True, ignore_index=255))
    assert each[1] == 0
    assert np.all(each[[0, 2]] > 0)


def test_ignore_index_is_not_checked_as_a_target(ns, loss, rng):
    x, y = batch(rng, dtype="float32")
    y = y.astype("uint8")
    y[0, 0, 0, 0] = 255
    name = ns.argument["target"]
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got .* to 255"):
        value(ns, loss, x, y)
    assert np.isfinite(value(ns, loss, x, y, ignore_index=255, validate=True))
    with pytest.raises(ValueError, match="ignore_index must not be NaN, which equals no target"):
        value(ns, loss, x, y, ignore_index=math.nan)
    with pytest.raises(TypeError, match="ignore_index must be a number, got 'void'"):
        value(ns, loss, x, y, ignore_index="void")
    with pytest.raises(ValueError, match=r"mask must have the rank of .* got mask \(3,\)"):
        value(ns, loss, x, y, mask=ns.array(np.ones(3)))


# --- smoothing


def test_label_smoothing(ns, rng):
    x, y = batch(rng)
    for loss in ("binary_cross_entropy", "binary_focal_cross_entropy"):
        assert value(ns, loss, x, y, label_smoothing=0.2) == pytest.approx(
            value(ns, loss, x, y * 0.8 + 0.1), rel=1e-13
        )
    both = value(ns, "dice_cross_entropy", x, y, label_smoothing=0.2)
    entropy = value(ns, "binary_cross_entropy", x, y, label_smoothing=0.2)
    assert both == pytest.approx(value(ns, "dice", x, y) + entropy, rel=1e-13)


@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_smooth(ns, smooth, rng):
    x, y = batch(rng)
    p = 1 / (1 + np.exp(-x))
    tp, fp, fn = np.sum(p * y), np.sum(p * (1 - y)), np.sum((1 - p) * y)
    weighted = 0.3 * fp + 0.7 * fn
    expected = {
        "dice": 1 - (2 * tp + smooth) / (2 * tp + fp + fn + smooth),
        "jaccard": 1 - (tp + smooth) / (tp + fp + fn + smooth),
        "tversky": 1 - (tp + smooth) / (tp + weighted + smooth),
        "focal_tversky": (1 - (tp + smooth) / (tp + weighted + smooth)) ** 0.75,
    }
    for loss, exact in expected.items():
        options = {"alpha": 0.3, "beta": 0.7} if loss == "tversky" else {}
        assert value(ns, loss, x, y, smooth=smooth, **options) == pytest.approx(exact, rel=1e-12)


# --- an empty mask


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_an_empty_mask(ns, smooth, rng):
    """FP / (FP + smooth): no NaN, and a gradient that pushes outputs down where it can."""
    x = rng.normal(0, 2, (2, 1, 4, 4))
    y = np.zeros_like(x)
    fp = np.sum(1 / (1 + np.exp(-x)))
    exact = {
        "dice": fp / (fp + smooth),
        "jaccard": fp / (fp + smooth),
        "tversky": 0.5 * fp / (0.5 * fp + smooth),
        "focal_tversky": (0.3 * fp / (0.3 * fp + smooth)) ** 0.75,
    }
    for loss in RATIOS:
        result, grad = gradient(ns, loss, x, y, smooth=smooth)
        assert result == pytest.approx(exact[loss], rel=1e-13)
        assert np.all(grad > 0) if smooth else np.allclose(grad, 0, atol=1e-16)
    assert value(ns, "lovasz", x, y) == pytest.approx(np.max(1 / (1 + np.exp(-x))), rel=1e-13)
    assert value(ns, "lovasz_hinge", x, y) == pytest.approx(max(0, 1 + np.max(x)), rel=1e-13)


@pytest.mark.parametrize("loss", RATIOS)
def test_an_empty_mask_alone_teaches_only_with_smooth(ns, activation, loss, rng):
    """Whatever the activation, as the docstrings of all that take `smooth` say."""
    if activation == "linear":  # over the batch, an extreme in the empty one moves the other, too
        activation = ns.package.get_activation("linear", axis=(1, 2, 3))
    x = rng.normal(0, 2, (2, 1, 4, 4))
    y = np.zeros_like(x)
    y[1, 0, :2] = 1
    for smooth in (0.0, 1.0):
        options = {"per_sample": True, "smooth": smooth}
        each = ns.numpy(ns.groups(loss, ns.array(y), ns.array(x), activation, **options))
        _, grad = gradient(ns, loss, x, y, activation, **options)
        assert (each[0] == pytest.approx(1, rel=1e-13)) == (smooth == 0)
        assert np.any(np.abs(grad[0]) > 1e-6) == (smooth > 0)
        assert np.any(np.abs(grad[1]) > 1e-6)


@pytest.mark.parametrize("loss", [*RATIOS, "dice_cross_entropy"])
def test_docstrings_say_what_an_empty_mask_does(ns, loss):
    found = [getattr(ns.package, loss), ns.package.losses, ns.package.functional]
    suffix = "Loss" if ns.name == "torch" else ""
    found.append(getattr(ns.package.losses, ns.classes[loss] + suffix))
    for thing in found:
        words = " ".join(thing.__doc__.split())
        assert "gradient" in words, thing
        assert any(w in words for w in ("of 1 and no gradient", "of 1 whatever", "1 for any out"))


def test_an_empty_mask_and_no_output(ns, overlap):
    """0 / 0 in the naive form."""
    x, y = np.full((2, 1, 3, 3), -np.inf, "float32"), np.zeros((2, 1, 3, 3), "float32")
    if overlap == "lovasz_hinge":
        x[:] = -np.finfo("float32").max
    result, grad = gradient(ns, overlap, x, y, per_sample=True)
    assert result == 0
    np.testing.assert_array_equal(grad, 0)
    with np.errstate(invalid="ignore"):
        p = 1 / (1 + np.exp(-np.minimum(x, 0)))
        assert np.isnan(1 - 2 * np.sum(p * y) / np.sum(p * 0 + y))


@pytest.mark.parametrize("loss", RATIOS)
def test_the_gradient_of_an_empty_mask(ns, loss, activation, rng):
    """With `smooth`, for which the loss is near 1: a difference of two slopes would cancel."""
    x, y = rng.normal(0, 2, (1, 1, 100, 100)).astype("float32"), np.zeros((1, 1, 100, 100))
    options = {"activation": activation, "smooth": 0.1}
    _, grad = gradient(ns, loss, x, y.astype("float32"), **options)
    _, exact = gradient(ns, loss, x.astype("float64"), y, **options)
    np.testing.assert_allclose(grad, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_an_empty_mask_beside_others(ns, overlap, rng):
    """Per sample, an empty one does not spoil the rest."""
    x, y = batch(rng)
    y[1] = 0
    each = ns.numpy(ns.groups(overlap, ns.array(y), ns.array(x), per_sample=True))
    alone = [value(ns, overlap, x[i], y[i]) for i in range(3)]
    np.testing.assert_allclose(each, alone, rtol=1e-12)


# --- groups


def test_groups(ns, overlap, rng):
    """Samples and channels apart, in NCHW, NHWC and three dimensions of space."""
    x, y = batch(rng, (3, 2, 4, 5, 2))
    alone = np.array([[value(ns, overlap, x[n, c], y[n, c]) for c in range(2)] for n in range(3)])
    last = [np.moveaxis(a, 1, -1) for a in (x, y)]
    for a, b, axis in ((x, y, 1), (*last, -1)):
        both = ns.groups(overlap, ns.array(b), ns.array(a), per_sample=True, channel_axis=axis)
        np.testing.assert_allclose(ns.numpy(both), alone, rtol=1e-12)
        mean = value(ns, overlap, a, b, per_sample=True, channel_axis=axis)
        assert mean == pytest.approx(alone.mean(), rel=1e-12)
        channels = ns.numpy(ns.groups(overlap, ns.array(b), ns.array(a), channel_axis=axis))
        whole = [value(ns, overlap, x[:, c], y[:, c]) for c in range(2)]
        np.testing.assert_allclose(channels, whole, rtol=1e-12)


def test_gradients_of_groups(ns, overlap, rng):
    x, y = batch(rng)
    _, grad = gradient(ns, overlap, x, y, per_sample=True, channel_axis=1)
    for n in range(3):
        for c in range(2):
            _, alone = gradient(ns, overlap, x[n, c], y[n, c])
            np.testing.assert_allclose(grad[n, c], alone / 6, rtol=1e-9, atol=1e-15)


def test_channels_do_not_mix(ns, overlap, rng):
    """One channel's loss has no gradient in another."""
    x, y = batch(rng)
    _, (grad,) = ns.gradients(lambda x: ns.groups(overlap, ns.array(y), x, channel_axis=1)[0], x)
    np.testing.assert_array_equal(grad[:, 1], 0)
    assert np.any(grad[:, 0] != 0)


def test_bad_channel_axis(ns, overlap, rng):
    x, y = (ns.array(a) for a in batch(rng))
    with pytest.raises(ValueError, match=r"channel_axis 4 is out of range .*\(3, 2, 4, 5\)"):
        ns.mean(overlap, y, x, channel_axis=4)
    with pytest.raises(ValueError, match="channel_axis=0 is the axis of per_sample=True"):
        ns.mean(overlap, y, x, channel_axis=0, per_sample=True)


# --- the losses among each other


def test_tversky_is_dice_and_jaccard(ns, activation, rng):
    x, y = batch(rng)
    dice, jaccard = (value(ns, loss, x, y, activation, smooth=2.0) for loss in RATIOS[:2])
    assert value(ns, "tversky", x, y, activation, smooth=1.0) == pytest.approx(dice, rel=1e-13)
    assert value(ns, "tversky", x, y, activation, alpha=1, beta=1, smooth=2.0) == pytest.approx(
        jaccard, rel=1e-13
    )


def test_alpha_weighs_false_positives(ns):
    """Which `keras.losses.Tversky` has the other way round."""
    x, positive = np.array([100.0, 100.0]), np.array([1.0, 0.0])
    assert value(ns, "tversky", x, positive, alpha=0.25, beta=0.75) == pytest.approx(0.2)
    assert value(ns, "focal_tversky", x, positive) == pytest.approx((0.3 / 1.3) ** 0.75)


def test_focal_of_gamma_zero_is_cross_entropy(ns, activation, rng):
    x, y = batch(rng)
    entropy = value(ns, "binary_cross_entropy", x, y, activation)
    focal = value(ns, "binary_focal_cross_entropy", x, y, activation, gamma=0.0)
    assert focal == pytest.approx(entropy, rel=1e-13)
    balanced = value(ns, "binary_focal_cross_entropy", x, y, activation, gamma=0.0, alpha=0.5)
    assert balanced == pytest.approx(entropy / 2, rel=1e-13)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_at_the_ends(ns, smooth, gamma):
    """A power of less than 1 has an infinite slope at 0, where there is no error left."""
    x = np.array([-1e4, -200.0, 200.0, 1e4], "float32")
    for y in (np.zeros_like(x), np.ones_like(x)):
        result, grad = gradient(ns, "binary_focal_cross_entropy", x, y, smooth, gamma=gamma)
        assert np.isfinite(result)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_focal_slopes_far_out(ns, smooth, gamma):
    """Where the error is too small a number for its inverse to be one."""
    x = np.array([-744.0, -720.0, -710.0, -40.0, 40.0, 710.0, 720.0, 744.0])
    for label in (0.0, 1.0):
        y = ns.array(np.full_like(x, label))
        focal, plain = (
            partial(ns.elementwise, loss, y, activation=smooth, **options)
            for loss, options in (
                ("binary_focal_cross_entropy", {"gamma": gamma}),
                ("binary_cross_entropy", {}),
            )
        )
        _, (grad,) = ns.gradients(focal, x)
        assert np.isfinite(grad).all()
        if gamma == 0:
            np.testing.assert_allclose(grad, ns.gradients(plain, x)[1][0], rtol=1e-12)


def test_focal_tversky_without_an_error(ns):
    """The power 3/4 has an infinite slope at a loss of 0."""
    x, y = np.array([np.inf, -np.inf], "float32"), np.array([1.0, 0.0], "float32")
    result, grad = gradient(ns, "focal_tversky", x, y)
    assert result == 0
    np.testing.assert_array_equal(grad, 0)


def test_dice_cross_entropy_is_their_sum(ns, activation, rng):
    x, y = batch(rng)
    both = value(
        ns, "dice_cross_entropy", x, y, activation, lambda_dice=0.5, lambda_ce=2.0, smooth=1.0
    )
    parts = (
        0.5 * value(ns, "dice", x, y, activation, smooth=1.0),
        2.0 * value(ns, "binary_cross_entropy", x, y, activation),
    )
    assert both == pytest.approx(sum(parts), rel=1e-13)


def test_lovasz_sorts_stably(ns):
    """Equal errors in index order: the weights 1/2, 1/6 and 1/3 by the definition, in that order.

    A target counts as 1/u; of equal errors the earlier one goes first.
    """
    x = np.zeros(4)
    y = np.array([1.0, 0.0, 1.0, 0.0])
    # targets left i and union u before each: (2, 2) (1, 2) (1, 3) (0, 3)
    weights = np.array([1 / 2, 1 / (2 * 3), 1 / 3, 0])
    result, grad = gradient(ns, "lovasz", x, y)
    assert result == pytest.approx(0.5 * weights.sum())
    np.testing.assert_allclose(grad, 0.25 * weights * np.where(y > 0, -1, 1), rtol=1e-14)
    many = np.zeros(10_000, "float32")
    targets = (np.arange(10_000) % 3 == 0).astype("float32")
    _, (first,) = ns.gradients(lambda x: ns.mean("lovasz", ns.array(targets), x), many)
    # with all errors equal the weight of a target falls with the background before it
    of_targets = -first[targets > 0]
    assert np.all(np.diff(of_targets) <= 0)
    assert of_targets[0] > 2 * of_targets[-1] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(60,), (4, 15), (2, 3, 10)])
def test_a_descending_order_is_stable_and_undone(ns, shape, dtype, rng):
    """Of few different numbers, each many times; -0 is equal to 0."""
    special = importlib.import_module(f"{ns.package.__name__}._special")
    some = [0.0, -0.0, 2e-38, 0.25, np.nextafter(0.25, 1, dtype=dtype), 1.0, 3e38, np.inf]
    x = rng.choice(np.array(some, dtype), size=shape)
    order = special.descending(ns.array(x))
    np.testing.assert_array_equal(ns.numpy(order), np.argsort(-x, axis=-1, kind="stable"))
    taken = np.take_along_axis(x, ns.numpy(order), -1)
    back = ns.numpy(special.put_back(ns.array(taken), order))
    np.testing.assert_array_equal(back, x)
    assert back.dtype == dtype


@pytest.mark.parametrize("loss", ["lovasz", "lovasz_hinge"])
@pytest.mark.parametrize("left_out", ["ignore_index", "mask", "weight"])
def test_lovasz_without_what_is_left_out(ns, loss, left_out, rng):
    """As if it were not there, also where errors are equal or 0."""
    x, y = rng.choice([-2.0, -1.0, 0.0, 0.5, 1.0], 60), (rng.random(60) < 0.4).astype(float)
    kept = rng.random(60) < 0.6
    for targets in (y, 0 * y):
        marked = np.where(kept, targets, 255.0)
        options = {
            "ignore_index": {"ignore_index": 255},
            "mask": {"mask": ns.array(kept)},
            "weight": {"weight": ns.array(kept.astype(float))},
        }[left_out]
        given = marked if left_out == "ignore_index" else targets
        result, grad = gradient(ns, loss, x, given, **options)
        alone, slopes = gradient(ns, loss, x[kept], targets[kept])
        assert result == pytest.approx(alone, rel=1e-13)
        np.testing.assert_allclose(grad[kept], slopes, rtol=1e-12, atol=1e-16)
        np.testing.assert_array_equal(grad[~kept], 0)


def test_lovasz_hinge_by_its_definition(ns, rng):
    x, y = batch(rng, (40,))
    margin = 1 - x * (2 * y - 1)
    total = before = 0.0
    wrong = np.zeros(40, bool)
    for i in np.argsort(-margin, kind="stable"):
        wrong[i] = True
        predicted = np.where(wrong, 1 - y, y) > 0
        after = 1 - np.sum(predicted & (y > 0)) / np.sum(predicted | (y > 0))
        total += max(margin[i], 0) * (after - before)
        before = after
    result, grad = gradient(ns, "lovasz_hinge", x, y)
    assert result == pytest.approx(total, rel=1e-13)
    np.testing.assert_array_equal(grad[margin < 0], 0)
    assert np.all(np.sign(grad[margin > 0]) * (1 - 2 * y[margin > 0]) >= 0)


@pytest.mark.parametrize("loss", ["lovasz", "lovasz_hinge"])
def test_lovasz_wants_hard_targets(ns, loss):
    x, y = np.zeros(3), np.array([0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="must be 0 or 1"):
        value(ns, loss, x, y)


# --- options out of range


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("dice", {"smooth": -1.0}, "smooth must be a number >= 0, got -1.0"),
        ("jaccard", {"smooth": math.nan}, "smooth must be a number >= 0, got nan"),
        ("tversky", {"alpha": -0.5}, "alpha must be a number >= 0"),
        ("focal_tversky", {"gamma": 0.0}, "gamma must be a number > 0, got 0.0"),
        ("binary_focal_cross_entropy", {"gamma": -1}, "gamma must be a number >= 0"),
        ("binary_focal_cross_entropy", {"alpha": 1.5}, r"alpha must be a number in \[0, 1\]"),
        ("binary_cross_entropy", {"label_smoothing": 2}, r"label_smoothing .* in \[0, 1\]"),
        ("binary_cross_entropy", {"pos_weight": -2}, "pos_weight must be a number >= 0"),
        ("dice_cross_entropy", {"lambda_ce": math.inf}, "lambda_ce must be a number >= 0"),
    ],
)
def test_numbers_out_of_range(ns, loss, options, message):
    x, y = np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match=message):
        value(ns, loss, x, y, **options)
    with pytest.raises(ValueError, match=message):
        ns.loss_class(ns.classes[loss], **options)(ns.array(y), ns.array(x))


def test_text_is_no_number(ns):
    x, y = np.zeros(3), np.ones(3)
    with pytest.raises(TypeError, match=r"beta must be a number >= 0, got '0\.5'"):
        value(ns, "tversky", x, y, beta="0.5")
    with pytest.raises(TypeError, match=r"beta must be a number >= 0, got '0\.5'"):
        ns.loss_class("Tversky", beta="0.5")(ns.array(y), ns.array(x))


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        ("binary_cross_entropy", "label_smoothing"),
        ("binary_focal_cross_entropy", "gamma"),
        ("dice", "smooth"),
        ("tversky", "alpha"),
        ("focal_tversky", "beta"),
        ("dice_cross_entropy", "lambda_dice"),
    ],
)
def test_none_is_no_number(ns, loss, option):
    """The class says so when it is made."""
    with pytest.raises(TypeError, match=f"{option} must be a number .* got None"):
        value(ns, loss, np.zeros(3), np.ones(3), **{option: None})
    with pytest.raises(TypeError, match=f"{option} must be a number .* got None"):
        ns.loss_class(ns.classes[loss], **{option: None})


def test_none_where_it_is_the_default(ns):
    y, x = np.zeros(3), np.ones(3)
    for loss, option in (
        ("binary_focal_cross_entropy", "alpha"),
        ("binary_cross_entropy", "pos_weight"),
        ("dice_cross_entropy", "pos_weight"),
    ):
        found, expected = (
            float(ns.loss_class(ns.classes[loss], **options)(ns.array(y), ns.array(x)))
            for options in ({option: None}, {})
        )
        assert found == expected


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        ("binary_cross_entropy", "label_smoothing"),
        ("binary_cross_entropy", "pos_weight"),
        ("binary_focal_cross_entropy", "gamma"),
        ("dice", "smooth"),
    ],
)
def test_true_is_no_number(ns, loss, option):
    """label_smoothing=True would make every target 1/2."""
    x, y = np.zeros(3), np.ones(3)
    with pytest.raises(TypeError, match=f"{option} must be a number .* got True"):
        value(ns, loss, x, y, **{option: True})
    with pytest.raises(TypeError, match=f"{option} must be a number .* got True"):
        ns.loss_class(ns.classes[loss], **{option: True})(ns.array(y), ns.array(x))


def test_an_unknown_option_is_named(ns):
    with pytest.raises(TypeError, match=r"Dice\w*\W.*got an unexpected keyword argument 'smoth'"):
        ns.loss_class("Dice", smoth=1.0)


def test_classes_take_weights(ns, loss, rng):
    """In the call, element by element."""
    x, y = batch(rng, dtype="float32")
    w = rng.random(SHAPE).astype("float32")
    args = () if loss == "lovasz_hinge" else ("arctan",)
    by_class = ns.loss_class(ns.classes[loss], *args)(ns.array(y), ns.array(x), ns.array(w))
    by_function = value(ns, loss, x, y, *args, weight=ns.array(w))
    assert float(by_class) == pytest.approx(by_function, rel=1e-6)


def test_classes_ignore_the_weight_of_an_ignored_sample(ns, loss, rng):
    """As the functions do; a data set may have NaN there."""
    x, y = batch(rng, dtype="float32")
    y[1] = 255
    options = {"ignore_index": 255, **({"per_sample": True} if loss in OVERLAP else {})}
    f = ns.loss_class(ns.classes[loss], **options)
    w = np.array([2.0, 1.0, 0.5], "float32").reshape(3, 1, 1, 1)
    expected = float(f(ns.array(y), ns.array(x), ns.array(w)))
    assert np.isfinite(expected)
    for wrong in (math.nan, -1.0):
        w[1] = wrong
        assert float(f(ns.array(y), ns.array(x), ns.array(w))) == expected


def test_classes_take_options(ns, overlap, rng):
    x, y = batch(rng, dtype="float32")
    y[0, 0, 0, :2] = 255
    options = {"per_sample": True, "channel_axis": 1, "ignore_index": 255}
    by_class = ns.loss_class(ns.classes[overlap], **options)(ns.array(y), ns.array(x))
    assert float(by_class) == pytest.approx(value(ns, overlap, x, y, **options), rel=1e-6)


# --- what must not pass silently, and what must not break


def test_nan_is_not_swallowed(ns, loss):
    """A model whose outputs are NaN has a loss of NaN."""
    for x in (np.full(3, np.nan), np.array([np.nan, 0.5, 0.2])):
        assert np.isnan(value(ns, loss, x, np.array([1.0, 0.0, 1.0])))


@pytest.mark.parametrize(("activation", "x"), [("sigmoid", -99.5), ("normal_cdf", -13.5)])
def test_areas_below_the_smallest_number(ns, overlap, activation, x):
    """An empty mask and outputs whose sum is subnormal: its inverse is infinite."""
    if overlap == "lovasz_hinge":
        pytest.skip("takes no activation")
    raw = np.full((1, 1, 16, 16), x, "float32")
    result, grad = gradient(ns, overlap, raw, np.zeros_like(raw), activation)
    assert np.isfinite(result)
    assert np.isfinite(grad).all()


def test_a_factor_of_zero_makes_zero_of_infinity(ns):
    far, zero, one = np.array([1e20], "float32"), np.zeros(1), np.ones(1)
    focal = "binary_focal_cross_entropy"
    for x, y, alpha in ((far, zero, 1.0), (-far, one, 0.0)):
        result, grad = gradient(ns, focal, x, y, "normal_cdf", alpha=alpha)
        assert result == 0
        np.testing.assert_array_equal(grad, 0)
    both = value(ns, "dice_cross_entropy", -far, one, "normal_cdf", lambda_ce=0.0)
    assert both == pytest.approx(1.0)


def assert_no_gradient_in(ns, name, loss, activation, rng, **options):
    x, y = batch(rng)

    def f(x, w):
        given = {name: w, **options}
        nothing = 0 * (w.sum() if ns.name == "torch" else ns.keras.ops.sum(w))
        args = () if loss == "lovasz_hinge" else (activation,)
        return ns.mean(loss, ns.array(y), x, *args, **given) + nothing

    _, (gx, gw) = ns.gradients(f, x, rng.random(SHAPE))
    assert np.any(gx != 0)
    np.testing.assert_array_equal(gw, 0)


def test_no_gradient_in_weights(ns, loss, rng):
    assert_no_gradient_in(ns, "weight", loss, "sigmoid", rng)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "dice_cross_entropy"])
@pytest.mark.parametrize("activation", ["arctan", "linear"])
def test_no_gradient_in_pos_weight(ns, loss, activation, rng):
    """Whatever computes the loss: with weights `linear` is left to the formulas."""
    weight = ns.array(rng.random(SHAPE))
    assert_no_gradient_in(ns, "pos_weight", loss, activation, rng, weight=weight)


def test_numpy_numbers_are_numbers(ns, rng):
    x, y = batch(rng)
    y[0, 0, 0, 0] = 255
    as_numpy = {"smooth": np.float32(0.5), "ignore_index": np.int64(255)}
    assert value(ns, "dice", x, y, **as_numpy) == value(
        ns, "dice", x, y, smooth=0.5, ignore_index=255
    )
    with pytest.raises(TypeError, match="ignore_index must be a number, got True"):
        value(ns, "dice", x, y, ignore_index=True)
    with pytest.raises(TypeError, match="channel_axis must be an integer or None, got 'last'"):
        value(ns, "dice", x, y, ignore_index=255, channel_axis="last")


def test_no_dimension(ns, loss):
    x, y = np.array(0.3), np.array(1.0)
    assert value(ns, loss, x, y) == pytest.approx(value(ns, loss, x[None], y[None]), rel=1e-14)
    if loss in OVERLAP:
        with pytest.raises(ValueError, match="per_sample=True wants"):
            value(ns, loss, x, y, per_sample=True)


def test_a_target_of_weight_zero_may_be_anything(ns, loss, rng):
    x, y = batch(rng)
    w = np.ones(SHAPE)
    w[0, 0, 0, :3] = 0
    junk = np.where(w > 0, y, [255, np.nan, -1, 0, 0])
    assert value(ns, loss, x, junk, weight=ns.array(w)) == value(
        ns, loss, x, y * (w > 0), weight=ns.array(w)
    )


WRONG = [
    # option, value, what is wanted, and the losses that it is wrong for
    ("smooth", -1.0, "a number >= 0", RATIOS),
    ("alpha", math.inf, "a number >= 0", ["tversky", "focal_tversky"]),
    ("beta", "much", "a number >= 0", ["tversky", "focal_tversky"]),
    ("alpha", 2, r"a number in \[0, 1\]", ["binary_focal_cross_entropy"]),
    ("gamma", -1, "a number >= 0", ["binary_focal_cross_entropy"]),
    ("gamma", 0, "a number > 0", ["focal_tversky"]),
    ("lambda_ce", math.nan, "a number >= 0", ["dice_cross_entropy"]),
    ("label_smoothing", 1.5, r"a number in \[0, 1\]", ["binary_cross_entropy"]),
    ("label_smoothing", 1.5, r"a number in \[0, 1\]", ["binary_focal_cross_entropy"]),
    ("label_smoothing", 1.5, r"a number in \[0, 1\]", ["dice_cross_entropy"]),
    ("pos_weight", -1.0, "a number >= 0", ["binary_cross_entropy", "dice_cross_entropy"]),
    ("ignore_index", "a", "a number", LOSSES),
    ("ignore_index", True, "a number", LOSSES),
    ("validate", "yes", "True, False or None", LOSSES),
    ("validate", 1, "True, False or None", LOSSES),
    ("from_logits", "no", "True or False", [loss for loss in LOSSES if loss != "lovasz_hinge"]),
    ("from_logits", None, "True or False", [loss for loss in LOSSES if loss != "lovasz_hinge"]),
    ("per_sample", "yes", "True or False", OVERLAP),
    ("channel_axis", "C", "an integer or None", OVERLAP),
    ("channel_axis", 1.0, "an integer or None", OVERLAP),
]


@pytest.mark.parametrize(("option", "wrong", "wanted", "losses"), WRONG)
def test_a_wrong_option_is_refused_by_function_and_class(ns, option, wrong, wanted, losses, rng):
    """In one line: the argument, what is wanted, what came."""
    x, y = batch(rng)
    line = rf"^{option} must be {wanted}, got {re.escape(repr(wrong))}$"
    a_number_out_of_range = wanted.startswith("a number ") and not isinstance(wrong, str)
    error = ValueError if a_number_out_of_range else TypeError
    for loss in losses:
        with pytest.raises(error, match=line):
            value(ns, loss, x, y, **{option: wrong})
        with pytest.raises(error, match=line):
            ns.loss_class(ns.classes[loss], **{option: wrong})


@pytest.mark.parametrize("name", ["target", "weight", "mask", "pos_weight"])
def test_complex_numbers_are_refused(ns, name, rng):
    """A framework would drop the imaginary part."""
    x, y = batch(rng)
    wrong = ns.array(np.ones(SHAPE, "complex64"))
    options = {} if name == "target" else {name: wrong}
    with pytest.raises(TypeError, match=r"^\w+ must hold real numbers, got .*complex64$"):
        value(ns, "dice_cross_entropy", x, wrong if name == "target" else y, **options)


@pytest.mark.parametrize("name", ["prediction", "target", "weight"])
def test_classes_refuse_complex_numbers(ns, name, loss, rng):
    x, y = map(ns.array, batch(rng))
    wrong = ns.array(np.ones(SHAPE, "complex64"))
    given = {
        "target": y,
        "prediction": x,
        **({"weight": x} if name == "weight" else {}),
        name: wrong,
    }
    f = ns.loss_class(ns.classes[loss])
    with pytest.raises(TypeError, match=r"^\w+ must hold real numbers, got .*complex64$"):
        f(*given.values())


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan])
def test_a_wrong_pos_weight_in_a_tensor_is_refused(ns, wrong, rng):
    """As the number is; in the constructor too."""
    x, y = batch(rng)
    weights = ns.array(np.array([[[1.0]], [[wrong]]]))
    for loss in ("binary_cross_entropy", "dice_cross_entropy"):
        with pytest.raises(ValueError, match=r"^pos_weight must be"):
            value(ns, loss, x, y, pos_weight=weights)
        assert np.isfinite(value(ns, loss, x, y, pos_weight=ns.array(np.array(2.0))))
        with pytest.raises(ValueError, match=r"^pos_weight must be"):
            ns.loss_class(ns.classes[loss], pos_weight=weights)
