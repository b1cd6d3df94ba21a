"""`fit`: weights of samples, masks, mixed precision, layers, warnings."""

import importlib
import warnings

import numpy as np
import pytest
from names import OVERLAP

keras = pytest.importorskip("keras")
from keras_losses import BACKEND, LOSSES, make  # noqa: E402

import segact_tf  # noqa: E402


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit(pair, table, jit_compile):
    loss, activation = pair
    few = activation == "arctan" or (loss, activation) == ("dice", "linear")
    if jit_compile and BACKEND == "torch" and not few:
        pytest.skip("torch.compile takes half a minute; arctan, and linear for Dice, stand for all")
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
