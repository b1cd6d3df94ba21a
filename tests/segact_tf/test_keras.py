"""What is Keras's own: compiled modes, `fit`, the contract of its losses, saving."""

import importlib
import inspect
import math
import re
import subprocess
import sys
import warnings
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
from names import ACTIVATIONS, OVERLAP

keras = pytest.importorskip("keras")
import segact_tf  # noqa: E402

BACKEND = keras.backend.backend()
LOSSES = {
    "binary_cross_entropy": segact_tf.losses.BinaryCrossentropy,
    "dice": segact_tf.losses.Dice,
    "mean_squared_error": segact_tf.losses.MeanSquaredError,
    "binary_focal_cross_entropy": segact_tf.losses.BinaryFocalCrossentropy,
    "jaccard": segact_tf.losses.Jaccard,
    "tversky": segact_tf.losses.Tversky,
    "focal_tversky": segact_tf.losses.FocalTversky,
    "dice_cross_entropy": segact_tf.losses.DiceCrossentropy,
    "lovasz": segact_tf.losses.Lovasz,
    "lovasz_hinge": segact_tf.losses.LovaszHinge,
}
FIRST = list(LOSSES)[:3]
# The first three losses with every activation, the others with one: they are called alike.
PAIRS = [(loss, activation) for loss in FIRST for activation in ACTIVATIONS]
PAIRS += [(loss, "arctan") for loss in LOSSES if loss not in FIRST]
MODES = {"tensorflow": ["graph", "xla"], "jax": ["jit"], "torch": []}[BACKEND]


def make(loss, activation, **options):
    return (
        LOSSES[loss](**options) if loss == "lovasz_hinge" else LOSSES[loss](activation, **options)
    )


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    return request.param


@pytest.fixture
def table(rng):
    """(N, 8) inputs and (N,) labels, as `fit` gets them."""
    x = rng.normal(size=(64, 8)).astype("float32")
    return x, (x.sum(1) > 0).astype("float32")


def compiled(f, mode):
    """f of arrays in that mode of the backend, with the gradient of its sum in the last one."""
    framework = importlib.import_module(BACKEND)
    if BACKEND == "jax":

        def value_and_grad(*arrays):
            value, pull = framework.vjp(lambda x: f(*arrays[:-1], x), arrays[-1])
            return value, pull(framework.numpy.ones_like(value))[0]

        g = framework.jit(value_and_grad)
    else:

        def value_and_grad(*arrays):
            with framework.GradientTape() as tape:
                tape.watch(arrays[-1])
                value = f(*arrays)
            return value, tape.gradient(value, arrays[-1])

        g = framework.function(value_and_grad, jit_compile=mode == "xla")
    return lambda *arrays: [np.asarray(a) for a in g(*map(keras.ops.convert_to_tensor, arrays))]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["cdf", "logcdf", "pdf"])
def test_compiled_activations_keep_the_bounds(smooth, method, mode, dense_error):
    """8 ulp for values and 16 for gradients: XLA has its own exp and log, and fuses."""
    f = getattr(segact_tf.get_activation(smooth), method)
    value, grad = dense_error(compiled(f, mode), smooth, method)
    assert value <= 8
    assert grad <= 16


@pytest.mark.parametrize("mode", MODES)
def test_compiled_losses(pair, mode, rng):
    x = rng.normal(0, 4, (4, 6, 6, 1)).astype("float32")
    y = (rng.random(x.shape) < 0.4).astype("float32")
    f = make(*pair)
    eager, (grad,) = (
        importlib.import_module("namespaces").load("keras").gradients(lambda x: f(y, x), x)
    )
    value, compiled_grad = compiled(f, mode)(y, x)
    assert value == pytest.approx(eager, rel=4e-6)
    np.testing.assert_allclose(compiled_grad, grad, rtol=0, atol=2e-5 * np.abs(grad).max())


@pytest.mark.parametrize("mode", MODES)
def test_compiled_sums_of_ten_million(loss, mode):
    """Equal numbers added one after the other, as XLA would on a CPU, are off by 0.6 %."""
    x = np.full(10_000_000, -2.0, "float32")
    y = np.zeros_like(x)
    y[::2] = 1
    f = LOSSES[loss]()
    p = 1 / (1 + np.exp(2.0))
    on, off = -np.log(p), -np.log1p(-p)
    expected = {
        "binary_cross_entropy": (on + off) / 2,
        "binary_focal_cross_entropy": ((1 - p) ** 2 * on + p**2 * off) / 2,
        "dice": 0.5 / (p + 0.5),
        "mean_squared_error": ((1 - p) ** 2 + p**2) / 2,
        "jaccard": 1 / (1 + p),
        "tversky": 0.5 / (p + 0.5),
        "focal_tversky": ((0.3 * p + 0.7 * (1 - p)) / (1.3 * p + 0.7 * (1 - p))) ** 0.75,
        "dice_cross_entropy": 0.5 / (p + 0.5) + (on + off) / 2,
        "lovasz": 1 - p,
        "lovasz_hinge": 3.0,
    }[loss]
    assert float(compiled(f, mode)(y[:, None], x[:, None])[0]) == pytest.approx(expected, rel=2e-6)


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


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit(pair, table, jit_compile):
    loss, activation = pair
    if jit_compile and BACKEND == "torch" and activation not in ("arctan", "linear"):
        pytest.skip("torch.compile takes seconds for each; two stand for all")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss=make(loss, activation), jit_compile=jit_compile)
    history = model.fit(*table, epochs=2, verbose=0, sample_weight=np.ones(64, "float32"))
    assert np.isfinite(history.history["loss"]).all()


def test_fit_with_an_activated_head(smooth, table):
    """Dense(1, activation=F) under from_logits=False trains as Dense(1) under the loss with F."""
    losses = []
    for head, loss in (
        (None, segact_tf.losses.Dice(activation=smooth)),
        (segact_tf.get_activation(smooth), segact_tf.losses.Dice(from_logits=False)),
    ):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, activation=head)])
        model.compile(optimizer="sgd", loss=loss)
        losses.append(model.fit(*table, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_sample_weight_and_reduction_are_those_of_keras(reduction, weighted, rng):
    x = rng.normal(0, 2, (5, 3)).astype("float32")
    y = (rng.random((5, 3)) < 0.5).astype("float32")
    weight = rng.uniform(0, 2, 5).astype("float32") if weighted else None
    ours = segact_tf.losses.BinaryCrossentropy(reduction=reduction)
    stock = keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours(y, x, sample_weight=weight)),
        keras.ops.convert_to_numpy(stock(y, x, sample_weight=weight)),
        rtol=2e-6,
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_keras_mask(weighted):
    """The mask that an Embedding leaves on y_pred counts as it does in Keras's own loss."""
    words = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [1, 1, 2, 3]])
    y = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1]], "float32")[..., None]
    weight = np.linspace(0.5, 2, 12, dtype="float32").reshape(3, 4) if weighted else None
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Embedding(4, 5, mask_zero=True), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    values = []
    for loss in (
        segact_tf.losses.BinaryCrossentropy(),
        keras.losses.BinaryCrossentropy(from_logits=True),
    ):
        model.compile(optimizer="sgd", loss=loss)
        values.append(model.evaluate(words, y, sample_weight=weight, verbose=0))
    assert values[0] == pytest.approx(values[1], rel=2e-6)
    raw = model.predict(words, verbose=0)
    unmasked = keras.losses.BinaryCrossentropy(from_logits=True)(y, raw, sample_weight=weight)
    assert values[1] != pytest.approx(float(unmasked), rel=1e-5), "the mask did nothing"


def test_functions_save_and_load(loss, table, tmp_path):
    """compile(loss=function): Keras has functions of the same names, which must not take over."""
    x, y = table
    y = y[:, None]
    function = getattr(segact_tf.losses, loss)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss=function)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.evaluate(x, y, verbose=0, batch_size=64)
    assert loaded.evaluate(x, y, verbose=0, batch_size=64) == pytest.approx(expected, rel=1e-6)


def test_subclasses_need_no_registration(table):
    class MyDice(segact_tf.losses.Dice):
        pass

    class Squared(segact_tf.Activation):
        name = "squared"

        def cdf(self, x):
            return segact_tf.sigmoid(x) ** 2

        def sf(self, x):
            return 1 - self.cdf(x)

    x, y = table
    assert np.isfinite(float(MyDice(Squared())(y, x[:, 0])))


def of_logits(self, x):
    return keras.ops.sigmoid(x)


class Given(segact_tf.Activation):
    """Its methods are given in all ways that Python has."""

    name = "given"
    cdf = of_logits
    sf = lambda self, x: keras.ops.sigmoid(-x)  # noqa: E731
    logcdf = staticmethod(keras.ops.log_sigmoid)
    logsf = partialmethod(lambda self, factor, x: keras.ops.log_sigmoid(factor * x), -1.0)


@pytest.mark.parametrize("method", ["cdf", "sf", "logcdf", "logsf"])
def test_methods_of_subclasses_may_be_any_callable(method, rng):
    f, x = Given(), rng.normal(size=(4, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(getattr(segact_tf.sigmoid, method)(x))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(getattr(f, method)(x)), expected, rtol=1e-5
    )
    inputs = keras.Input((3,))
    model = keras.Model(inputs, getattr(f, method)(inputs))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), expected, rtol=1e-5)


NOTHING = {"None": None, "text": "a", "mapping": {"a": 1.0}, "objects": np.array([object()])}


@pytest.mark.parametrize("wrong", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight", "mask", "pos_weight"])
def test_what_is_no_tensor_is_named(name, wrong):
    if wrong is None and not name.startswith("y_"):
        pytest.skip("None is the default")
    given = {"y_true": np.zeros((2, 3)), "y_pred": np.zeros((2, 3)), name: wrong}
    line = f"^{name} must be a tensor of numbers, got "
    with pytest.raises(TypeError, match=line):
        segact_tf.binary_cross_entropy(**given)
    if name in ("y_true", "y_pred", "sample_weight"):
        with pytest.raises(TypeError, match=line):
            segact_tf.Dice()(**given)


@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight"])
def test_ragged_and_sparse_tensors_are_named(name):
    if BACKEND != "tensorflow":
        pytest.skip("TensorFlow's own")
    tf = importlib.import_module("tensorflow")
    kinds = {"Ragged": tf.ragged.constant([[1.0, 0.0], [1.0]]), "Sparse": tf.sparse.eye(2)}
    for kind, wrong in kinds.items():
        given = {"y_true": np.zeros((2, 2)), "y_pred": np.zeros((2, 2)), name: wrong}
        for f in (segact_tf.dice, segact_tf.Dice()):
            with pytest.raises(TypeError, match=f"^{name} must be a tensor .* got {kind}Tensor of"):
                f(**given)


@pytest.mark.parametrize("wrong", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("method", ["cdf", "sf", "logcdf", "logsf"])
def test_activations_name_what_is_no_tensor(activation, method, wrong):
    f = segact_tf.get_activation(activation)
    with pytest.raises(TypeError, match=r"^x must be a tensor of numbers, got "):
        getattr(f, method)(wrong)


def test_stock_mean_squared_error_of_the_probability(rng):
    x = rng.normal(0, 2, (5, 3)).astype("float32")
    y = rng.random((5, 3)).astype("float32")
    ours = segact_tf.losses.MeanSquaredError("arctan")(y, x)
    stock = keras.losses.MeanSquaredError()(y, segact_tf.arctan(x))
    assert float(ours) == pytest.approx(float(stock), rel=1e-5)


def test_column_of_predictions_beside_a_row_of_labels(loss, rng):
    x, y = rng.normal(size=(6, 1)).astype("float32"), np.array([0, 1, 1, 0, 1, 0], "float32")
    f = make(loss, "arctan")
    assert float(f(y, x)) == float(f(y[:, None], x)) == float(f(y[:, None], x[:, 0]))
    with pytest.raises(ValueError, match=r"same shape, got y_true \(6,\) and y_pred \(6, 2\)"):
        f(y, np.repeat(x, 2, 1))


def test_from_probabilities_clips_on_every_backend():
    """A raw 200 through keras.ops.sigmoid: 15.94, also on TensorFlow, whose stock loss says 200."""
    p = keras.ops.sigmoid(keras.ops.convert_to_tensor(np.array([[200.0]], "float32")))
    ours = segact_tf.losses.BinaryCrossentropy(from_logits=False)
    assert float(ours(np.zeros((1, 1)), p)) == pytest.approx(15.9424, abs=1e-4)
    assert float(ours(np.ones((1, 1)), p)) == pytest.approx(1.19e-7, rel=1e-2)
    p = np.linspace(0, 1, 101, dtype="float32")[:, None]
    for y in (np.zeros_like(p), np.ones_like(p)):
        stock = keras.losses.binary_crossentropy(y, p)
        mine = segact_tf.losses.binary_cross_entropy(y, p, from_logits=False)
        np.testing.assert_allclose(
            # stock on torch takes log1p(-p) where 1 - p has been rounded on the other two
            keras.ops.convert_to_numpy(mine),
            keras.ops.convert_to_numpy(stock),
            rtol=1e-6,
            atol=6e-8,
        )


def test_dtype_of_the_class():
    y, x = np.array([[1.0]]), np.array([[-100.0]])
    wide = segact_tf.losses.BinaryCrossentropy("normal_cdf", dtype="float64")
    assert keras.backend.standardize_dtype(wide(y, x).dtype) == "float64"
    assert float(wide(y, x)) == pytest.approx(5005.5242086942050886, rel=1e-14)
    narrow = segact_tf.losses.BinaryCrossentropy("normal_cdf")
    assert keras.backend.standardize_dtype(narrow(y, x).dtype) == "float32"


def test_bfloat16_by_default(loss, rng):
    x, y = rng.normal(size=(2, 7, 1)).astype("float32")
    keras.config.set_floatx("bfloat16")
    try:
        value = LOSSES[loss]()(y > 0, x)
    finally:
        keras.config.set_floatx("float32")
    x = keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32")
    assert float(value) == pytest.approx(float(LOSSES[loss]()(y > 0, x)), rel=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(loss, policy, table):
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.layers.Dense(1), segact_tf.OutputActivation("arctan")])
        options = {} if loss == "lovasz_hinge" else {"from_logits": False}
        model.compile(optimizer="sgd", loss=LOSSES[loss](**options))
        history = model.fit(*table, verbose=0)
        assert keras.backend.standardize_dtype(model(table[0]).dtype) == policy.split("_")[1]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history.history["loss"]).all()


def test_configs_round_trip(pair):
    loss, activation = pair
    f = make(
        loss,
        segact_tf.get_activation(activation, epsilon=1e-3),
        ignore_index=255,
        reduction="sum",
        name="x",
    )
    twin = keras.losses.deserialize(keras.losses.serialize(f))
    assert type(twin) is type(f)
    assert twin.get_config() == f.get_config()
    layer = segact_tf.OutputActivation(activation, epsilon=1e-3, name="head")
    twin = keras.layers.deserialize(keras.layers.serialize(layer))
    assert twin.get_config() == layer.get_config()
    assert twin.activation == segact_tf.get_activation(activation, epsilon=1e-3)


def test_a_saved_model_loads_in_a_fresh_process(tmp_path, table):
    """Sequential with an activation and a layer, and functional with an activation on a tensor."""
    x, y = table
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(4, activation=segact_tf.softsign)(inputs)
    raw = keras.layers.Dense(1)(hidden)
    squeezed = segact_tf.get_activation("normal_cdf", epsilon=1e-7)(raw)
    model = keras.Model(inputs, segact_tf.OutputActivation("linear", axis=0)(squeezed))
    model.compile(optimizer="sgd", loss=segact_tf.losses.Dice(from_logits=False, per_sample=True))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    code = (
        "import keras, numpy as np, segact_tf; x, y = np.load('x.npy'), np.load('y.npy')\n"
        "m = keras.saving.load_model('model.keras')\n"
        "np.save('out.npy', m.predict(x, verbose=0, batch_size=64))\n"
        "print(repr(m.evaluate(x, y, verbose=0, batch_size=64)))"
    )
    root = str(Path(segact_tf.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={**importlib.import_module("os").environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), model.predict(x, verbose=0, batch_size=64), rtol=1e-6
    )
    loss = float(done.stdout.strip().splitlines()[-1])
    assert loss == pytest.approx(model.evaluate(x, y, verbose=0, batch_size=64), rel=1e-6)


def test_options_round_trip():
    pos_weight = np.array([2.0, 0.5], "float32")
    f = segact_tf.BinaryCrossentropy(pos_weight=pos_weight, axis=(1, 2), label_smoothing=0.1)
    twin = keras.losses.deserialize(keras.losses.serialize(f))
    assert twin.options == f.options
    assert twin.options["pos_weight"] == [2.0, 0.5]
    f = segact_tf.BinaryCrossentropy(from_logits=False, convention="torch_legacy")
    assert keras.losses.deserialize(keras.losses.serialize(f)).get_config() == f.get_config()


def test_dice_in_mixed_precision_does_not_overflow(loss):
    """A million pixels of foreground, whose float16 sum is infinite."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        head = keras.layers.Conv2D(1, 1, kernel_initializer="ones")
        raw = head(np.full((1, 1024, 1024, 1), 2.0, "float32"))
        assert keras.backend.standardize_dtype(raw.dtype) == "float16"
        value = make(loss, "arctan")(np.ones((1, 1024, 1024, 1), "float32"), raw)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    few = np.full((1, 8, 8, 1), 2.0, "float32")
    assert float(value) == pytest.approx(float(make(loss, "arctan")(np.ones_like(few), few)), 2e-6)


def test_registered_activation_saves_by_name():
    ops = keras.ops
    mine = segact_tf.register_activation("saved_gumbel", lambda x: ops.exp(-ops.exp(-x)))
    f = segact_tf.losses.Dice(mine)
    twin = keras.losses.deserialize(keras.losses.serialize(f))
    assert twin.options["activation"].name == "saved_gumbel"


def test_symbolic_inputs(activation):
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, segact_tf.get_activation(activation)(inputs))
    assert model.output_shape == (None, 6, 6, 1)
    x = np.linspace(-3, 3, 36, dtype="float32").reshape(1, 6, 6, 1)
    np.testing.assert_allclose(
        model.predict(x, verbose=0),
        keras.ops.convert_to_numpy(segact_tf.get_activation(activation)(x)),
        rtol=1e-6,
    )


def test_unknown_batch_size_keeps_the_mean(loss):
    """Under `fit` the batch dimension is not known when the graph is made."""
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow traces with unknown dimensions")
    tf = importlib.import_module("tensorflow")
    y, x = np.eye(7, 5, dtype="float32"), np.linspace(-3, 3, 35, dtype="float32").reshape(7, 5)
    f = make(loss, "arctan")
    spec = tf.TensorSpec((None, None), "float32")
    traced = tf.function(f, input_signature=[spec, spec])
    assert float(traced(y, x)) == pytest.approx(float(f(y, x)), rel=1e-6)


def test_lists():
    loss = segact_tf.losses.binary_cross_entropy([[0.0, 1.0]], [[-1.0, 2.0]])
    assert float(loss[0]) == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2)


@pytest.mark.parametrize("kind", [list, tuple, np.array, keras.ops.convert_to_tensor])
def test_lists_beside_float64_are_not_rounded_to_float32(kind, rng):
    x, (y, w) = rng.normal(size=(4, 3)), rng.random((2, 4, 3))
    pos_weight = [0.1, 0.2, 0.3]
    each = w * (np.array(pos_weight) * y * np.log1p(np.exp(-x)) + (1 - y) * np.log1p(np.exp(x)))
    given = kind(np.array(pos_weight)) if kind is keras.ops.convert_to_tensor else kind(pos_weight)
    f = segact_tf.BinaryCrossentropy(pos_weight=given, dtype="float64")
    assert float(f(y.tolist(), x.tolist(), w.tolist())) == pytest.approx(each.mean(), rel=1e-13)
    options = {"axis": None, "pos_weight": given, "sample_weight": w.tolist()}
    value = segact_tf.binary_cross_entropy(y.tolist(), x, **options)
    assert float(value) == pytest.approx(each.mean(), rel=1e-13)


def test_axes_out_of_range():
    x = np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match=r"axis 5 is out of range .* shape \(2, 3\)"):
        segact_tf.losses.binary_cross_entropy(x, x, axis=5)
    with pytest.raises(ValueError, match=r"axis \(1, 2, 3\) is out of range"):
        segact_tf.get_activation("linear", axis=(1, 2, 3))(x)


def test_variables(loss, rng):
    """Of Keras, which on TensorFlow are no tensors of TensorFlow."""
    x, y, w = rng.normal(size=(3, 4, 1)).astype("float32"), np.eye(4)[:3, :, None], np.eye(4)[1:]
    f, function = LOSSES[loss](), getattr(segact_tf.losses, loss)
    given = [keras.Variable(each) for each in (y, x, w)]
    value = keras.ops.convert_to_numpy(f(*given))
    assert value == pytest.approx(float(f(y, x, w)), rel=1e-6)
    options = {"sample_weight": given[2][..., None]}
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(function(*given[:2], **options)),
        keras.ops.convert_to_numpy(function(y, x, sample_weight=w[..., None])),
        rtol=1e-6,
    )


@pytest.mark.parametrize("mode", MODES)
def test_constants_in_compiled_code(loss, mode, rng):
    """They have values there, but what is computed from them has none."""
    x, y, w = (keras.ops.convert_to_tensor(rng.random((3, 4)) < 0.5, "float32") for _ in range(3))
    x = x - 0.25
    f = LOSSES[loss]()
    expected = 2 * float(f(y, x, w))
    assert float(compiled(lambda two: two * LOSSES[loss]()(y, x, w), mode)(2.0)[0]) == (
        pytest.approx(expected, rel=4e-6)
    )
    inputs = (keras.Variable(x), x) if BACKEND == "tensorflow" else (x,)
    for given in inputs:
        value, _ = compiled(lambda w, x=given: LOSSES[loss]()(y, x, w), mode)(w)
        assert 2 * value == pytest.approx(expected, rel=4e-6)


@pytest.mark.parametrize("mode", MODES)
def test_validate_in_compiled_code_says_why_it_cannot(mode):
    y, x = np.zeros((4, 1), "float32"), np.zeros((4, 1), "float32")
    f = segact_tf.losses.Dice(validate=True)
    with pytest.raises(ValueError, match="validate=True reads y_true, which has no values"):
        compiled(f, mode)(y, x)


def test_sizes_known_late_do_not_broadcast():
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow traces with unknown dimensions")
    tf = importlib.import_module("tensorflow")
    spec = tf.TensorSpec((None, None), "float32")
    traced = tf.function(segact_tf.losses.dice, input_signature=[spec, spec])
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(np.zeros((4, 1), "float32"), np.zeros((4, 3), "float32"))


def test_import_loads_no_torch():
    if BACKEND == "torch":
        pytest.skip("torch is the backend")
    others = ("torch", "parity", "segact_torch")
    code = f"import sys, segact_tf; print([m for m in {others} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_focal_without_double_precision(smooth, rng):
    """JAX has none unless asked: 13 ulp of the value instead of 8."""
    if BACKEND != "jax":
        pytest.skip("the other backends have float64")
    jax = importlib.import_module("jax")
    x = np.concatenate([rng.uniform(-20, 20, 50_000), rng.normal(0, 2, 50_000)]).astype("float32")
    for y in (np.zeros_like(x), np.ones_like(x)):
        exact = segact_tf.binary_focal_cross_entropy(
            y.astype("float64"), x.astype("float64"), smooth, axis=()
        )
        with jax.enable_x64(False):
            narrow = jax.jit(segact_tf.binary_focal_cross_entropy, static_argnums=(2, 3, 4))(
                y, x, smooth, True, ()
            )
            assert narrow.dtype == "float32"
        exact = np.asarray(exact)
        error = np.abs(np.asarray(narrow, "float64") - exact) / np.spacing(exact.astype("float32"))
        assert 1 < error[exact > 1e-36].max() <= 13


@pytest.mark.parametrize("mode", MODES)
def test_compiled_options(loss, mode, rng):
    """Weights, left-out elements and groups, where a compiler may move and merge things."""
    x = rng.normal(0, 2, (2, 4, 4, 3)).astype("float32")
    y = (rng.random(x.shape) < 0.4).astype("float32")
    w = rng.integers(0, 4, x.shape).astype("float32")
    y[0, 0], x[0, 0], w[0, 1], x[0, 1] = 255, np.nan, 0, np.inf
    overlap = "per_sample" in inspect.signature(LOSSES[loss]).parameters
    options = {"per_sample": True, "channel_axis": -1} if overlap else {}
    f = make(loss, "normal_cdf", ignore_index=255, **options)
    keras_ns = importlib.import_module("namespaces").load("keras")
    eager, (grad,) = keras_ns.gradients(lambda x: f(y, x, w), x)
    value, compiled_grad = compiled(lambda y, x: f(y, x, w), mode)(y, x)
    assert value == pytest.approx(eager, rel=4e-6)
    np.testing.assert_allclose(compiled_grad, grad, rtol=0, atol=2e-5 * np.abs(grad).max())
    np.testing.assert_array_equal(compiled_grad[0, :2], 0)


def test_subclasses_may_override_what_they_like(rng):
    class Twice(segact_tf.Dice):
        def __init__(self, factor, **options):
            super().__init__(smooth=1.0, **options)
            self.factor = factor

        def call(self, y_true, y_pred):
            return self.factor * super().call(y_true, y_pred)

    x = rng.normal(size=(4, 3)).astype("float32")
    y = (x > 0).astype("float32")
    once = float(segact_tf.Dice(smooth=1.0)(y, x))
    assert float(Twice(2.0)(y, x)) == pytest.approx(2 * once, rel=1e-6)


@pytest.mark.parametrize("kind", ["Dice", "FocalTversky", "DiceCrossentropy", "Lovasz"])
def test_samples_of_weight_zero(kind, rng):
    """Left out whatever is in them, in value and gradient; (N, 1, 1) is as good as (N,)."""
    x = rng.normal(size=(3, 5, 1)).astype("float32")
    y = (rng.random(x.shape) < 0.5).astype("float32")
    w = np.array([1, 0, 0.5], "float32")
    f = getattr(segact_tf, kind)(per_sample=True)
    junk = x.copy()
    junk[1] = np.nan
    keras_ns = importlib.import_module("namespaces").load("keras")
    value, (grad,) = keras_ns.gradients(lambda x: f(y, x, w), junk)
    each = np.array([float(f(y[n : n + 1], x[n : n + 1])) for n in range(3)])
    assert value == pytest.approx(np.mean(w * each), rel=1e-6)
    np.testing.assert_array_equal(grad[1], 0)
    assert np.isfinite(grad).all()
    assert float(f(y, x, w[:, None, None])) == pytest.approx(float(f(y, x, w)), rel=1e-6)
    assert float(f(y, x, 2.0)) == pytest.approx(2 * float(f(y, x)), rel=1e-6)
    with pytest.raises(ValueError, match=r"sample_weight must have sizes .* got .*\(2,\)"):
        f(y, x, w[:2])
    with pytest.raises(ValueError, match=r"sample_weight must be >= 0 and finite, got .* -5"):
        f(y, x, np.array([1, -5, 1], "float32"))


def test_mean_with_sample_weight(rng):
    """sum(w l) / sum(w), of what is left."""
    x = rng.normal(size=(4, 6, 1)).astype("float32")
    y = (rng.random(x.shape) < 0.5).astype("float32")
    w = np.array([1, 0, 0.5, 3], "float32")
    kwargs = {"reduction": "mean_with_sample_weight"}
    each = np.asarray(segact_tf.binary_cross_entropy(y, x, axis=()))[..., 0]
    full = np.broadcast_to(w[:, None], (4, 6))
    f = segact_tf.BinaryCrossentropy(**kwargs)
    assert float(f(y, x, w)) == pytest.approx(np.average(each, weights=full), rel=1e-6)
    stock = keras.losses.BinaryCrossentropy(from_logits=True, **kwargs)
    assert float(f(y, x, full.copy())) == pytest.approx(float(stock(y, x, full.copy())), rel=1e-6)
    assert float(f(y, x)) == pytest.approx(each.mean(), rel=1e-6)
    y[0, 2:] = 255
    x[1] = np.nan
    left = full * (y[..., 0] != 255)
    f = segact_tf.BinaryCrossentropy(ignore_index=255, **kwargs)
    assert float(f(y, x, w)) == pytest.approx(np.average(each, weights=left), rel=1e-6)
    each = np.array(segact_tf.dice(y, x, per_sample=True, ignore_index=255))
    each[1] = 0
    f = segact_tf.Dice(per_sample=True, ignore_index=255, **kwargs)
    assert float(f(y, x, w)) == pytest.approx(np.average(each, weights=w), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", None])
@pytest.mark.parametrize("kind", ["elements", "overlap", "samples"])
def test_weights_of_half_precision_are_computed_in_float32(kind, reduction, dtype, rng):
    """A class of that dtype rounds the weights once: their mean is over more than it can count."""
    x = keras.ops.cast(rng.normal(size=(3001, 3)), dtype)
    y = (rng.random(x.shape) < 0.5).astype("float32")
    w = keras.ops.cast(rng.uniform(0.1, 1, 3001), dtype)
    options = {"per_sample": True} if kind == "samples" else {}
    make = segact_tf.BinaryCrossentropy if kind == "elements" else segact_tf.Dice
    narrow, wide = (
        keras.ops.convert_to_numpy(make(reduction=reduction, dtype=d, **options)(y, x, w))
        for d in (dtype, "float32")
    )
    assert narrow.dtype == "float32"
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_0_and_255_make_a_compiled_loss_nan(loss, mode, rng):
    """Compiled code cannot raise. A slight overshoot is taken for the nearest target in [0, 1]."""
    x = rng.normal(size=(2, 6)).astype("float32")
    y = (x > 0).astype("float32")
    run = compiled(make(loss, "normal_cdf"), mode)
    value, gradient = run(y, x)
    assert np.isfinite(value)
    for wrong in (255.0, -0.6, 2.0):
        bad = y.copy()
        bad[0, 2] = wrong
        assert np.isnan(run(bad, x)[0])
    overshoot = run(y * 1.2 - 0.1, x)
    np.testing.assert_array_equal(overshoot[0], value)
    np.testing.assert_array_equal(overshoot[1], gradient)


@pytest.mark.parametrize("mode", MODES)
def test_other_values_that_make_a_compiled_loss_nan(loss, mode, rng):
    """Raw outputs where probabilities are wanted, and weights below 0."""
    x = rng.normal(size=(2, 6)).astype("float32")
    y = (x > 0).astype("float32")
    w = np.ones_like(x)
    f = make(loss, "normal_cdf")
    weighted = compiled(lambda w, x: f(y, x, w), mode)
    assert np.isfinite(weighted(w, x)[0])
    w[1, 3] = -1
    assert np.isnan(weighted(w, x)[0])
    if loss != "lovasz_hinge":
        f = LOSSES[loss](from_logits=False)
        run = compiled(lambda p: f(y, p), mode)
        assert np.isfinite(run(y * 0.8 + 0.1)[0])
        assert np.isnan(run(x * 5)[0])


@pytest.mark.parametrize("mode", MODES)
def test_validate_false_leaves_targets_as_they_are(loss, mode, rng):
    x = rng.normal(size=(2, 6)).astype("float32")
    y = (x > 0).astype("float32")
    y[0, 2] = 1.6
    f = make(loss, "normal_cdf", validate=False)
    assert np.isfinite(compiled(f, mode)(y, x)[0])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs it uncompiled on torch, which raises")
def test_fit_on_masks_of_0_and_255_says_nan(loss, table):
    x, y = table
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", make(loss, "sigmoid"))
    assert np.isnan(model.fit(x, 255 * y, verbose=0).history["loss"][0])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known late in TensorFlow alone")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shapes", [(None, None, None, 1), (None, None, 8, None)])
def test_targets_of_another_shape_are_refused_late(loss, jit_compile, shapes, rng):
    """As after `tf.io.decode_png` and `batch`: the sizes are known when it runs."""
    tf = importlib.import_module("tensorflow")
    x = rng.normal(size=(2, 4, 8, 1)).astype("float32")
    y = (x > 0).astype("float32")
    turned = np.ascontiguousarray(np.transpose(y, (0, 2, 1, 3)))
    f = make(loss, "sigmoid")
    unknown = tf.TensorSpec(shapes, tf.float32)
    anything = tf.TensorSpec((None, None, None, None), tf.float32)
    run = tf.function(lambda y, x: f(y, x), [anything, unknown], jit_compile=jit_compile)
    assert float(run(y, x)) == pytest.approx(float(f(y, x)), rel=1e-6)
    for wrong in (turned, y[:1], y[:, :, :1], np.repeat(y, 2, 3)):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            run(wrong, x)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16"])
def test_targets_of_any_dtype_where_sizes_are_known_late(loss, dtype, rng):
    x = rng.normal(size=(2, 4, 8, 1)).astype("float32")
    y = (x > 0).astype(dtype)
    f = make(loss, "sigmoid", ignore_index=255)
    expected = float(f(y, x))
    assert expected == float(make(loss, "sigmoid")(y.astype("float32"), x))
    if BACKEND == "tensorflow":
        tf = importlib.import_module("tensorflow")
        specs = [tf.TensorSpec([None] * 4, t) for t in (dtype, "float32")]
        run = tf.function(lambda y, x: f(y, x), specs)
        assert float(run(y, x)) == pytest.approx(expected, rel=1e-6)


class _Watched(keras.layers.Layer):
    """A layer that adds a loss of its two inputs."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def call(self, inputs):
        self.add_loss(self.loss(*inputs))
        return inputs[1]


@pytest.mark.parametrize("sizes", [(4, 8, 1), (None, None, 1)])
@pytest.mark.parametrize("name", ["arctan", "linear"])
def test_a_loss_inside_of_a_layer(loss, name, sizes, rng):
    """Where JAX has a letter for a size, and TensorFlow and Keras None."""
    f = make(loss, name, **({"per_sample": True} if loss in OVERLAP else {}))
    inputs = [keras.Input(sizes), keras.Input(sizes)]
    model = keras.Model(inputs, _Watched(f)(inputs))
    model.compile("sgd")
    x = rng.normal(size=(3, 4, 8, 1)).astype("float32")
    y = (x > 0).astype("float32")
    got = model.evaluate([y, x], np.zeros_like(y), verbose=0)
    assert got == pytest.approx(float(f(y, x)), rel=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="reads the code that JAX gives to XLA")
@pytest.mark.parametrize("options", [{}, {"per_sample": True}, {"ignore_index": 255}])
@pytest.mark.parametrize("name", ["lovasz", "lovasz_hinge"])
def test_a_lovasz_loss_sorts_one_array_once(name, options):
    """Of several arrays, XLA's sort on a CPU takes five times as long; double precision is off."""
    import jax

    function = getattr(segact_tf, name)
    with jax.enable_x64(False):
        x, y = jax.numpy.zeros((4, 8)), jax.numpy.ones((4, 8))
        slope = jax.jit(jax.grad(lambda x: keras.ops.sum(function(y, x, **options))))
        code = slope.lower(x).as_text()
    sorts = re.findall(r"stablehlo\.sort\"?\(([^)]*)\)", code)
    assert [operands.count("%") for operands in sorts] == [1]
    assert code.count('"stablehlo.scatter"') == 1


@pytest.mark.skipif(BACKEND == "torch", reason="Keras on torch writes no SavedModel")
@pytest.mark.parametrize("sizes", [(None, None, 1)])
def test_export_of_a_head(activation, sizes, rng, tmp_path):
    tf = pytest.importorskip("tensorflow")
    head = segact_tf.OutputActivation(activation)
    model = keras.Sequential([keras.Input(sizes), keras.layers.Conv2D(1, 1), head])
    model.export(tmp_path / "model", format="tf_saved_model", verbose=False)
    x = rng.normal(size=(3, 4, 8, 1)).astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(
        np.asarray(loaded.serve(x)), np.asarray(model(x)), rtol=2e-6, atol=2e-7
    )


def test_the_number_to_ignore_is_compared_before_a_cast(loss, rng):
    """float16 has no 65535, and float32 no 2^24 + 1."""
    x = rng.normal(size=(3, 8)).astype("float32")
    y = (x > 0).astype("int32")
    expected = float(make(loss, "arctan")(y[:2].astype("float32"), x[:2]))
    kept = keras.config.floatx()
    for floatx, number in (("float16", 65535), ("float32", 2**24 + 1)):
        y[2] = number
        keras.config.set_floatx(floatx)
        try:
            got = float(make(loss, "arctan", ignore_index=number)(y, x))
        finally:
            keras.config.set_floatx(kept)
        assert got == pytest.approx(expected, rel=2e-3 if floatx == "float16" else 1e-6)
    for dtype, number in (("uint8", -100), ("bool", 255), ("int32", 0.5)):
        # none of them is ever equal
        some = (x > 0).astype(dtype)
        plain = float(make(loss, "arctan")(some, x))
        assert float(make(loss, "arctan", ignore_index=number)(some, x)) == plain


HEADS = {
    "keras": lambda: keras.layers.Dense(1, activation="sigmoid"),
    "ours": lambda: segact_tf.OutputActivation("arctan"),
}


@pytest.mark.parametrize("head", HEADS)
def test_an_activated_head_is_warned_of(head, loss, table):
    """In compiled code too, where Keras lets us see the head: not on JAX."""
    x, y = table
    model = keras.Sequential([keras.layers.Dense(1), HEADS[head]()])
    for from_logits in [True] if loss == "lovasz_hinge" else [False, True]:
        options = {} if loss == "lovasz_hinge" else {"from_logits": from_logits}
        model.compile("sgd", LOSSES[loss](**options))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(x, y, verbose=0)
            model.fit(x, y, verbose=0)
        told = [w for w in caught if w.category is segact_tf.ActivatedInputWarning]
        assert len(told) == (from_logits and BACKEND != "jax")


def assert_symbolic(build, arrays, expected, tmp_path):
    """A model of symbolic inputs gives the values of the call, also after it was saved."""
    for shape in (arrays[0].shape[1:], (None, *arrays[0].shape[2:])):
        inputs = [keras.Input(shape) for _ in arrays]
        model = keras.Model(inputs, build(*inputs))
        model.save(tmp_path / "model.keras")
        for each in (model, keras.models.load_model(tmp_path / "model.keras")):
            found = keras.ops.convert_to_numpy(each(list(arrays)))
            np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), rtol=1e-6)


def test_methods_take_symbolic_inputs(activation, rng, tmp_path):
    f, x = segact_tf.get_activation(activation), rng.uniform(0.1, 0.9, (4, 3, 1)).astype("float32")
    methods = [f.cdf, f.sf, f.logcdf, f.logsf]
    for method in methods if activation == "linear" else [*methods, f.pdf, f.ppf]:
        assert_symbolic(method, [x], method(x), tmp_path)


def test_losses_take_symbolic_inputs(loss, rng, tmp_path):
    x, w = rng.normal(size=(2, 4, 3, 1)).astype("float32")
    y, w = (x > 0).astype("float32"), np.abs(w)
    options = {} if loss == "lovasz_hinge" else {"activation": "arctan"}
    function, of_class = getattr(segact_tf, loss), make(loss, "arctan")

    def weighted(y, x, w):
        return function(y, x, sample_weight=w, **options)

    assert_symbolic(weighted, [y, x, w], weighted(y, x, w), tmp_path)
    assert_symbolic(of_class, [y, x], of_class(y, x), tmp_path)


@pytest.mark.skipif(BACKEND != "torch", reason="of the torch backend")
@pytest.mark.needs("onnxruntime", "onnxscript")
def test_export_to_onnx(activation, rng, tmp_path):
    runtime = importlib.import_module("onnxruntime")
    head = segact_tf.OutputActivation(activation)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1), head])
    x = rng.normal(0, 3, (8, 4)).astype("float32")
    expected = keras.ops.convert_to_numpy(model(x))
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's functions")
@pytest.mark.parametrize(
    "module", ["_batch", "_checks", "_compact", "_pairwise", "_sums", "functional"]
)
def test_autograph_can_convert(module):
    """It prints a warning for each function inside of a `tf.function` that it cannot convert."""
    import tensorflow as tf

    module = importlib.import_module(f"segact_tf.{module}")
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            tf.autograph.to_graph(inspect.unwrap(function))


def loops_that_read(code):
    """The fused loops of a compiled program of XLA that read its first input."""
    entry = code[code.index("\nENTRY") :]
    (name,) = re.findall(r"%(\S+) = \S+ parameter\(0\)", entry)
    names = {name}
    for line in entry.splitlines():  # in the order of their use
        if moved := re.match(r"\s*(?:ROOT )?%(\S+) = \S+ (?:bitcast|copy|reshape)\(%(\S+)\)", line):
            names |= {moved[1]} if moved[2] in names else set()
    fused = re.findall(r"%(\S+) = [^=]* fusion\(([^)]*)\)", entry)
    return [loop for loop, operands in fused if names & set(re.findall(r"%([^\s,]+)", operands))]


# One loop makes the sums of the values, one the slopes; before that comes one for a quotient of two
# tensors that the slopes use more than once, which XLA on a CPU moves into no other loop.
LOOPS = {"binary_cross_entropy": {"sigmoid": 2, "softsign": 2, "": 3}, "dice": {"": 2}}


@pytest.mark.skipif(BACKEND != "jax", reason="reads the program that XLA makes for JAX")
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("shape", [(4, 64, 64, 1), (3, 50, 30, 2)])
def test_few_loops_read_the_input(name, smooth, shape):
    """Forward and backward together: see docs/performance.md."""
    import jax

    options = {"axis": None} if name == "binary_cross_entropy" else {}

    def loss(x, y):
        return keras.ops.mean(getattr(segact_tf, name)(y, x, smooth, **options))

    with jax.enable_x64(False):
        x, y = jax.numpy.zeros(shape), jax.numpy.ones(shape)
        code = jax.jit(jax.value_and_grad(loss)).lower(x, y).compile().as_text()
    loops = loops_that_read(code)
    assert 0 < len(loops) <= LOOPS[name].get(smooth, LOOPS[name][""]), loops


# Of values and of slopes; besides for exponentials and quotients that two loops share.
LARGE_LOOPS = {("binary_cross_entropy", "sigmoid"): 2, ("binary_cross_entropy", "arctan"): 4}
LARGE_LOOPS |= {("dice", "sigmoid"): 4, ("dice", "arctan"): 4}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="reads the program that XLA makes for it")
@pytest.mark.parametrize(("name", "activation"), LARGE_LOOPS)
@pytest.mark.parametrize("samples", [8, None], ids=["known", "as in fit"])
def test_few_loops_of_all_elements(name, activation, samples):
    import tensorflow as tf

    options = {"axis": None} if name == "binary_cross_entropy" else {}
    shape = (8, 64, 64, 1)

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec((samples, *shape[1:]))] * 2)
    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = getattr(segact_tf, name)(y, x, activation, **options)
        return value, tape.gradient(value, x)

    x, y = tf.zeros(shape), tf.ones(shape)
    code = gradient.experimental_get_compiler_ir(x, y)(stage="optimized_hlo")
    found = re.findall(r"= f32\[([\d,]+)\]\S* (?:fusion|reduce)\(", code[code.index("\nENTRY") :])
    sizes = [math.prod(map(int, dimensions.split(","))) for dimensions in found]
    large = [size for size in sizes if size >= math.prod(shape) // 2]
    assert 0 < len(large) <= LARGE_LOOPS[name, activation]
