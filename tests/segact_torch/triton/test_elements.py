"""Values and slopes of elements, against the oracle."""

import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

import device  # noqa: E402
from kernels import DEFAULT, FOCAL, FUNCTIONS, F, backend, every, interpreted  # noqa: E402

import segact_torch  # noqa: E402

# Activations with another epsilon than their own.
SQUEEZED = [*((name, 1e-7) for name in backend.NAMES[:-1]), ("sigmoid", 0.01), ("hardtanh", 0.01)]
# The design's, in ulp: value and gradient; of the focal loss with gamma = 2.
BOUNDS = {
    "binary_cross_entropy": (4, 8),
    "squared_error": (8, 8),
    "binary_focal_cross_entropy": (13, 16),
}


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
