"""Compiled modes of the backends."""

import importlib
import inspect
import math
import re

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras_losses import BACKEND, LOSSES, make  # noqa: E402

import segact_tf  # noqa: E402

MODES = {"tensorflow": ["graph", "xla"], "jax": ["jit"], "torch": []}[BACKEND]


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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow traces unknown dimensions")
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 1, 1), (3, 4, 2)])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "none"])
@pytest.mark.parametrize("name", ["dice", "dice_cross_entropy", "lovasz"])
def test_weights_whose_sizes_are_known_late(name, reduction, shape, rng):
    """One for each sample multiplies the losses of the samples, as with known sizes."""
    tf = importlib.import_module("tensorflow")
    x = rng.normal(size=(3, 4, 2)).astype("float32")
    y = (x > 0.3).astype("float32")
    w = 2 - np.arange(math.prod(shape), dtype="float32").reshape(shape) % 3
    f = LOSSES[name](per_sample=True, reduction=reduction)
    specs = [tf.TensorSpec([None] * 3, "float32")] * 3
    run = tf.function(lambda y, x, w: f(y, x, w), specs)
    np.testing.assert_allclose(run(y, x, w), f(y, x, w), rtol=2e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has tensors of unknown rank")
@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight", "mask", "x"])
def test_a_tensor_of_unknown_rank_is_named(name):
    """As of tf.numpy_function, in a tf.data pipeline."""
    tf = importlib.import_module("tensorflow")
    known = {"y_true": tf.ones((2, 3)), "y_pred": tf.ones((2, 3))}
    calls = {
        "x": [segact_tf.linear],
        "mask": [segact_tf.dice],
        "sample_weight": [segact_tf.losses.Dice(), segact_tf.dice],
    }
    for f in calls.get(name, [segact_tf.losses.Dice(), segact_tf.dice]):

        @tf.function(input_signature=[tf.TensorSpec(None, "float32")])
        def run(value, f=f):
            return f(value) if name == "x" else f(**{**known, name: value})

        with pytest.raises(ValueError, match=f"{name} must have a known number of dimensions"):
            run(tf.ones((2, 3)))


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
