"""Forward mode and transforms of every method and loss, where the framework has them."""

import importlib

import numpy as np
import pytest
from names import ACTIVATIONS

LOSSES = [
    *("binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"),
    *("dice", "jaccard", "tversky", "focal_tversky", "dice_cross_entropy"),
    *("lovasz", "lovasz_hinge"),
]
METHODS = ["cdf", "sf", "logcdf", "logsf", "pdf", "ppf"]
# All losses by one activation, and these by the one that is not elementwise.
FIRST = ["binary_cross_entropy", "dice", "mean_squared_error"]
CASES = [(name, "methods") for name in ACTIVATIONS]
CASES += [("arctan", name) for name in LOSSES]
CASES += [("linear", "losses")]


@pytest.fixture
def framework(ns):
    """torch or jax."""
    name = "torch" if ns.name == "torch" else ns.keras.backend.backend()
    if name == "tensorflow":
        pytest.skip("TensorFlow has neither forward mode nor transforms")
    return importlib.import_module(name)


@pytest.fixture
def transforms(framework):
    """grad, jvp and hessian, compiled where the framework is slow otherwise."""
    if framework.__name__ == "jax":
        jit = framework.jit
        return (
            lambda f: jit(framework.grad(f)),
            lambda f: jit(lambda x, t: framework.jvp(f, (x,), (t,))[1]),
            lambda f: jit(framework.hessian(f)),
        )
    func = framework.func
    return func.grad, lambda f: lambda x, t: func.jvp(f, (x,), (t,))[1], func.hessian


def scalar(ns, activation, of, shape):
    """A function of raw outputs in (0, 1): a weighted sum of all methods, a loss, or losses."""
    weights = [ns.array(np.linspace(0.5 + i, 2, 6).reshape(shape)) for i in range(len(METHODS))]
    soft = ns.array(np.array([0.3, 0.0, 1.0, 0.8, 0.4, 0.9]).reshape(shape))
    hard = ns.array(np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]).reshape(shape))
    f = ns.package.get_activation(activation)

    def methods(x):
        skipped = {"pdf", "ppf"} if activation == "linear" else set()
        named = [(w, m) for w, m in zip(weights, METHODS, strict=True) if m not in skipped]
        return sum((w * getattr(f, m)(x)).sum() for w, m in named)

    def losses(x):
        named = FIRST if of == "losses" else [of]
        results = []
        for loss in named:
            y = hard if "lovasz" in loss else soft
            given = () if loss == "lovasz_hinge" else (activation,)
            results.append(ns.mean(loss, y, x, *given).sum())
        return sum(results)

    return methods if of == "methods" else losses


@pytest.mark.parametrize(("activation", "of"), CASES)
def test_forward_mode_and_hessians(ns, transforms, activation, of, rng):
    """Against the gradient, and its central differences."""
    grad, jvp, hessian = transforms
    x, tangent, h = rng.uniform(0.1, 0.9, (2, 3)), rng.normal(size=(2, 3)), 1e-6
    f = scalar(ns, activation, of, x.shape)
    slope = grad(f)
    along = (ns.numpy(slope(ns.array(x))) * tangent).sum()
    found = ns.numpy(jvp(f)(ns.array(x), ns.array(tangent)))
    np.testing.assert_allclose(found, along, rtol=1e-10)
    expected = np.zeros((*x.shape, *x.shape))
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        ends = [ns.numpy(slope(ns.array(x + sign * step))) for sign in (1, -1)]
        expected[index] = (ends[0] - ends[1]) / (2 * h)
    found = ns.numpy(hessian(f)(ns.array(x)))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_gradient_for_each_sample(ns, framework, loss, rng):
    """vmap of grad."""
    x, y = rng.normal(size=(3, 5)), (rng.random((3, 5)) < 0.5).astype(float)
    given = () if loss == "lovasz_hinge" else ("arctan",)
    grad, vmap = (
        (framework.grad, framework.vmap)
        if framework.__name__ == "jax"
        else (framework.func.grad, framework.func.vmap)
    )
    f = lambda x, y: ns.mean(loss, y, x, *given)  # noqa: E731
    each = ns.numpy(vmap(grad(f))(ns.array(x), ns.array(y)))
    for found, a, b in zip(each, x, y, strict=True):
        _, (alone,) = ns.gradients(lambda x, b=b: f(x, ns.array(b)), a)
        np.testing.assert_allclose(found, alone, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("activation", "of"), CASES)
def test_a_hessian_by_all_gradients_at_once(ns, framework, activation, of, rng):
    """`is_grads_batched` of PyTorch, which has rules for fewer operations than torch.func."""
    if framework.__name__ != "torch":
        pytest.skip("of PyTorch")
    x = rng.uniform(0.1, 0.9, (2, 3))
    f = scalar(ns, activation, of, x.shape)
    at_once = framework.autograd.functional.hessian(f, ns.array(x), vectorize=True)
    expected = ns.numpy(framework.func.hessian(f)(ns.array(x)))
    np.testing.assert_allclose(ns.numpy(at_once), expected, rtol=1e-9, atol=1e-12)
