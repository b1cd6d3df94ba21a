"""What every implementation's activations have in common."""

import copy
import functools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

METHODS = ["cdf", "sf", "logcdf", "logsf", "pdf"]

finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
arrays = hnp.arrays(np.float32, 16, elements=finite32)
ULP = float(np.finfo(np.float32).eps)


def call(ns, name, method, x, **params):
    return ns.numpy(getattr(ns.package.get_activation(name, **params), method)(ns.array(x)))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_nothing(ns, activation, method):
    """An empty tensor, which has no minimum."""
    if (activation, method) != ("linear", "pdf"):
        assert call(ns, activation, method, np.zeros((0, 3), np.float32)).shape == (0, 3)


@given(x=arrays)
def test_cdf_is_monotone_and_within_0_and_1(ns, activation, x):
    x = np.sort(x)
    p = call(ns, activation, "cdf", x)
    assert np.all((p >= 0) & (p <= 1))
    # the last digit may wobble between neighbours
    assert np.all(np.diff(p) >= -4 * ULP * p[1:])


@given(x=arrays)
def test_symmetry(ns, smooth, x):
    # by definition here; what it must not do is break
    np.testing.assert_array_equal(call(ns, smooth, "sf", x), call(ns, smooth, "cdf", -x))
    np.testing.assert_array_equal(call(ns, smooth, "logsf", x), call(ns, smooth, "logcdf", -x))
    np.testing.assert_array_equal(call(ns, smooth, "pdf", x), call(ns, smooth, "pdf", -x))
    np.testing.assert_allclose(
        call(ns, smooth, "cdf", x) + call(ns, smooth, "sf", x), 1, rtol=2 * ULP
    )


@functools.cache
def compiled(ns, activation, method):
    """That method, compiled once for all examples."""
    return ns.compiled(getattr(ns.package.get_activation(activation), method))


@given(x=arrays)
def test_finite_or_the_true_infinity_on_every_finite_float(ns, activation, x):
    for method in METHODS:
        if (activation, method) == ("linear", "pdf"):
            continue
        value, (grad,) = ns.gradients(compiled(ns, activation, method), x)
        assert not np.isnan(value).any(), method
        assert np.isfinite(grad).all(), method
        # only -x^2 / 2 leaves the range of float32
        overflows = (activation == "normal_cdf") & (np.abs(x) > 2e19)
        assert np.all(np.isfinite(value) | overflows), method


@given(x=hnp.arrays(np.float32, 16, elements=st.floats(-8, 0, width=32)))
def test_ppf_inverts_cdf_on_the_left_half(ns, smooth, x):
    p = call(ns, smooth, "cdf", x)
    back = call(ns, smooth, "ppf", p)
    density = call(ns, smooth, "pdf", x)
    # what the rounding of p, 4 ulp of it, comes to in x, and 8 ulp of x for ppf itself
    allowed = 4 * ULP * p / density + 8 * ULP * np.abs(x) + 1e-7
    assert np.all(np.abs(back - x) <= allowed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits(ns, smooth, dtype):
    x = np.array([-np.inf, np.inf], dtype)
    inf = np.inf
    expected = {"cdf": [0, 1], "sf": [1, 0], "pdf": [0, 0], "logcdf": [-inf, 0], "logsf": [0, -inf]}
    for method, limits in expected.items():
        value, (grad,) = ns.gradients(getattr(ns.package.get_activation(smooth), method), x)
        np.testing.assert_array_equal(value, np.array(limits, dtype), err_msg=method)
        assert not np.isnan(grad).any(), method
    assert np.isnan(call(ns, smooth, "ppf", np.array([-0.1, 1.1], dtype))).all()
    np.testing.assert_array_equal(
        call(ns, smooth, "ppf", np.array([0, 0.5, 1], dtype)), [-inf, 0, inf]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ppf_below_the_smallest_normal_number(ns, dtype):
    """By mpmath with 50 digits; XLA and TensorFlow take such numbers for 0."""
    limits = np.finfo(dtype)
    p = np.array([limits.smallest_subnormal, limits.tiny / 3, limits.tiny], dtype)
    expected = {
        ("normal_cdf", "float32"): [-14.121426613350499, -13.034021124314926, -12.949952701187203],
        ("sigmoid", "float32"): [-103.27892990343185, -88.435156920011936, -87.336544750553109],
        ("normal_cdf", "float64"): [-38.467405617144346, -37.548628401588969, -37.5193793471445],
        ("sigmoid", "float64"): [-744.44007192138126, -709.49503082093222, -708.39641853226411],
    }
    for name in ("normal_cdf", "sigmoid"):
        np.testing.assert_allclose(
            call(ns, name, "ppf", p), expected[name, dtype], rtol=4 * limits.eps
        )


def test_ppf_of_a_negative_zero(ns, smooth):
    assert np.isneginf(call(ns, smooth, "ppf", np.array([-0.0, 0.0]))).all()


def test_nan_stays_nan(ns, activation):
    x = np.array([np.nan, 1.0, 2.0], "float32")
    for method in [*METHODS[:4], *["ppf"] * (activation != "linear")]:
        assert np.isnan(call(ns, activation, method, x)[0]), method


@pytest.mark.parametrize(
    ("name", "power", "factor"), [("arctan", 3, 2 / math.pi), ("inverse_square_root", 4, 1.5)]
)
def test_slope_of_a_density_far_out(ns, name, power, factor):
    """Which tends to a power of x, and to 0."""
    x = np.array([1e15, 3e16, 1e30, 1e75, 1e130])
    for sign in (1, -1):
        _, (slope,) = ns.gradients(ns.package.get_activation(name).pdf, sign * x)
        expected = -sign * factor * (1 / x) ** power
        np.testing.assert_allclose(slope, expected, rtol=1e-14, atol=1e-307)


@pytest.mark.parametrize(
    ("name", "x", "logcdf"),
    [
        # 50-digit values by mpmath, at inputs where the published formula gives -16.118
        ("normal_cdf", -100.0, -5005.5242086942050886),
        ("sigmoid", -100.0, -100.0),
        ("arctan", -1e30, -70.222282675670770715),
        ("softsign", -1e30, -69.77069997038131585),
        ("inverse_square_root", -1e15, -70.463847150941261139),
    ],
)
def test_log_tails_that_the_published_formulas_clip(ns, name, x, logcdf):
    value, (grad,) = ns.gradients(ns.package.get_activation(name).logcdf, np.array([x]))
    assert value[0] == pytest.approx(logcdf, rel=1e-14)
    hazard = {"normal_cdf": 100.00999800099926, "sigmoid": 1.0, "inverse_square_root": 2 / 1e15}
    assert grad[0] == pytest.approx(hazard.get(name, 1 / abs(x)), rel=1e-13)


def test_epsilon_is_the_published_squeeze(ns, activation, rng):
    """Within 1.2e-7 of the published formulas, evaluated in float32 as published."""
    x = rng.normal(0, 4, 1000).astype("float32")
    eps, one = np.float32(1e-7), np.float32(1)
    published = {
        "sigmoid": lambda x: np.float32(1e-7 + (1 - 2e-7) / (1 + np.exp(-x))),
        "arctan": lambda x: np.float32(1e-7 + (1 - 2e-7) * (0.5 + np.arctan(x) / np.pi)),
        "normal_cdf": lambda x: np.float32(
            [1e-7 + (1 - 2e-7) * 0.5 * (1 + math.erf(v / 2**0.5)) for v in x]
        ),
        "softsign": lambda x: np.float32(1e-7 + (1 - 2e-7) * (x / (1 + np.abs(x)) / 2 + 0.5)),
        "inverse_square_root": lambda x: np.float32(
            1e-7 + (1 - 2e-7) * (x / np.sqrt(1 + x * x) / 2 + 0.5)
        ),
        "hardtanh": lambda x: np.clip(x, eps, one - eps),
        "linear": lambda x: np.float32(1e-7 + (1 - 2e-7) * (x - x.min()) / (x.max() - x.min())),
    }[activation](x)
    ours = call(ns, activation, "cdf", x, epsilon=1e-7)
    np.testing.assert_allclose(ours, published, rtol=0, atol=1.2e-7)


def test_epsilon_bounds_the_logs(ns, smooth):
    x = np.array([-1e30, -50.0, 0.0, 50.0, 1e30])
    assert np.all(call(ns, smooth, "logcdf", x, epsilon=1e-3) >= math.log(1e-3) * (1 + 1e-15))
    far = call(ns, smooth, "cdf", np.array([-1e30, 1e30]), epsilon=1e-3)
    np.testing.assert_allclose(far, [1e-3, 1 - 1e-3], rtol=1e-12)
    middle = call(ns, smooth, "ppf", np.array([1e-3, 0.5, 1 - 1e-3]), epsilon=1e-3)
    assert np.isneginf(middle[0])
    assert abs(middle[1]) < 1e-15
    assert middle[2] > 5


def test_effective_domain(ns):
    """The paper's 0.0025, with closed forms."""
    eps = 0.0025
    expected = {
        "sigmoid": math.log((1 - eps) / eps),
        "normal_cdf": 2.8070337683438042,
        "arctan": math.tan(math.pi * (0.5 - eps)),
        "softsign": (1 - 2 * eps) / (2 * eps),
        "inverse_square_root": (1 - 2 * eps) / (2 * math.sqrt(eps * (1 - eps))),
    }
    for name, bound in expected.items():
        low, high = ns.package.get_activation(name).effective_domain()
        assert (low, high) == pytest.approx((-bound, bound), rel=1e-12), name
    assert ns.package.hardtanh.effective_domain() == pytest.approx((eps, 1 - eps))
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1/2\), got 0.5"):
        ns.package.sigmoid.effective_domain(0.5)


def test_hardtanh_is_the_published_clip(ns):
    x = np.array([-3.0, 0.0, 1e-7, 0.25, 0.5, 1 - 1e-7, 1.0, 3.0])
    eps = 1e-7
    inside = np.array([0, 0, 0, 1, 1, 0, 0, 0])
    value, (grad,) = ns.gradients(ns.package.hardtanh.cdf, x)
    np.testing.assert_array_equal(value, np.clip(x, eps, 1 - eps))
    np.testing.assert_array_equal(grad, inside)
    log, (grad,) = ns.gradients(ns.package.hardtanh.logcdf, x)
    np.testing.assert_allclose(log, np.log(np.clip(x, eps, 1 - eps)), rtol=1e-9)
    assert log[-1] == math.log1p(-eps)
    np.testing.assert_allclose(grad, inside / np.clip(x, eps, 1), rtol=1e-14)
    log, (grad,) = ns.gradients(ns.package.hardtanh.logsf, x)
    assert log[0] == math.log1p(-eps)
    np.testing.assert_allclose(grad, -inside / np.clip(1 - x, eps, 1), rtol=1e-14)
    # the decision threshold for a probability of 1/2
    assert call(ns, "hardtanh", "ppf", np.array([0.5]))[0] == 0.5


def test_linear_differentiates_through_its_extremes(ns):
    """Ties share equally, a constant input gives 1/2, and nothing overflows."""
    weights = np.array([1.0, 2.0, 4.0, 8.0, 16.0])

    def weighted(x):
        return ns.package.linear.cdf(x) * ns.array(weights)

    x = np.array([0.0, 0.0, 1.0, 3.0, 4.0])
    _, (grad,) = ns.gradients(weighted, x)
    # d(x_i - m) / (M - m), by hand: the two minima tie
    scale = (1 - 2e-7) / 4
    through_min = -(1 + 2 + 4 * 0.75 + 8 * 0.25) / 2
    through_max = -(4 * 0.25 + 8 * 0.75 + 16)
    by_hand = scale * np.array([1 + through_min, 2 + through_min, 4, 8, 16 + through_max])
    np.testing.assert_allclose(grad, by_hand, rtol=1e-13, atol=1e-15)
    value, (grad,) = ns.gradients(weighted, np.full(5, 7.0))
    np.testing.assert_array_equal(value, weights / 2)
    np.testing.assert_array_equal(grad, 0)
    largest = float(np.finfo("float32").max)
    far = call(ns, "linear", "cdf", np.array([-largest, 0, largest], "float32"), epsilon=0.0)
    np.testing.assert_array_equal(far, np.array([0, 0.5, 1], "float32"))


def test_linear_per_image(ns, rng):
    x = rng.normal(size=(3, 2, 4, 4))
    together = call(ns, "linear", "cdf", x, axis=(1, 2, 3))
    for image, alone in zip(x, together, strict=True):
        np.testing.assert_array_equal(call(ns, "linear", "cdf", image), alone)


def test_linear_has_no_density(ns):
    for method in ("pdf", "ppf"):
        with pytest.raises(NotImplementedError, match=f"linear has no {method}"):
            call(ns, "linear", method, np.array([0.5]))


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_computed_in_float32(ns, smooth, method):
    x = np.array([-12.0, -3.0, 0.5, 9.0], "float16")
    half = call(ns, smooth, method, x)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(
        half, call(ns, smooth, method, x.astype("float32")).astype("float16")
    )


def test_calling_is_cdf(ns, activation, rng):
    x = ns.array(rng.normal(size=7))
    f = ns.package.get_activation(activation)
    np.testing.assert_array_equal(ns.numpy(f(x)), ns.numpy(f.cdf(x)))
    layer = ns.package.OutputActivation(activation)
    np.testing.assert_allclose(ns.numpy(layer(x)), ns.numpy(f(x)), rtol=1e-6)


def test_what_is_shown_of_a_registered_one_has_its_name(ns, register):
    assert "'shown'" in repr(register("shown", cdf=ns.exp))


def test_registered_by_cdf_alone_has_clamped_logs(ns):
    name = "logistic_by_cdf"
    mine = ns.package.register_activation(name, lambda x: 1 / (1 + ns.exp(-x)))
    assert ns.package.get_activation(name) is not None
    log, (grad,) = ns.gradients(mine.logcdf, np.array([-1.0, 0.0, -88.0], "float32"))
    np.testing.assert_allclose(log, [-1.3132617, -0.6931472, -87.33655], rtol=1e-6)
    np.testing.assert_allclose(grad, [0.7310586, 0.5, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="already registered with another definition; replace=T"):
        ns.package.register_activation(name, lambda x: x)
    with pytest.raises(NotImplementedError, match=f"{name} has no pdf"):
        mine.pdf(ns.array([0.0]))


CELL = """
shift = 1.0

def steep(x):
    return logistic(2 * x)

def made_of(k):
    return lambda x: 1 / (1 + exp(-k * x - 0.0))

DEFINITIONS = {
    "lambda": dict(cdf=lambda x: 1 / (1 + exp(-x))),
    "named": dict(cdf=steep, symmetric=True),
    "enclosed": dict(cdf=made_of(3), pdf=made_of(4)),
    "partial": dict(cdf=partial(lambda x, k: 1 / (1 + exp(-k * x)), k=2.0), ppf=abs),
    "default": dict(cdf=lambda x, k=(1, 2.0): 1 / (1 + exp(-x * k[0])), logcdf=lambda x: -exp(-x)),
    "nested": dict(cdf=lambda x: (lambda t: 1 / (1 + t))(exp(-x))),
    "method": dict(cdf=kept.method),
}
"""

# In the cell above: what is put in place of what, and the definitions that are others then.
OTHER_CELLS = {
    "2 * x": ("3 * x", {"named"}),
    "made_of(4)": ("made_of(5)", {"enclosed"}),
    "k=2.0": ("k=2", {"partial"}),
    "- 0.0": ("- -0.0", {"enclosed"}),
    "(1, 2.0)": ("(1, 3.0)", {"default"}),
    "1 + t": ("2 + t", {"nested"}),
    "symmetric=True": ("symmetric=False", {"named"}),
    "ppf=abs": ("ppf=round", {"partial"}),
    "kept.method": ("kept.other", {"method"}),
}


class Kept:
    def method(self, x):
        return x

    def other(self, x):
        return 2 * x


@pytest.fixture
def run_cell(ns):
    """Runs a cell in a module of its own, which stays from run to run, as a notebook's does."""
    module = {"exp": ns.exp, "logistic": lambda x: 1 / (1 + ns.exp(-x))}
    module |= {"partial": functools.partial, "kept": Kept()}

    def run(cell):
        exec(compile(cell, "cell", "exec"), module)
        return module["DEFINITIONS"]

    return run


@pytest.fixture
def register(ns, request, monkeypatch):
    """Registers under a name that is free again after the test."""
    monkeypatch.setattr(ns.package.activations, "_REGISTRY", {**ns.package.activations._REGISTRY})
    return ns.package.register_activation


def test_a_cell_may_be_run_again(ns, run_cell, register):
    first = {name: register(name, **parts) for name, parts in run_cell(CELL).items()}
    for cell in (CELL, "\n\n# moved\n" + CELL):
        for name, parts in run_cell(cell).items():
            assert register(name, **parts) == first[name] == ns.package.get_activation(name)
    for name, parts in run_cell("logistic = abs" + CELL).items():  # looked up at each call
        register(name, **parts)


@pytest.mark.parametrize("what", OTHER_CELLS)
def test_another_definition_replaces_only_where_that_is_said(ns, run_cell, register, what):
    for name, parts in run_cell(CELL).items():
        register(name, **parts)
    changed, others = OTHER_CELLS[what]
    cell = CELL.replace(what, changed)
    assert cell != CELL
    for name, parts in run_cell(cell).items():
        if name not in others:
            register(name, **parts)
            continue
        before = ns.package.get_activation(name)
        with pytest.raises(ValueError, match=f"activation '{name}' is already registered with an"):
            register(name, **parts)
        assert ns.package.get_activation(name) == before
        after = register(name, **parts, replace=True)
        assert after == ns.package.get_activation(name) != before
        assert register(name, **parts) == after


def test_replacing_changes_what_is_made_afterwards(ns, register):
    x = ns.array(np.array([0.5]))
    old = register("twice", lambda x: 1 / (1 + ns.exp(-x)))
    new = register("twice", lambda x: 1 / (1 + ns.exp(-2 * x)), replace=True)
    for made, rate in ((old, 1), (new, 2), (ns.package.get_activation("twice", epsilon=0.0), 2)):
        expected = 1 / (1 + math.exp(-0.5 * rate))
        assert ns.numpy(made.cdf(x))[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("flag", ["symmetric", "replace"])
def test_a_flag_of_another_kind_is_refused(ns, flag, register):
    with pytest.raises(TypeError, match=f"^{flag} must be True or False, got 'yes'"):
        register("flagged", lambda x: x, **{flag: "yes"})


def test_the_seven_are_not_replaced(ns, activation, register):
    for replace in (False, True):
        with pytest.raises(ValueError, match=f"one of the seven activations, got '{activation}'"):
            register(activation, lambda x: x, replace=replace)
    with pytest.raises(TypeError, match="name must be text, got 3"):
        register(3, lambda x: x)


def test_one_that_encloses_itself_is_another(ns, register):
    def made():
        def endless(x):
            return endless and x

        return endless

    register("endless", made())
    with pytest.raises(ValueError, match="replace=True"):
        register("endless", made())


def plain_logistic(x):
    return 1 / (1 + np.exp(-x))


def test_what_can_be_pickled(ns, register):
    """Functions at the top of a module, as the docstring says; `copy` takes any."""
    register("plain", plain_logistic)
    register("unnamed", lambda x: 1 / (1 + ns.exp(-x)))
    for name in ("plain", "unnamed"):
        made = ns.package.get_activation(name, epsilon=0.1)
        assert copy.deepcopy(made) == made
    made = ns.package.get_activation("plain")
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(ns.package.get_activation("unnamed"))
    words = " ".join(ns.package.register_activation.__doc__.split())
    assert "pickled only if the functions can" in words


def test_registered_with_logcdf_is_exact(ns):
    """Gumbel's distribution, whose log is -exp(-x), in every loss."""
    gumbel = ns.package.register_activation(
        "gumbel_for_test", lambda x: ns.exp(-ns.exp(-x)), lambda x: -ns.exp(-x)
    )
    x, y = np.array([-5.0, 0.3]), np.ones(2)
    loss, (grad,) = ns.gradients(
        lambda x: ns.elementwise("binary_cross_entropy", ns.array(y), x, "gumbel_for_test"), x
    )
    np.testing.assert_allclose(loss, np.exp(-x), rtol=1e-14)
    np.testing.assert_allclose(grad, -np.exp(-x), rtol=1e-14)
    squeezed = ns.package.get_activation("gumbel_for_test", epsilon=1e-3)
    assert ns.numpy(squeezed.logcdf(ns.array([-5.0])))[0] == pytest.approx(math.log(1e-3))
    assert gumbel.name == "gumbel_for_test"


def test_registered_symmetric(ns):
    mine = ns.package.register_activation(
        "logistic_symmetric", lambda x: 1 / (1 + ns.exp(-x)), symmetric=True
    )
    assert ns.numpy(mine.sf(ns.array([40.0])))[0] == pytest.approx(math.exp(-40), rel=1e-12)


def test_registered_with_all_functions(ns):
    """The exponential distribution for x >= 0, whose methods are closed forms."""
    e = 1e-3
    ns.package.register_activation(
        "exponential",
        lambda x: 1 - ns.exp(-x),
        pdf=lambda x: ns.exp(-x),
        ppf=lambda p: -ns.array(np.log1p(-ns.numpy(p))),
    )
    x = np.array([0.5, 2.0])
    for epsilon in (0.0, e):
        cdf = epsilon + (1 - 2 * epsilon) * -np.expm1(-x)
        expected = {
            "cdf": cdf,
            "sf": 1 - cdf,
            "logcdf": np.log(cdf),
            "logsf": np.log1p(-cdf),
            "pdf": (1 - 2 * epsilon) * np.exp(-x),
        }
        for method, values in expected.items():
            got = call(ns, "exponential", method, x, epsilon=epsilon)
            np.testing.assert_allclose(got, values, rtol=1e-12, err_msg=method)
        back = call(ns, "exponential", "ppf", cdf, epsilon=epsilon)
        np.testing.assert_allclose(back, x, rtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_derivatives_by_central_differences(ns, smooth, epsilon):
    f = ns.package.get_activation(smooth, epsilon=epsilon)
    x, h = np.array([-6.0, -1.3, 0.4, 2.5]), 1e-5
    for method in METHODS:
        _, (grad,) = ns.gradients(getattr(f, method), x)
        ends = [ns.numpy(getattr(f, method)(ns.array(x + s * h))) for s in (1, -1)]
        np.testing.assert_allclose(
            grad, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=5e-11, err_msg=method
        )
    _, (grad,) = ns.gradients(f.cdf, x)
    np.testing.assert_allclose(ns.numpy(f.pdf(ns.array(x))), grad, rtol=1e-13)
    p = ns.numpy(f.cdf(ns.array(x)))
    value, (grad,) = ns.gradients(f.ppf, p)
    np.testing.assert_allclose(value, x, rtol=1e-9)
    np.testing.assert_allclose(grad, 1 / ns.numpy(f.pdf(ns.array(x))), rtol=1e-8)


def test_linear_logs_near_their_ends(ns):
    """Close to the maximum log F is -(1 - F), of which log p has lost most digits in float32."""
    x = np.array([0.0, 1 - 2.0**-20, 1.0], "float32")
    log = call(ns, "linear", "logcdf", x, epsilon=0.0)
    assert np.isneginf(log[0])
    assert log[1] == pytest.approx(math.log1p(-(2.0**-20)), rel=3 * ULP)
    assert log[2] == 0


def test_bad_names_and_parameters(ns):
    get = ns.package.get_activation
    with pytest.raises(ValueError, match=r"unknown activation 'arctn'; did you mean 'arctan'\?"):
        get("arctn")
    for name in ("gelu", "relu", "swish", "erf", "x", ""):
        with pytest.raises(ValueError, match=f"unknown activation '{name}'; known: sigmoid, norm"):
            get(name)
    with pytest.raises(TypeError, match="activation must be a name or an Activation"):
        get(abs)
    with pytest.raises(TypeError, match="params go with a name"):
        get(ns.package.arctan, epsilon=0.1)
    for epsilon in (-0.1, 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1/2\)"):
            get("arctan", epsilon=epsilon)
    with pytest.raises(TypeError, match="cdf must be a function"):
        ns.package.register_activation("not_callable", 3)
    with pytest.raises(TypeError, match=r"x must be of a floating dtype, got .*int"):
        ns.package.arctan(ns.array(np.array([1, 2])))


def test_a_name_that_is_nearly_right_finds_it(ns, activation):
    misspelt = (activation.upper(), activation[:-1], activation.replace("_", " "), f"{activation}s")
    for name in misspelt:
        if name != activation:
            with pytest.raises(ValueError, match=f"'{name}'; did you mean '{activation}'"):
                ns.package.get_activation(name)


def test_equal_by_kind_and_parameters(ns):
    get = ns.package.get_activation
    assert get("arctan") == ns.package.arctan
    assert get("arctan", epsilon=1e-7) != ns.package.arctan
    assert repr(get("linear", axis=[1, 2])) == "Linear(epsilon=1e-07, axis=(1, 2))"
    assert len({get("arctan"), ns.package.arctan, get("sigmoid")}) == 2


@pytest.mark.parametrize("epsilon", [None, 1e-7])
def test_ppf_of_a_number(ns, activation, epsilon):
    """As of a tensor; one that is no probability raises, where a tensor gives NaN."""
    if activation == "linear":
        pytest.skip("has no ppf")
    f = ns.package.get_activation(activation, epsilon=epsilon)
    for p in (0.3, np.float32(0.9), 0.5):
        found, expected = f.ppf(p), f.ppf(ns.array(np.asarray(p, "float32")))
        np.testing.assert_array_equal(ns.numpy(found), ns.numpy(expected), strict=True)
    assert ns.numpy(f.ppf(np.float64(0.25))).dtype == "float64"
    for p in (1, np.int64(1), Fraction(1, 2)):
        np.testing.assert_array_equal(ns.numpy(f.ppf(p)), ns.numpy(f.ppf(float(p))), strict=True)
    for p in (1.3, -0.1, math.nan, 2):
        with pytest.raises(ValueError, match=r"^p must lie in \[0, 1\], got"):
            f.ppf(p)
    assert np.isnan(ns.numpy(f.ppf(ns.array(np.array([1.3, -0.1], "float32"))))).all()
    with pytest.raises(TypeError, match=r"^p must be"):
        f.ppf(ns.array(np.array([0, 1])))


@pytest.mark.parametrize("epsilon", ["a", math.nan, -1e-7, 0.5, True])
def test_epsilon_is_a_number_below_one_half(ns, activation, epsilon):
    with pytest.raises(ValueError, match=r"^epsilon must lie in \[0, 1/2\), got"):
        ns.package.get_activation(activation, epsilon=epsilon)
    with pytest.raises(ValueError, match=r"^epsilon must lie in \(0, 1/2\), got"):
        ns.package.arctan.effective_domain(epsilon)


@pytest.mark.parametrize("axis", ["C", 1.5, True, (1, 1), ("N", "C")])
def test_axis_is_made_of_integers(ns, axis):
    with pytest.raises(TypeError, match=r"^axis must be an integer, several, or None, got"):
        ns.package.get_activation("linear", axis=axis)
    if ns.name != "torch":
        with pytest.raises(TypeError, match=r"^axis must be an integer, several, or None, got"):
            ns.package.losses.BinaryCrossentropy(axis=axis)


def test_axis_of_numpy(ns):
    """An integer of NumPy is one, also where it is saved."""
    x = ns.array(np.linspace(-3, 5, 24, dtype="float32").reshape(2, 3, 4))
    for axis, plain in ((np.int64(1), 1), ((np.int64(1), np.int32(2)), (1, 2)), ([1, 2], (1, 2))):
        linear, other = (ns.package.get_activation("linear", axis=a) for a in (axis, plain))
        assert repr(linear) == repr(other)
        np.testing.assert_array_equal(ns.numpy(linear(x)), ns.numpy(other(x)))
        if ns.name != "torch":
            loss = ns.package.functional.mean_squared_error
            found, expected = (loss(ns.array(np.ones((2, 3, 4))), x, axis=a) for a in (axis, plain))
            np.testing.assert_array_equal(ns.numpy(found), ns.numpy(expected))


@pytest.mark.parametrize("axis", [3, -4, (0, 3), (1, -2)])
def test_axis_is_one_of_the_input(ns, axis):
    linear = ns.package.get_activation("linear", axis=axis)
    wrong = "twice the same in" if axis == (1, -2) else "out of range for"
    with pytest.raises(ValueError, match=rf"^axis .* is {wrong} an input of shape"):
        linear(ns.array(np.ones((2, 3, 4), "float32")))
    with pytest.raises(ValueError, match=r"^axis must name a dimension"):
        ns.package.get_activation("linear", axis=())
