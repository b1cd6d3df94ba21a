"""The contract of Keras's losses: dtypes, arguments, symbolic inputs, subclasses."""

import importlib
import subprocess
import sys
from functools import partialmethod

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras_losses import BACKEND, LOSSES, make  # noqa: E402

import segact_tf  # noqa: E402


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


@pytest.mark.parametrize("reduction", ["mean", "sum_over_batch_size", "sum", "none"])
@pytest.mark.parametrize("axis", [3, -4, (0, 3), (1, -2)])
@pytest.mark.parametrize(
    "loss", ["binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"]
)
def test_axis_is_one_of_the_predictions(loss, axis, reduction):
    """Also of a mean over all elements, which needs none."""
    f = make(loss, "sigmoid", axis=axis, reduction=reduction)
    wrong = "twice the same in" if axis == (1, -2) else "out of range for"
    with pytest.raises(ValueError, match=rf"^axis .* is {wrong} an input of shape"):
        f(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)))


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


@pytest.mark.parametrize("wrong", ["int32", "uint8", "bool", "string"])
def test_a_dtype_that_is_not_floating_is_named(loss, wrong):
    with pytest.raises(ValueError, match=f"dtype must be a floating one.* got '{wrong}'"):
        LOSSES[loss](dtype=wrong)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16"])
def test_a_class_converts_outputs_of_any_dtype(loss, dtype, rng):
    """As Keras's own do; the first call of an object looks at the values."""
    x, y = rng.random((2, 7, 1)) > 0.5
    f = LOSSES[loss]()
    assert float(f(y, x.astype(dtype))) == float(f(y, x.astype("float32")))


def test_bfloat16_by_default(loss, rng):
    x, y = rng.normal(size=(2, 7, 1)).astype("float32")
    keras.config.set_floatx("bfloat16")
    try:
        value = LOSSES[loss]()(y > 0, x)
    finally:
        keras.config.set_floatx("float32")
    x = keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32")
    assert float(value) == pytest.approx(float(LOSSES[loss]()(y > 0, x)), rel=1e-6)


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
