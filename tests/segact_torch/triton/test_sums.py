"""Sums and their gradients, against the formulas in float64."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

from kernels import (  # noqa: E402
    ALL,
    AXES,
    DEFAULT,
    FUNCTIONS,
    LAYOUTS,
    SHAPE,
    F,
    backend,
    batch,
    every,
    exact_losses,
    interpreted,
    rounded,
)

import segact_torch  # noqa: E402

# Of true positives, false positives and false negatives.
COSTS = (2.0, 0.5, 0.75)


def assert_sums(got, exact, axis, scale=1.0):
    (sums, gradient), (value, slope) = got, exact
    assert sums.dtype == torch.float64
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(sums, value.sum(axis), rtol=1e-6, atol=0)
    assert (gradient.double() - scale * slope).abs().max() <= 1e-5 * scale * slope.abs().max()


def exact_overlap(x, y, w, axis, name="softsign"):
    """The two sums in float64, by their definition."""
    f = rounded(name)
    p, q, (tp, fp, fn) = f.cdf(x.double()), f.sf(x.double()), COSTS
    error = fp * (1 - y) * p + fn * y * q
    return torch.stack([(w.double() * part).sum(axis) for part in (error, tp * y * p)])


def exact_overlap_gradient(x, y, w, slopes, name="softsign"):
    (of_error, of_hit), (tp, fp, fn) = slopes.double(), COSTS
    density = rounded(name).pdf(x.double()) * w.double()
    return density * ((1 - y) * fp * of_error + y * (tp * of_hit - fn * of_error))


@interpreted
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_groups_in_every_layout(axis, layout):
    x, y = batch(hard=False)
    w = torch.linspace(0, 2, 33).expand(SHAPE)
    got = backend.cross_entropy(layout(x), y, w, axis, F("softsign"), scale=0.25)
    assert_sums(got, exact_losses("binary_cross_entropy", x, y, "softsign", w), axis, 0.25)
    assert got[1].stride() == torch.empty_like(layout(x)).stride()

    upstream = torch.linspace(0.5, 2, got[0].numel(), dtype=torch.float64).reshape(got[0].shape)
    before = got[1].clone()
    full = upstream.reshape([1 if a in axis else SHAPE[a] for a in range(4)])
    assert backend.rescale(got[1], upstream, axis) is got[1]
    torch.testing.assert_close(got[1].double(), before.double() * full, rtol=3e-7, atol=0)

    sums = backend.overlap(layout(x), y, w, axis, F("softsign"), COSTS)
    torch.testing.assert_close(sums.double(), exact_overlap(x, y, w, axis), rtol=1e-6, atol=0)
    slopes = torch.linspace(-1, 2, sums.numel()).reshape(sums.shape)
    got = backend.overlap_gradient(layout(x), y, w, axis, F("softsign"), COSTS, slopes)
    slope = exact_overlap_gradient(x, y, w, slopes.reshape(2, *full.shape))
    assert (got.double() - slope).abs().max() <= 1e-5 * slope.abs().max()
    assert got.stride() == torch.empty_like(layout(x)).stride()


@interpreted
@pytest.mark.parametrize(("name", "epsilon"), [*DEFAULT, ("arctan", 0.01), ("hardtanh", 0.01)])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_overlap_of_every_activation(name, epsilon, hard):
    f = F(name, epsilon=epsilon)
    x, y = batch(hard)
    sums = backend.overlap(x, y, None, ALL, f, COSTS)
    exact = exact_overlap(x, y, torch.ones_like(x), ALL, f)
    torch.testing.assert_close(sums.double(), exact, rtol=1e-6, atol=0)
    slopes = torch.tensor([-0.3, 0.7])
    got = backend.overlap_gradient(x, y, None, ALL, f, COSTS, slopes)
    slope = exact_overlap_gradient(x, y, torch.ones_like(x), slopes, f)
    assert (got.double() - slope).abs().max() <= 1e-5 * slope.abs().max()


@interpreted
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
@pytest.mark.parametrize("smooth", [0.0, 10.0])
def test_ratios_of_overlap(axis, smooth):
    x, y = batch(hard=False)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.linspace(1, 2, 33).expand(SHAPE)
    arguments = (x, y, w, axis, F("softsign"), COSTS)
    value, slopes = backend.overlap_ratio(*arguments, smooth)
    error, hit = exact_overlap(x, y, w, axis)
    whole = error + hit + smooth
    torch.testing.assert_close(value.double(), error / whole, rtol=1e-6, atol=0)
    expected = torch.stack(((hit + smooth) / whole**2, -error / whole**2))
    torch.testing.assert_close(slopes.double(), expected, rtol=1e-6, atol=0)
    upstream = torch.linspace(-1, 2, value.numel()).reshape(value.shape)
    got = backend.overlap_gradient(*arguments, slopes, upstream)
    full = [1 if a in axis else SHAPE[a] for a in range(4)]
    slope = exact_overlap_gradient(x, y, w, (expected * upstream).reshape(2, *full))
    assert (got.double() - slope).abs().max() <= 1e-5 * slope.abs().max()
    assert got.stride() == x.stride()


BESIDE = {
    "plain": {},
    "weights": {"weighted": True},
    "a factor of class 1": {"weighted": True, "pos_weight": 2.5, "label_smoothing": 0.125},
    "a factor of each channel": {"pos_weight": torch.tensor([0.0, 3.0]).reshape(1, 2, 1, 1)},
    "no class 1": {"pos_weight": 0.0},
    "counts on the device": {"weighted": True, "counted": True},
}


@interpreted
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
@pytest.mark.parametrize("option", BESIDE.values(), ids=BESIDE)
def test_overlap_and_cross_entropy_in_one_pass(axis, option):
    assert_both(axis, "softsign", **option)


@interpreted
@pytest.mark.parametrize(("name", "epsilon"), [*DEFAULT, ("arctan", 0.01), ("hardtanh", 0.01)])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_overlap_and_cross_entropy_of_every_activation(name, epsilon, hard):
    assert_both(ALL, name, epsilon, hard)


def assert_both(
    axis,
    name,
    epsilon=None,
    hard=False,
    weighted=False,
    counted=False,
    pos_weight=1.0,
    label_smoothing=0.0,
):
    (x, y), f = batch(hard), F(name, epsilon=epsilon)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.linspace(0, 2, 33).expand(SHAPE) if weighted else None
    of_1 = pos_weight.expand(SHAPE) if isinstance(pos_weight, torch.Tensor) else pos_weight
    groups = [size for a, size in enumerate(SHAPE) if a not in axis]
    scale = torch.linspace(0.1, 0.2, math.prod(groups)).reshape(groups) if counted else 0.25
    arguments = (x, y, w, axis, f, COSTS)
    entropy = ((of_1, label_smoothing), scale)
    value, slopes = backend.ratio_and_entropy(*arguments, 10.0, *entropy)

    weights = torch.ones(SHAPE) if w is None else w
    wide = x.double().contiguous().requires_grad_()
    error, hit = exact_overlap(wide, y, weights, axis, f)
    loss = segact_torch.binary_cross_entropy(
        *(wide, y.double(), rounded(f)),
        weight=weights.double(),
        pos_weight=pos_weight.double() if isinstance(pos_weight, torch.Tensor) else pos_weight,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    exact = torch.stack((error / (error + hit + 10.0), scale * loss.sum(axis)))
    torch.testing.assert_close(value.double(), exact.detach(), rtol=1e-6, atol=0)

    upstream = torch.linspace(-1, 2, value.numel()).reshape(value.shape)
    got = backend.overlap_gradient(*arguments, slopes, upstream, True, *entropy)
    (slope,) = torch.autograd.grad((exact * upstream).sum(), wide)
    assert (got.double() - slope).abs().max() <= 1e-5 * slope.abs().max()
    assert got.stride() == x.stride()


@interpreted
def test_an_infinite_cross_entropy_beside_an_overlap():
    """It is infinite where the softsign is certain and wrong, and so is the mean; no slope is."""
    x, y = torch.tensor([torch.inf, -torch.inf, 1.0]), torch.tensor([0.0, 0.0, 1.0])
    arguments = (x, y, None, (0,), F("softsign"), (2.0, 1.0, 1.0))
    entropy = ((1.0, 0.0), 1.0)
    value, slopes = backend.ratio_and_entropy(*arguments, 0.0, *entropy)
    assert value.tolist() == pytest.approx([1.25 / (1.25 + 1.5), torch.inf])
    got = backend.overlap_gradient(*arguments, slopes, torch.ones(2), True, *entropy)
    assert got[:2].tolist() == [0, 0]
    assert got[2].isfinite()
    # what weighs nothing is nothing, also where it is not a number
    x, weightless = torch.tensor([torch.nan, 1.0]), ((0.0, 0.0), 1.0)
    arguments = (x, torch.ones(2), torch.tensor([0.0, 1.0]), (0,), F("sigmoid"), (2.0, 1.0, 1.0))
    value, slopes = backend.ratio_and_entropy(*arguments, 0.0, *weightless)
    assert value[1] == 0
    got = backend.overlap_gradient(*arguments, slopes, torch.ones(2), True, *weightless)
    assert got[0] == 0
    assert got[1] < 0


@interpreted
def test_the_gradient_of_an_empty_mask():
    """The loss is near 1: 1 / sum - error / sum^2 would cancel."""
    x, f = torch.linspace(-3, 3, 20_000), F("softsign")
    arguments = (x, torch.zeros_like(x), None, (0,), f, (2.0, 1.0, 1.0))
    _, slopes = backend.overlap_ratio(*arguments, 1.0)
    got = backend.overlap_gradient(*arguments, slopes, torch.ones(()))
    exact = f.pdf(x.double()) / (f.cdf(x.double()).sum() + 1) ** 2
    assert (got.double() - exact).abs().max() <= 1e-5 * exact.max()


@interpreted
def test_the_ratio_of_nothing():
    """A group of which nothing counts, under any upstream; one that is not a number stays so."""
    x, y = torch.tensor([[0.5, -0.5], [-1.0, 2.0], [torch.nan, 1.0]]), torch.zeros(3, 2)
    w = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    arguments = (x, y, w, (1,), F("arctan"), (2.0, 1.0, 1.0))
    value, slopes = backend.overlap_ratio(*arguments, 0.0)
    assert value[:2].tolist() == [0, 1]
    assert value[2].isnan()
    upstream = torch.tensor([torch.inf, 1.0, 1.0])
    got = backend.overlap_gradient(*arguments, slopes, upstream)
    assert got[:2].tolist() == [[0, 0], [0, 0]]
    assert got[2].isnan().all()


@interpreted
@pytest.mark.parametrize("loss", FUNCTIONS)
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_options(loss, hard):
    x, y = batch(hard)
    w = torch.linspace(0, 2, 33).expand(SHAPE)
    options = {
        "binary_cross_entropy": {"pos_weight": 2.5, "label_smoothing": 0.125},
        "squared_error": {},
        "binary_focal_cross_entropy": {"gamma": 1.5, "alpha": 0.25, "label_smoothing": 0.125},
    }[loss]
    got = FUNCTIONS[loss](x, y, w, ALL, F("arctan"), **options)
    assert_sums(got, exact_losses(loss, x, y, "arctan", w, **options), ALL)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
def test_a_pos_weight_of_each_channel(dtype):
    x, y = batch(hard=False)
    w = torch.linspace(0, 2, 33).expand(SHAPE)
    pos_weight = torch.tensor([0, 3], dtype=dtype).reshape(1, 2, 1, 1).expand(SHAPE)
    got = backend.cross_entropy(x, y, w, (0, 2, 3), F("arctan"), pos_weight, 0.125)
    options = {"pos_weight": pos_weight.double(), "label_smoothing": 0.125}
    exact = exact_losses("binary_cross_entropy", x, y, "arctan", w, **options)
    assert_sums(got, exact, (0, 2, 3))


@interpreted
def test_pos_weight_of_hard_targets():
    x, y = batch()
    for pos_weight in (0.0, 2.5):
        got = backend.cross_entropy(x, y, None, ALL, F("sigmoid"), pos_weight=pos_weight)
        exact = exact_losses("binary_cross_entropy", x, y, "sigmoid", pos_weight=pos_weight)
        assert_sums(got, exact, ALL)
    odd, one = torch.tensor([torch.nan, torch.inf, -torch.inf]), torch.ones(3)
    for nothing in (0.0, torch.zeros(3)):
        for values in backend.cross_entropy(odd, one, None, (), F("sigmoid"), pos_weight=nothing):
            assert values.tolist() == [0, 0, 0]


@interpreted
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
@pytest.mark.parametrize("of_x", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype, of_x):
    x, y = batch(dtype=of_x)
    w = (torch.linspace(0, 2, 33) > 0.5).to(dtype).expand(SHAPE)
    exact = exact_losses("binary_cross_entropy", x, y, "normal_cdf", w)
    assert_sums(backend.cross_entropy(x, y.to(dtype), w, ALL, F("normal_cdf")), exact, ALL)


@interpreted
@every
def test_a_weight_of_zero_leaves_nothing(name):
    x, y = batch(hard=False)
    w = torch.ones(SHAPE)
    w[..., 0] = 0
    spoilt, odd = x.clone(), y.clone()
    spoilt[..., 0], odd[..., 0] = torch.nan, 255
    spoilt[0, ..., 0], odd[1, ..., 0] = torch.inf, torch.nan
    slopes = torch.tensor([torch.inf, 1.0])
    for function, more in (
        (backend.cross_entropy, ()),
        (backend.squared_error, ()),
        (backend.focal_cross_entropy, (2.0, 0.25, 0.0)),
    ):
        for axis in (ALL, ()):
            value, gradient = function(x, y, w, axis, F(name), *more)
            again, its = function(spoilt, odd, w, axis, F(name), *more)
            assert torch.equal(again, value)
            assert torch.equal(its, gradient)
            assert (its[..., 0] == 0).all()
            assert axis or (again[..., 0] == 0).all()
    sums, again = (backend.overlap(*b, w, ALL, F(name), COSTS) for b in ((x, y), (spoilt, odd)))
    assert torch.equal(again, sums)
    got = backend.overlap_gradient(spoilt, odd, w, ALL, F(name), COSTS, slopes)
    assert (got[..., 0] == 0).all()


@interpreted
@pytest.mark.parametrize("axis", [ALL, (0, 2, 3)], ids=["all", "channels"])
@pytest.mark.parametrize("of_x", [torch.float16, torch.bfloat16])
def test_the_gradient_of_an_overlap_is_stored_as_the_input_is(of_x, axis):
    """Not converted afterwards. The interpreter rounds no bfloat16: it cuts it off."""
    (x, y), f = batch(hard=False, dtype=of_x), F("arctan")
    x = x.contiguous(memory_format=torch.channels_last)
    value, slopes = backend.overlap_ratio(x, y, None, axis, f, COSTS, 1.0)
    upstream = torch.full_like(value, 2**16)
    found, exact = (
        backend.overlap_gradient(x, y, None, axis, f, COSTS, slopes, upstream)
        for x in (x, x.float())
    )
    assert found.dtype == of_x
    assert found.stride() == x.stride()
    torch.testing.assert_close(found.float(), exact, rtol=torch.finfo(of_x).eps, atol=1e-7)


@interpreted
def test_infinite_slopes_of_nothing():
    x, y = torch.tensor([40.0, 40.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    slopes = torch.tensor([torch.inf, -torch.inf])
    got = backend.overlap_gradient(x, y, None, (0,), F("normal_cdf"), (2.0, 1.0, 1.0), slopes)
    assert got[:2].tolist() == [0, 0]
    assert got[2:].tolist() == [torch.inf, -torch.inf]


@interpreted
def test_rescale():
    gradient = torch.tensor([0.0, 0.0, 2.0, torch.inf])
    each = torch.tensor([torch.inf, torch.nan, 3.0, 0.0])
    nan = torch.tensor([torch.nan])
    assert backend.rescale(gradient.clone(), each, ()).tolist() == [0, 0, 6, 0]
    assert backend.rescale(nan, torch.ones(1, dtype=torch.float64), ()).isnan()
    infinity, twice = torch.tensor(torch.inf), torch.tensor(2.0, dtype=torch.float64)
    scaled = backend.rescale(gradient.clone(), infinity, (0,)).tolist()
    assert scaled == [0, 0, torch.inf, torch.inf]
    for axis in ((), (1,), (0, 1)):
        one = torch.tensor(3.0).expand([2, 4][: 2 - len(axis)])
        found = backend.rescale(gradient.expand(2, 4).clone(), one, axis)
        assert found.tolist() == [[0, 0, 6, torch.inf]] * 2
    assert backend.rescale(torch.tensor(2.0), torch.tensor(3.0), ()) == 6
    many = torch.linspace(-3, 3, 2 * backend.CHUNK + 77)
    assert torch.equal(backend.rescale(many.clone(), torch.tensor(1.0), (0,)), many)
    assert torch.equal(backend.rescale(many.clone(), twice, (0,)), 2 * many)


@interpreted
def test_sums_beyond_float32():
    x = torch.full((1000,), -1e19)
    sums, _ = backend.cross_entropy(x, torch.ones_like(x), None, (0,), F("normal_cdf"))
    assert sums.item() == pytest.approx(1000 * 1e38 / 2, rel=1e-6)


@interpreted
def test_many_equal_elements(monkeypatch):
    monkeypatch.setattr(backend, "BLOCK", 2048)
    x = torch.full((100_003,), -0.7)
    sums, _ = backend.cross_entropy(x, torch.ones_like(x), None, (0,), F("sigmoid"))
    assert sums.item() == pytest.approx(
        100_003 * np.log1p(np.exp(np.float64(x[0].neg()))), rel=2e-7
    )


@interpreted
def test_the_same_bits_twice_and_no_input_written():
    x, y = batch()
    kept = x.clone(), y.clone()
    first, second = (backend.cross_entropy(x, y, None, (1, 2, 3), F("arctan")) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert backend.cross_entropy(x, y, None, ALL, F("arctan"), gradient=False)[1] is None
    one = torch.tensor(0.5)
    assert backend.cross_entropy(one, one, None, (), F("arctan"))[0].shape == ()


@interpreted
def test_upstreams_that_are_views_of_opposite_sign():
    """As the imaginary part of a conjugate, which is negated only when it is read."""
    x, y = batch(hard=False)
    for axis in AXES.values():
        value, slopes = backend.cross_entropy(x, y, None, axis, F("arctan"))
        upstream = torch.linspace(-1, 2, value.numel()).reshape(value.shape)
        negated = torch.complex(upstream, -upstream).conj().imag
        assert negated.is_neg()
        found = backend.rescale(slopes.clone(), negated, axis)
        assert torch.equal(found, backend.rescale(slopes.clone(), upstream, axis))
