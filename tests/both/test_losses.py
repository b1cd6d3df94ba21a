"""What every implementation's losses have in common."""

import functools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from names import ELEMENTWISE
from names import LOSSES as ALL_LOSSES

LOSSES = [loss for loss in ALL_LOSSES if loss != "lovasz_hinge"]
"""Those that take an activation; `lovasz_hinge` has tests of its own."""
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


def batch(rng, dtype="float64", shape=(3, 1, 4, 5), scale=4.0):
    x = rng.normal(0, scale, shape).astype(dtype)
    return x, (rng.random(shape) < 0.3).astype(dtype)


def textbook(p, y):
    """Every loss from probabilities, as the papers write it."""
    entropy = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    tp, fp, fn = np.sum(p * y), np.sum(p * (1 - y)), np.sum((1 - p) * y)
    dice = 1 - 2 * tp / np.sum(p + y)
    return {
        "binary_cross_entropy": np.mean(entropy),
        "binary_focal_cross_entropy": np.mean(np.abs(p - y) ** 2 * entropy),
        "mean_squared_error": np.mean((p - y) ** 2),
        "dice": dice,
        "jaccard": 1 - tp / np.sum(p + y - p * y),
        "tversky": 1 - tp / (tp + 0.5 * fp + 0.5 * fn),
        "focal_tversky": (1 - tp / (tp + 0.3 * fp + 0.7 * fn)) ** 0.75,
        "dice_cross_entropy": dice + np.mean(entropy),
        "lovasz": lovasz_extension(np.abs(y - p).ravel(), y.ravel()),
    }


def jaccard_loss(wrong, y):
    """1 - intersection over union where the elements `wrong` are predicted wrongly."""
    predicted = np.where(wrong, 1 - y, y) > 0
    union = np.sum(predicted | (y > 0))
    return 1 - np.sum(predicted & (y > 0)) / union if union else 0.0


def lovasz_extension(errors, y):
    """By its definition: the errors, largest first, times what each adds to the set's loss."""
    wrong = np.zeros(len(y), bool)
    total = before = 0.0
    for i in np.argsort(-errors, kind="stable"):
        wrong[i] = True
        after = jaccard_loss(wrong, y)
        total += errors[i] * (after - before)
        before = after
    return total


@pytest.fixture(scope="session", params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(scope="session", params=[loss for loss in LOSSES if loss not in ELEMENTWISE])
def overlap(request):
    return request.param


def test_against_the_textbook_formulas(ns, loss, activation, rng):
    """Where nothing cancels, the published forms are good to many digits in float64.

    Linear's 1 - p is as small as 1e-7, so that the textbook's log1p(-p) has lost 9 of 16 digits.
    """
    x, y = batch(rng, scale=1.0)
    if activation == "hardtanh":
        x = rng.uniform(0.01, 0.99, x.shape)
    p = ns.numpy(ns.package.get_activation(activation)(ns.array(x)))
    value = float(ns.mean(loss, ns.array(y), ns.array(x), activation))
    rel = 1e-9 if activation == "linear" else 1e-12
    assert value == pytest.approx(textbook(p, y)[loss], rel=rel)


@functools.cache
def mean(ns, loss, activation):
    """That mean loss of (y, x), compiled once for all calls of a test."""
    return ns.compiled(lambda y, x: ns.mean(loss, y, x, activation))


def test_gradients_by_central_differences(ns, loss, activation, rng):
    x, y = batch(rng, shape=(2, 1, 2, 3), scale=1.0)
    y = rng.uniform(0.1, 0.9, y.shape)
    if activation == "hardtanh":
        x = rng.uniform(0.1, 0.9, x.shape)
    if loss == "lovasz":  # of targets 0 or 1
        y = (y > 0.5).astype(float)
        check_gradients(ns, lambda x: mean(ns, loss, activation)(ns.array(y), x), x)
    else:
        check_gradients(ns, mean(ns, loss, activation), y, x)


def check_gradients(ns, f, *arrays):
    """By central differences."""
    h = 1e-6
    _, grads = ns.gradients(f, *arrays)
    for which, grad in enumerate(grads):
        numeric = np.zeros_like(grad)
        for i in np.ndindex(grad.shape):
            moved = []
            for sign in (1, -1):
                shifted = [a.copy() for a in arrays]
                shifted[which][i] += sign * h
                moved.append(float(f(*map(ns.array, shifted))))
            numeric[i] = (moved[0] - moved[1]) / (2 * h)
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-9)


def of_elements(ns, f, x, on, off, pos_weight=1, gamma=0, alpha=None):
    """Cross entropies or focal ones, their slopes, and the sizes of the terms of the slopes."""
    x = ns.array(x.astype("float64"))
    p, q, pdf = (ns.numpy(method(x)) for method in (f.cdf, f.sf, f.pdf))
    loss = -pos_weight * on * ns.numpy(f.logcdf(x)) - off * ns.numpy(f.logsf(x))
    terms = -pos_weight * on * pdf / p, off * pdf / q
    error = on * q + off * p
    of_class = 1 if alpha is None else on * alpha + off * (1 - alpha)
    moved = gamma * error ** (gamma - 1) * (off - on) * pdf * loss
    terms = [*(error**gamma * term for term in terms), moved]
    return of_class * error**gamma * loss, of_class * sum(terms), of_class * sum(map(abs, terms))


@pytest.mark.parametrize("label_smoothing", [0, 0.1, 1e-3, 1e-6])
@pytest.mark.parametrize(
    "options",
    [{}, {"pos_weight": 1e-3}, {"gamma": 2, "alpha": 1e-3}, {"gamma": 2, "alpha": 0.999}],
    ids=["cross entropy", "pos_weight", "alpha near 0", "alpha near 1"],
)
def test_a_small_weight_of_a_class_keeps_its_digits(ns, smooth, options, label_smoothing):
    """Half a small smoothing as 1 - (1 - s / 2), or 1 - alpha, would lose most in float32."""
    x = np.linspace(-6, 6, 769, dtype="float32")
    loss = "binary_focal_cross_entropy" if "gamma" in options else "binary_cross_entropy"
    bound = (4 if ns.name == "torch" else 8) * (3.25 if "gamma" in options else 1)  # F thrice
    for target in (0, 1):
        y = np.full_like(x, target)
        on, off = (
            each * (1 - label_smoothing) + label_smoothing / 2 for each in (target, 1 - target)
        )
        exact, slope, size = of_elements(
            ns, ns.package.get_activation(smooth), x, on, off, **options
        )
        more = {**options, "label_smoothing": label_smoothing}
        f = functools.partial(ns.elementwise, loss, ns.array(y), activation=smooth, **more)
        value, (grad,) = ns.gradients(f, x)
        assert np.max(np.abs(value - exact) / np.spacing(np.float32(exact))) <= bound
        assert np.max(np.abs(grad - slope) / np.spacing(np.float32(size))) <= 2 * bound


@example(  # the smallest span that `linear` can have
    x=np.array([0, 1, 1, 1, 1, 1, 1, 1], "float32") * np.finfo("float32").tiny,
    y=np.zeros(8, "float32"),
)
@given(
    x=hnp.arrays(np.float32, 8, elements=finite32),
    y=hnp.arrays(np.float32, 8, elements=st.floats(0, 1, width=32, allow_subnormal=False)),
)
def test_no_nan_on_any_finite_float(ns, loss, activation, x, y):
    y = np.round(y) if loss == "lovasz" else y
    value, (gx,) = ns.gradients(lambda x: mean(ns, loss, activation)(ns.array(y), x), x)
    assert not np.isnan(value)
    assert not np.isnan(gx).any()
    if activation != "normal_cdf":
        assert np.isfinite(value)
        assert np.isfinite(gx).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mean_whose_sum_overflows(ns, dtype):
    x = np.full(64, np.finfo(dtype).max / 8, dtype)
    value, (gx,) = ns.gradients(
        lambda a: ns.mean("binary_cross_entropy", ns.array(np.zeros_like(x)), a), x
    )
    assert value == pytest.approx(x[0], rel=1e-6)
    np.testing.assert_allclose(gx, 1 / 64, rtol=1e-6)


def test_a_mean_over_groups_whose_sum_overflows(ns):
    """Dice is 1 in each of the groups, and its slope 0."""
    x = np.full((64, 2), np.finfo(np.float32).max / 8, np.float32)
    loss = ns.loss_class(ns.classes["dice_cross_entropy"], per_sample=True)
    value, (gx,) = ns.gradients(lambda a: loss(ns.array(np.zeros_like(x)), a), x)
    assert value == pytest.approx(x[0, 0], rel=1e-6)
    np.testing.assert_allclose(gx, 1 / 128, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_term_of_weight_zero_adds_exactly_zero(ns, smooth, dtype):
    """At infinite raw outputs, where 0 * inf would be NaN."""
    x = np.array([np.inf, -np.inf], dtype)
    y = np.array([1, 0], dtype)
    value, (gx,) = ns.gradients(
        lambda x: ns.elementwise("binary_cross_entropy", ns.array(y), x, smooth), x
    )
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gx, 0)
    wrong, _ = ns.gradients(
        lambda x: ns.elementwise("binary_cross_entropy", ns.array(1 - y), x, smooth), x
    )
    np.testing.assert_array_equal(wrong, np.inf)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_focal_slope_at_infinite_raw_outputs(ns, smooth, gamma, dtype):
    """That of cross entropy: the error is 1, and its slope, times infinity, adds nothing."""
    x, y = np.array([np.inf, -np.inf], dtype), np.array([0, 1], dtype)
    value, (gx,) = ns.gradients(
        lambda x: ns.elementwise("binary_focal_cross_entropy", ns.array(y), x, smooth, gamma=gamma),
        x,
    )
    np.testing.assert_array_equal(value, np.inf)
    slope = {"sigmoid": 1, "normal_cdf": np.inf}.get(smooth, 0)
    np.testing.assert_array_equal(gx, [slope, -slope])


def test_target_gradient_at_hard_targets(ns, smooth):
    """One-sided, it is logsf - logcdf, also where the weight is 0."""
    x, y = np.array([-2.0, 3.0]), np.array([0.0, 1.0])
    _, (gy,) = ns.gradients(
        lambda y: ns.elementwise("binary_cross_entropy", y, ns.array(x), smooth), y
    )
    f = ns.package.get_activation(smooth)
    np.testing.assert_allclose(
        gy, ns.numpy(f.logsf(ns.array(x)) - f.logcdf(ns.array(x))), rtol=1e-13
    )


def test_dice_keeps_its_digits_near_zero(ns):
    """At a loss of 2e-6 the published form in float32 is off by percents, and at 1e-4 by 4e-5."""
    for logit, bound in ((9.2, 4e-5), (13.1, 3e-2)):
        y = np.array([1.0, 0.0] * 500, "float32")
        x = np.where(y > 0, logit, -logit).astype("float32")
        tail = 1 / (1 + math.exp(float(np.float32(logit))))
        exact = tail  # sum(y s + (1 - y) p) / sum(p + y) = 1000 tail / 1000
        ours = float(ns.mean("dice", ns.array(y), ns.array(x), "sigmoid"))
        assert ours == pytest.approx(exact, rel=1e-6)
        p = (1 / (1 + np.exp(-x))).astype("float32")
        published = float(
            np.float32(1) - 2 * np.sum(p * y, dtype="float32") / np.sum(p + y, dtype="float32")
        )
        assert abs(published / exact - 1) > bound / 100  # what the other form loses


def test_dice_per_sample(ns, activation, rng):
    x, y = batch(rng)
    f = ns.package.get_activation(
        activation, **({"axis": (1, 2, 3)} if activation == "linear" else {})
    )
    whole = float(ns.mean("dice", ns.array(y), ns.array(x), f, per_sample=True))
    each = [
        float(ns.mean("dice", ns.array(b[None]), ns.array(a[None]), f))
        for a, b in zip(x, y, strict=True)
    ]
    assert whole == pytest.approx(np.mean(each), rel=1e-13)


def test_dice_of_nothing_is_zero(ns):
    x, y = np.full((2, 3), -np.inf, "float32"), np.zeros((2, 3), "float32")
    value, (grad,) = ns.gradients(lambda x: ns.mean("dice", ns.array(y), x, "sigmoid"), x)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_dice_of_an_empty_mask_is_one(ns):
    x, y = np.array([[-3.0, 1.0]]), np.zeros((1, 2))
    assert float(ns.mean("dice", ns.array(y), ns.array(x), "arctan")) == 1


def test_half_precision_input_is_computed_in_float32(ns, loss, activation, rng):
    x, y = batch(rng, "float16")
    value = ns.numpy(ns.mean(loss, ns.array(y), ns.array(x), activation))
    assert value.dtype == np.float32
    wide = ns.mean(loss, ns.array(y.astype("float32")), ns.array(x.astype("float32")), activation)
    assert value == ns.numpy(wide)


def test_overlap_of_a_large_float16_mask(ns, overlap):
    """A million foreground pixels exceed float16's largest number, 65504."""
    x, y = np.full((1024, 1024), 2.0, "float16"), np.ones((1024, 1024), "float16")
    p = 1 / (1 + math.exp(-2))
    expected = {
        "dice": (1 - p) / (1 + p),
        "jaccard": 1 - p,
        "tversky": (1 - p) / (1 + p),
        "focal_tversky": (0.7 * (1 - p) / (p + 0.7 * (1 - p))) ** 0.75,
        "dice_cross_entropy": (1 - p) / (1 + p) + math.log1p(math.exp(-2)),
        "lovasz": 1 - p,
    }
    assert float(ns.mean(overlap, ns.array(y), ns.array(x))) == pytest.approx(
        expected[overlap], rel=1e-6
    )
    with np.errstate(over="ignore"):
        assert np.isinf(np.sum(y, dtype="float16"))  # what the sums would be without


def test_every_float16_number(ns, loss, activation):
    """All 63,488 finite ones, right and wrong: a finite loss and gradient."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = bits[np.isfinite(bits)]
    for y in (np.zeros_like(x), np.ones_like(x)):
        value, (gx,) = ns.gradients(lambda x: mean(ns, loss, activation)(ns.array(y), x), x)  # noqa: B023
        assert np.isfinite(value)
        assert gx.dtype == np.float16
        assert np.isfinite(gx).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "float64"])
def test_targets_of_any_dtype(ns, loss, dtype, rng):
    x, y = batch(rng, "float32")
    value = ns.numpy(ns.mean(loss, ns.array(y.astype(dtype)), ns.array(x)))
    assert value.dtype == np.float32
    assert value == ns.numpy(ns.mean(loss, ns.array(y), ns.array(x)))


def test_float64_stays(ns, loss, rng):
    x, y = batch(rng)
    assert ns.numpy(ns.mean(loss, ns.array(y), ns.array(x))).dtype == np.float64


def test_class_is_the_function(ns, loss, activation, rng):
    x, y = batch(rng, "float32")
    value = float(ns.loss_class(ns.classes[loss], activation)(ns.array(y), ns.array(x)))
    assert value == pytest.approx(
        float(ns.mean(loss, ns.array(y), ns.array(x), activation)), rel=2e-7
    )


def test_from_probabilities_equals_from_logits(ns, loss, smooth, rng):
    x, y = batch(rng, scale=1.0)
    p = ns.package.get_activation(smooth)(ns.array(x))
    head = float(ns.mean(loss, ns.array(y), p, from_logits=False))
    assert head == pytest.approx(float(ns.mean(loss, ns.array(y), ns.array(x), smooth)), rel=1e-12)


def test_gradients_from_probabilities(ns, loss, rng):
    """Of which the chain through the activation makes the gradients from raw outputs."""
    x, y = batch(rng, scale=1.0)
    _, (direct,) = ns.gradients(lambda x: ns.mean(loss, ns.array(y), x, "arctan"), x)
    p = ns.numpy(ns.package.arctan(ns.array(x)))
    _, (in_p,) = ns.gradients(lambda p: ns.mean(loss, ns.array(y), p, from_logits=False), p)
    density = ns.numpy(ns.package.arctan.pdf(ns.array(x)))
    np.testing.assert_allclose(in_p * density, direct, rtol=1e-11)


def test_ten_million_elements(ns):
    """Sums of equal numbers are where adding one after the other goes astray."""
    n = 10_000_000
    x, y = np.full(n, -2.0, "float32"), np.zeros(n, "float32")
    p = 1 / (1 + math.exp(2))
    y[: n // 2] = 1
    on, off = math.log1p(math.exp(2)), math.log1p(math.exp(-2))
    tversky = (0.3 * p + 0.7 * (1 - p)) / (p + 0.3 * p + 0.7 * (1 - p))
    expected = {
        "binary_cross_entropy": (on + off) / 2,
        "binary_focal_cross_entropy": ((1 - p) ** 2 * on + p**2 * off) / 2,
        "mean_squared_error": ((1 - p) ** 2 + p**2) / 2,
        "dice": 0.5 / (p + 0.5),
        "jaccard": 1 / (1 + p),
        "tversky": 0.5 / (p + 0.5),
        "focal_tversky": tversky**0.75,
        "dice_cross_entropy": 0.5 / (p + 0.5) + (on + off) / 2,
        "lovasz": 1 - p,  # all targets come first and take the whole weight
    }
    bound = 1e-6 if ns.name == "torch" else 2e-6
    for loss, value in expected.items():
        assert float(ns.mean(loss, ns.array(y), ns.array(x))) == pytest.approx(value, rel=bound), (
            loss
        )


def test_bad_shapes(ns, loss):
    n = ns.argument
    flat, column = np.zeros(4, "float32"), np.zeros((4, 1), "float32")
    with pytest.raises(
        ValueError, match=r"same shape, got .*\(4,\).*\(4, 1\)|same shape, got .*\(4, 1\).*\(4,\)"
    ):
        ns.mean(loss, ns.array(flat), ns.array(column))
    with pytest.raises(ValueError, match=rf"{n['prediction']} is empty: its shape is \(0, 3\)"):
        ns.mean(loss, ns.array(np.zeros((0, 3))), ns.array(np.zeros((0, 3))))


def test_bad_dtypes_and_ranges(ns, loss):
    n = ns.argument
    x, y = np.zeros(4, "float32"), np.zeros(4, "float32")
    with pytest.raises(TypeError, match=r"must be of a floating dtype, got .*int64"):
        ns.mean(loss, ns.array(y), ns.array(x.astype("int64")))
    for bad in (np.array([0, 1, 2, 0]), np.array([0, -0.1, 0.5, 1]), np.array([0, np.nan, 0.5, 1])):
        for validate in (None, True):
            with pytest.raises(ValueError, match=rf"{n['target']} must lie in \[0, 1\]"):
                ns.mean(loss, ns.array(bad.astype("float32")), ns.array(x), validate=validate)
    assert np.isfinite(float(ns.mean(loss, ns.array(y + 2), ns.array(x), validate=False)))


def test_probabilities_outside_0_and_1(ns, loss):
    """Raw outputs under from_logits=False: an activation was forgotten."""
    n = ns.argument
    x, y = np.array([5.0, -3.0], "float32"), np.array([1.0, 0.0], "float32")
    with pytest.raises(ValueError, match=rf"{n['prediction']} must lie in \[0, 1\]"):
        ns.mean(loss, ns.array(y), ns.array(x), from_logits=False)


def test_bad_options(ns, loss):
    x, y = ns.array(np.zeros(4, "float32")), ns.array(np.zeros(4, "float32"))
    with pytest.raises(ValueError, match="did you mean 'softsign'"):
        ns.mean(loss, y, x, "soft_sign")
    with pytest.raises(ValueError, match="from_logits=False"):
        ns.mean(loss, y, x, "arctan", from_logits=False)
    with pytest.raises(ValueError, match="from_logits=False"):
        ns.loss_class(ns.classes[loss], "arctan", from_logits=False)
    with pytest.raises(ValueError, match=r"(?i)reduction"):
        ns.loss_class(ns.classes[loss], reduction="average")
