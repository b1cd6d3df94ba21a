"""Second derivatives, and derivatives through functions, loops and conditions."""

import importlib

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras_losses import BACKEND, LOSSES  # noqa: E402

import segact_tf  # noqa: E402


def test_second_derivative(smooth):
    """Reverse over reverse, on every backend: against differences of the first derivative."""
    f = segact_tf.get_activation(smooth).logcdf
    points = np.array([-9.0, -1.5, 0.75, 3.0])
    load = importlib.import_module("namespaces").load("keras")
    if BACKEND == "jax":
        jax = importlib.import_module("jax")
        second = jax.vmap(jax.grad(jax.grad(f)))(points)
    elif BACKEND == "tensorflow":
        tf = importlib.import_module("tensorflow")
        x = tf.constant(points)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = f(x)
            first = inner.gradient(value, x)
        second = outer.gradient(first, x)
    else:
        torch = importlib.import_module("torch")
        x = torch.tensor(points, requires_grad=True)
        (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        second = second.detach()
    h = 1e-5
    differences = [load.gradients(f, points + s * h)[1][0] for s in (1, -1)]
    np.testing.assert_allclose(
        np.asarray(second), (differences[0] - differences[1]) / (2 * h), rtol=1e-6
    )


@pytest.mark.skipif(BACKEND != "torch", reason="what PyTorch's functions save")
@pytest.mark.parametrize("name", LOSSES)
def test_checkpoints(name, rng):
    """A checkpoint computes again what it did not keep, and gives it out once."""
    torch = importlib.import_module("torch")
    loss = LOSSES[name]()
    x = torch.tensor(rng.normal(size=(4, 6)).astype("float32"), requires_grad=True)
    y = (torch.arange(24).reshape(4, 6) % 3 == 0).float()
    (once,) = torch.autograd.grad(loss(y, x), x)
    for reentrant in (False, True):
        x.grad = None
        again = torch.utils.checkpoint.checkpoint(loss, y, x, use_reentrant=reentrant)
        again.backward()
        torch.testing.assert_close(x.grad, once, rtol=0, atol=0)


def second_derivatives(f, x):
    """Those of the sum of f(x), f being elementwise."""
    if BACKEND == "jax":
        import jax

        slopes = jax.grad(lambda x: f(x).sum())
        return jax.grad(lambda x: slopes(x).sum())(x)
    if BACKEND == "torch":
        import torch

        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), x)[0]
    import tensorflow as tf

    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            total = tf.reduce_sum(f(x))
        slope = inner.gradient(total, x)
    return outer.gradient(slope, x)


def test_second_derivative_of_a_far_tail():
    """That of -x^2 / 2, where float32 does not have the square of x."""
    x = keras.ops.convert_to_tensor(np.array([-1e17, -2e19, -1e25, -1e30], "float32"))
    found = second_derivatives(segact_tf.normal_cdf.logcdf, x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), -1, rtol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-20, 1e-30])
def test_second_derivative_with_a_small_epsilon(smooth, epsilon):
    """The square of epsilon is 0 in float32: against float64."""
    f = segact_tf.get_activation(smooth, epsilon=epsilon)
    x = np.array([-2e12, -80.0, -13.0, -0.5, 3.0, 13.0, 80.0, 2e12])
    for method in (f.logcdf, f.logsf):
        found, expected = (
            keras.ops.convert_to_numpy(second_derivatives(method, keras.ops.convert_to_tensor(t)))
            for t in (x.astype("float32"), x)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "loss", ["binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"]
)
def test_second_derivatives_of_few_operations(loss, smooth):
    """float32 has its slopes from `_compact`, float64 from the formula."""
    x, y = np.tile(np.linspace(-3, 3, 13), 3), np.repeat([0.0, 0.25, 1.0], 13)
    function = getattr(segact_tf, loss)

    def f(x):
        return function(keras.ops.convert_to_tensor(y), x, smooth, axis=())

    found, expected = (
        keras.ops.convert_to_numpy(second_derivatives(f, keras.ops.convert_to_tensor(x, dtype)))
        for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).reshape(3, 13).max(axis=1).min() > 0.01


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's functions")
@pytest.mark.parametrize(("loss", "name"), [("binary_cross_entropy", "arctan"), ("dice", "linear")])
def test_derivatives_through_a_function_a_loop_and_a_condition(loss, name, rng):
    """Whose tensors belong to a graph of their own each."""
    import tensorflow as tf

    x, y = tf.constant(rng.normal(size=(2, 3)).astype("float32")), rng.random((2, 3))

    def f(x):
        return tf.reduce_mean(getattr(segact_tf, loss)(y, x, name, validate=False))

    def in_a_loop(x):
        step = lambda i, total: (i + 1, total + f(x))  # noqa: E731
        return tf.while_loop(lambda i, total: i < 1, step, (0, tf.zeros(())))[1]

    def in_a_condition(x):
        return tf.cond(tf.reduce_sum(x) < 1e9, lambda: f(x), lambda: tf.zeros(()))

    def slopes(f, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = f(x)
        return tape.gradient(value, x)

    expected = slopes(f, x), second_derivatives(f, x)
    for each in (f, in_a_loop, in_a_condition):
        inside = tf.function(each, autograph=False)
        whole = tf.function(lambda x, each=each: second_derivatives(each, x), autograph=False)
        for got, wanted in zip(
            (slopes(inside, x), second_derivatives(inside, x), whole(x)),
            (*expected, expected[1]),
            strict=True,
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
