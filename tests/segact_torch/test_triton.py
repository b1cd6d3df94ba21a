"""The Triton kernels: their arithmetic, interpreted on a CPU, and what they compile to for a GPU.

Triton decides when it is imported whether it interprets, so that the interpreted half of this file
runs in a process of its own, which the first test starts.
"""

import contextlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

import device  # noqa: E402

import segact_torch  # noqa: E402
from segact_torch import _backends, _sums  # noqa: E402
from segact_torch._backends import compact, operators  # noqa: E402
from segact_torch._backends.triton import launch as backend  # noqa: E402

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
compiled = pytest.mark.skipif(INTERPRETED, reason="the kernels are interpreted here")
every = pytest.mark.parametrize("name", backend.NAMES)
# Activations with their own epsilon, and with another.
DEFAULT = [(name, None) for name in backend.NAMES]
SQUEEZED = [*((name, 1e-7) for name in backend.NAMES[:-1]), ("sigmoid", 0.01), ("hardtanh", 0.01)]

F = segact_torch.get_activation
FUNCTIONS = {
    "binary_cross_entropy": backend.cross_entropy,
    "squared_error": backend.squared_error,
    "binary_focal_cross_entropy": backend.focal_cross_entropy,
}
# The design's, in ulp: value and gradient; of the focal loss with gamma = 2.
BOUNDS = {
    "binary_cross_entropy": (4, 8),
    "squared_error": (8, 8),
    "binary_focal_cross_entropy": (13, 16),
}
# Of true positives, false positives and false negatives.
COSTS = (2.0, 0.5, 0.75)
POINTERS = ["x", "y", "w", "factors", "out", "gradient", "sums", "value", "slopes", "upstream"]
FOCAL = {"gamma": 2.0, "alpha": None, "label_smoothing": 0.0}


@compiled
def test_the_interpreted_half():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "passed" in run.stdout


@compiled
def test_the_losses_by_interpreted_kernels():
    """Through the whole loss; what no kernel serves goes to the formulas."""
    tests = "(arctan and (ignored or second_derivatives)) or hooks or batched"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", tests]
    command.append(str(Path(__file__).with_name("test_fused.py")))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "SEGACT_KERNELS": "triton"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "passed" in run.stdout


@pytest.fixture(autouse=True)
def _large_blocks(monkeypatch):
    """The interpreter takes as long for any block."""
    if INTERPRETED:
        monkeypatch.setattr(backend, "BLOCK", 16384)


@pytest.fixture(autouse=True)
def _quiet():
    """NumPy says what overflows where it is not used."""
    with np.errstate(all="ignore"):
        yield


# ---- elements, against the oracle ----


def inputs(name):
    generator = np.random.default_rng(5)
    extremes = [0.0, 1e-30, 1.0, 13.3, 14.0, 88.0, 1e4, 9e11, 2e12, 1e13, 2e19, 1e30, 3e38, np.inf]
    if name == "hardtanh":
        x = [generator.uniform(-0.1, 1.1, 15_000), [1e-7, 2e-7, 1 - 1e-7, 1 - 6e-8]]
    else:
        bits = generator.integers(0x00800000, np.float32(1e4).view(np.int32), 4_000)
        sizes = bits.astype(np.int32).view(np.float32)
        x = [generator.uniform(-20, 20, 7_000), sizes, -sizes]
    x = np.concatenate([*x, extremes, np.negative(extremes)], dtype=np.float32)
    return {"x": x, "y": generator.uniform(0, 1, len(x)).astype(np.float32)}


def assert_elements_keep_the_bounds(name, epsilon, loss, option, arrays):
    pytest.importorskip(
        "parity.reference.float64", reason="the judge's own needs are not installed"
    )
    from parity.accuracy.error import errors
    from parity.reference import float64 as oracle
    from parity.suite.case import Case, default_epsilon

    epsilon = default_epsilon(name) if epsilon is None else epsilon
    case = Case("triton", "float32", name, loss, option, epsilon)
    if "focal" in loss and case.epsilon and name != "hardtanh":
        # what the density carried, 1 / epsilon, is not lost where that is no factor below normal
        density = F(name).pdf(torch.from_numpy(arrays["x"]).double()).numpy()
        kept = density > np.finfo(np.float32).tiny
        arrays = {part: values[kept] for part, values in arrays.items()}
    batch = case.bind(arrays)
    expected, scales = oracle.evaluate(batch), oracle.scales(batch)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(batch.y)
    options = FOCAL if "focal" in loss else {}
    f = segact_torch.get_activation(name, epsilon=epsilon)
    got = FUNCTIONS[loss](x, y, None, (), f, **options)
    for part, values, bound in zip(("value", "grad_x"), got, BOUNDS[loss], strict=True):
        error = errors(batch, part, values.numpy(), expected[part], scales.get(part))
        # where the oracle itself has infinity times zero
        error = np.where(np.isnan(expected[part]), 0, error)
        worst = error.argmax()
        assert error[worst] <= bound, (part, x[worst], y[worst], values[worst], error[worst])


@interpreted
@pytest.mark.parametrize(("name", "epsilon"), [*DEFAULT, *SQUEEZED])
@pytest.mark.parametrize("loss", FUNCTIONS)
@pytest.mark.parametrize("option", ["y=0", "y=1", "y=soft"])
def test_elements_keep_the_bounds(name, epsilon, loss, option):
    assert_elements_keep_the_bounds(name, epsilon, loss, option, inputs(name))


# Where the loops' e^x was once off by more than a squared error may be.
HARD = [-2.691033363342285, -4.489119529724121, -2.781437635421753]


def sweep():
    """Every so many float32, and more of them from 1/64 to 32; -x is 1 - F(x)."""
    ends = np.float32([1 / 64, 32]).view(np.int32)
    bits = np.concatenate([np.arange(0x00800000, 0x7F800000, 131_071), np.arange(*ends, 4_093)])
    sizes = bits.astype(np.int32).view(np.float32)
    return {"x": np.concatenate([sizes, -sizes, HARD], dtype=np.float32)}


@interpreted
@pytest.mark.parametrize(("name", "epsilon"), [*DEFAULT[:-1], ("sigmoid", 1e-7)])
@pytest.mark.parametrize("loss", FUNCTIONS)
@pytest.mark.parametrize("ulp", [None, -2, 2], ids=["rounded", "quick, low", "quick, high"])
def test_a_sweep_keeps_the_bounds(name, epsilon, loss, ulp, monkeypatch):
    """Also by a device's quick quotients, and with products that it does not round."""
    monkeypatch.setattr(backend, "BLOCK", 131_072)
    with contextlib.nullcontext() if ulp is None else device.arithmetic(ulp):
        assert_elements_keep_the_bounds(name, epsilon, loss, "y=0", sweep())


@interpreted
@pytest.mark.parametrize("gamma", [0.3, 1.0, 1.5, 5.0])
def test_powers_of_the_focal_loss(name_and_power_bound, gamma):
    name, bound = name_and_power_bound
    x = torch.from_numpy(inputs(name)["x"])
    for y in (torch.zeros_like(x), torch.ones_like(x)):
        value, slope = backend.focal_cross_entropy(x, y, None, (), F(name), gamma, 0.25, 0.0)
        wide = x.double().requires_grad_()
        exact = segact_torch.binary_focal_cross_entropy(
            *(wide, y.double(), name), gamma=gamma, alpha=0.25, reduction="none", validate=False
        )
        (exact_slope,) = torch.autograd.grad(exact.sum(), wide)
        relative = bound(gamma) * 2.0**-23
        close(value, exact.detach(), relative)
        close(slope, exact_slope, relative)


@interpreted
def test_a_gamma_of_zero_is_cross_entropy():
    x = torch.from_numpy(inputs("sigmoid")["x"])
    for y in (torch.zeros_like(x), torch.ones_like(x)):
        focal = backend.focal_cross_entropy(x, y, None, (), F("sigmoid"), 0.0, None, 0.0)
        assert all(map(torch.equal, focal, backend.cross_entropy(x, y, None, (), F("sigmoid"))))


@pytest.fixture(params=["sigmoid", "arctan"])
def name_and_power_bound(request):
    return request.param, lambda gamma: (2 + gamma) * 4 + 1


def close(got, exact, relative):
    """Relatively, give or take the smallest normal number."""
    tiny = torch.finfo(torch.float32).tiny
    torch.testing.assert_close(got.double(), exact.double(), rtol=relative, atol=tiny)


@interpreted
@every
@pytest.mark.parametrize("loss", FUNCTIONS)
def test_not_a_number_stays_one(name, loss):
    options = FOCAL if "focal" in loss else {}
    nan, one = torch.tensor([torch.nan]), torch.tensor([1.0])
    for x, y in ((nan, one), (nan, 0 * one), (nan, one / 2), (one / 4, nan)):
        for value in FUNCTIONS[loss](x, y, None, (), F(name), **options):
            assert value.isnan().all(), (x, y)


# ---- sums, against the formulas in float64 ----

SHAPE = (3, 2, 40, 33)
ALL = (0, 1, 2, 3)
AXES = {
    "all": ALL,
    "samples": (1, 2, 3),
    "channels": (0, 2, 3),
    "both": (2, 3),
    "columns": (0, 1, 2),
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
}


def batch(hard=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    x = (3 * torch.randn(SHAPE, generator=generator)).to(dtype)
    y = torch.rand(SHAPE, generator=generator)
    return x, (y < 1 / 3).float() if hard else y


def exact_losses(loss, x, y, name, w=None, **options):
    """Losses and slopes of elements in float64, by the public functions."""
    function = getattr(segact_torch, loss.replace("squared", "mean_squared"))
    wide = x.detach().double().contiguous().requires_grad_()
    weight = {} if w is None else {"weight": w.double()}
    value = function(
        wide, y.double(), rounded(name), reduction="none", validate=False, **weight, **options
    )
    (slope,) = torch.autograd.grad(value.sum(), wide)
    return value.detach(), slope


def rounded(activation):
    """The activation with its epsilon as the kernels have it."""
    f = F(activation)
    return type(f)(float(np.float32(f.epsilon)))


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


# ---- what is served ----

PER_CHANNEL = torch.tensor([0.5, 3.0]).reshape(2, 1, 1)
SERVED = {
    "binary_cross_entropy": ({}, {"reduction": "none"}, {"pos_weight": PER_CHANNEL}),
    "binary_focal_cross_entropy": ({}, {"gamma": 0.5, "alpha": 0.25, "label_smoothing": 0.125}),
    "mean_squared_error": ({},),
    "dice": ({}, {"per_sample": True, "channel_axis": 1, "smooth": 1.0}),
    "jaccard": ({"channel_axis": 1},),
    "tversky": ({"alpha": 0.25, "beta": 0.75},),
    "focal_tversky": ({"per_sample": True},),
    "dice_cross_entropy": ({"per_sample": True, "pos_weight": PER_CHANNEL},),
}


@interpreted
@pytest.mark.parametrize(
    ("loss", "options"),
    [(loss, options) for loss, all in SERVED.items() for options in all],
    ids=str,
)
def test_kernels_serve_all_that_loops_do(loss, options, monkeypatch):
    """But `linear`, float64 and the steepest focal losses: no formula is asked for."""
    f = F("arctan", epsilon=0.01)

    def step(x):
        x = x.clone().requires_grad_()
        value = getattr(segact_torch, loss)(x, y.to(x.dtype), f, **options)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    x, y = batch(hard=False)
    expected = step(x.double())
    monkeypatch.setattr(_backends.availability, "KERNELS", "triton")
    formulas = ("cross_entropy", "focal_cross_entropy", "squared_error", "overlap", "ratio")
    for module, name in itertools.product((_sums, compact), formulas):
        monkeypatch.setattr(module, name, None, raising=False)
    for part, exact, bound in zip(step(x), expected, (1e-6, 1e-5), strict=True):
        atol = bound * float(exact.abs().max())
        torch.testing.assert_close(part.double(), exact, rtol=0, atol=atol)


# ---- as operators, in compiled code ----


@pytest.fixture
def compiled_calls_the_kernels(monkeypatch):
    monkeypatch.setattr(_backends.availability, "KERNELS", "triton")
    monkeypatch.setattr(_backends, "LARGE", 1)
    torch._dynamo.reset()


@interpreted
def test_operators_are_registered_as_they_behave(compiled_calls_the_kernels):
    """Shapes, strides, aliases and gradients, in PyTorch's own check."""
    x = torch.linspace(-3, 3, 60).reshape(2, 2, 3, 5).requires_grad_()
    y, w = (x.detach() > 1).float(), torch.linspace(0, 2, 60).reshape(x.shape)
    elements = operators.elements_operator
    torch.library.opcheck(elements, (x, y, w, [1, 2, 3], True, 2, 2, 0.0, 0.25, 0.75, 1.5, 0.125))
    torch.library.opcheck(elements, (x, y, None, [], True, 0, 2, 0.0, 1.5, 1.0, 0.0, 0.125))


@interpreted
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("binary_cross_entropy", {"pos_weight": 2.5, "label_smoothing": 0.125}),
        ("binary_cross_entropy", {"reduction": "none"}),
        ("mean_squared_error", {}),
        ("binary_focal_cross_entropy", {"gamma": 1.5, "alpha": 0.25}),
        ("binary_focal_cross_entropy", {"gamma": 1100.0}),
    ],
    ids=str,
)
def test_compiled_code_calls_the_kernels(compiled_calls_the_kernels, loss, options):
    x, y = batch()
    w, graphs = torch.linspace(0, 2, 33).expand(1, 1, 1, 33), []

    def of(x):
        return getattr(segact_torch, loss)(x, y, "arctan", weight=w, **options).sum()

    def note(graph, inputs):
        graphs.append(graph.code)
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.backends.registry.lookup_backend("aot_eager")
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = torch.compile(of, backend=note, fullgraph=True)(leaf), of(other)
    assert "torch.ops.segact" in graphs[0]
    (found,) = torch.autograd.grad(65536 * value, leaf, retain_graph=True)
    (slope,) = torch.autograd.grad(65536 * expected, other)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-5 * float(slope.abs().max()))
    # twice, and where a scaled loss of half precision has overflown: what weighs 0 stays 0
    (again,) = torch.autograd.grad(torch.inf * value, leaf)
    assert torch.equal(again, torch.where(found == 0, 0.0, torch.inf * found.sign()))


@interpreted
@pytest.mark.parametrize(("loss", "from_here"), [("mean_squared_error", 1 << 24), ("dice", 1)])
def test_other_compiled_code_is_the_compilers(
    compiled_calls_the_kernels, monkeypatch, loss, from_here
):
    monkeypatch.setattr(_backends, "LARGE", from_here)
    graphs = []

    def note(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compile(getattr(segact_torch, loss), backend=note, fullgraph=True)(*batch())
    assert "torch.ops.segact" not in graphs[0]


# ---- which compiled kernel is launched ----


class Kernel:
    """One of Triton's that only says what is launched: anew, or what was compiled before."""

    fn = "losses"
    arg_names = ("a", "b")

    def __init__(self, signature):
        self.signature, self.launched = signature, []

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.launched.append("anew")
            again = {grid: lambda *arguments: self.launched.append("again")}
            return type("Compiled", (dict,), {"src": self})(again)

        return launch


def test_what_was_compiled_is_launched_only_where_it_fits(monkeypatch):
    kernel = Kernel({"a": "*fp32", "b": "constexpr"})
    monkeypatch.setattr(backend.kernels, "losses", kernel)
    backend.rows_of.cache_clear()
    room = torch.zeros(1025)
    x, other = room[:1024], room[1:]
    assert x.data_ptr() % 16 == 0

    def launched(*arguments, **options):
        backend.cross_entropy(*arguments, None, (0,), F("arctan"), **options)
        return kernel.launched.pop()

    assert launched(x, x) == "anew"
    assert launched(x, x) == "again"
    assert launched(x, x, scale=0.5) == "again"
    # aligned otherwise, of other types, with other constants, of another length
    different = [(other, x), (x, other), (x.half(), x), (x, x.int()), (x[:1023], x[:1023])]
    for arguments in different:
        assert launched(*arguments) == "anew"
        assert launched(*arguments) == "again"
    assert launched(x, x, pos_weight=2.0) == "anew"
    assert launched(x, x, gradient=False) == "anew"
    assert launched(x, x) == "again"
    backend.rows_of.cache_clear()


def test_what_takes_other_arguments_is_not_launched_directly(monkeypatch):
    kernel = Kernel({"a": "*fp32"})
    monkeypatch.setattr(backend.kernels, "losses", kernel)
    backend.rows_of.cache_clear()
    x = torch.zeros(1024)
    for _ in range(2):
        backend.cross_entropy(x, x, None, (0,), F("arctan"))
    assert kernel.launched == ["anew", "anew"]
    backend.rows_of.cache_clear()


# ---- the host's part of a launch ----


KERNELS = ("losses", "overlap", "ratio", "overlap_gradient", "rescale", "multiply")


@pytest.fixture
def launched(monkeypatch):
    """The kernels of the losses on CPU tensors, compiled for a GPU and launched nowhere."""
    from launches import launches

    monkeypatch.setattr(_backends.availability, "KERNELS", "triton")
    backend.rows_of.cache_clear()
    with launches(*(getattr(backend.kernels, name) for name in KERNELS)) as driver:
        yield driver.launched
    backend.rows_of.cache_clear()


STEPS = {
    "binary_cross_entropy": ["losses", "rescale"],
    "mean_squared_error": ["losses", "rescale"],
    "binary_focal_cross_entropy": ["losses", "rescale"],
    "dice": ["overlap", "ratio", "overlap_gradient"],
    "focal_tversky": ["overlap", "ratio", "overlap_gradient"],
    "dice_cross_entropy": ["overlap", "ratio", "overlap_gradient"],
}


@compiled
@pytest.mark.parametrize("loss", STEPS)
def test_every_step_launches_its_kernels(launched, loss):
    """Triton does more with a kernel than to compile it, and more again at the second launch."""
    function = getattr(segact_torch, loss)
    for size, dtype in itertools.product((512, 512, 37), (torch.float32, torch.float16)):
        x = torch.zeros(4, size, dtype=dtype, requires_grad=True)
        y = torch.zeros(4, size, dtype=torch.uint8)
        function(x, y, "arctan").backward()
        assert [name for name, _ in launched] == STEPS[loss]
        for name, arguments in launched:
            names = getattr(backend.kernels, name).arg_names
            assert len(arguments) == len(names)
            tensors = [isinstance(a, torch.Tensor) for a in arguments]
            assert tensors == [n in POINTERS for n in names]
        launched.clear()


OF_NUMBERS = [
    ("binary_cross_entropy", {"pos_weight": 2, "label_smoothing": 0.25}),
    ("binary_focal_cross_entropy", {"gamma": 1.5, "alpha": 0.25, "label_smoothing": 0.25}),
    ("binary_focal_cross_entropy", {"gamma": 2}),
    ("focal_tversky", {"alpha": 0.25, "beta": 0.75, "gamma": 1.5, "smooth": 1}),
    ("dice_cross_entropy", {"smooth": 1, "lambda_ce": 0.5, "label_smoothing": 0.25}),
]


@compiled
@pytest.mark.parametrize("number", [np.float32, np.float64])
@pytest.mark.parametrize(("loss", "options"), OF_NUMBERS, ids=str)
def test_numbers_may_be_those_of_numpy(launched, loss, options, number):
    x = torch.zeros(4, 512, requires_grad=True)
    options = {name: number(value) for name, value in options.items()}
    activation = F("arctan", epsilon=number(0.25))
    getattr(segact_torch, loss)(x, torch.zeros(4, 512), activation, **options).backward()
    assert [name for name, _ in launched] == STEPS[loss]


@compiled
def test_no_constant_differs_from_itself():
    """Triton compares them before a launch, and refuses one that changed."""
    from triton.language import constexpr

    from segact_torch._backends.triton import activations, arithmetic, kernels

    found = [
        value for module in (arithmetic, activations, kernels) for value in vars(module).values()
    ]
    constants = [one.value for one in found if isinstance(one, constexpr)]
    assert len(constants) > 3
    assert all(value == value for value in constants)


@compiled
def test_elementwise_losses_launch_their_kernels(launched):
    x = torch.zeros(4, 512, requires_grad=True)
    for _ in range(2):
        each = segact_torch.binary_cross_entropy(x, torch.zeros(4, 512), reduction="none")
        each.square().sum().backward()
    assert [name for name, _ in launched] == ["losses", "multiply"] * 2


@compiled
def test_what_is_upstream_of_a_sum_is_not_written_for_each_element(launched):
    x = torch.zeros(4, 512, requires_grad=True)
    for _ in range(2):
        each = segact_torch.binary_cross_entropy(x, torch.zeros(4, 512), reduction="none")
        each.sum().backward()
        assert launched[-1][1][1].numel() == 1
    assert [name for name, _ in launched] == ["losses", "rescale"] * 2


# ---- what they compile to ----


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "triton_resources", ROOT / "scripts" / "triton_resources.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@compiled
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize(
    ("kernel", "activation"),
    [
        *(("cross_entropy", "normal_cdf"), ("cross_entropy", "inverse_square_root")),
        *(("squared_error", "normal_cdf"), ("focal", "normal_cdf")),
        *(("overlap", "normal_cdf"), ("overlap_gradient", "sigmoid"), ("rescale", "")),
        *(("overlap and entropy", "normal_cdf"), ("gradient of both", "normal_cdf")),
        ("ratio", ""),
    ],
)
def test_no_register_is_spilled(script, kernel, activation, target):
    """The heaviest of each kernel; the script makes the table of all."""
    assert_nothing_is_spilled(script.resources(kernel, activation, target))


@compiled
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("kernel", ["cross_entropy", "focal"])
def test_no_register_is_spilled_by_options(script, kernel, target):
    options = dict.fromkeys(("SQUEEZED", "EACH_POSITIVE", "SMOOTHED", "WEIGHTED"), True)
    assert_nothing_is_spilled(script.resources(kernel, "normal_cdf", target, **options))


def assert_nothing_is_spilled(found):
    assert found.spilled == 0
    assert 0 < found.registers <= 256
    assert found.per_element > 1
