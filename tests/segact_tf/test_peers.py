"""The sigmoid's losses against Keras's own, on the active backend."""

import keras
import numpy as np
import pytest

import segact_tf


@pytest.fixture
def batch(rng):
    x = rng.normal(0, 1.5, (4, 6, 1)).astype("float32")
    return x, (rng.random((4, 6, 1)) < 0.4).astype("float32")


def assert_equal(keras_ns, ours, theirs, x, y, rel=2e-6):
    """Value and gradient; theirs takes probabilities."""
    value, (grad,) = keras_ns.gradients(lambda x: ours(keras_ns.array(y), x), x)
    expected, (slope,) = keras_ns.gradients(
        lambda x: theirs(keras_ns.array(y), keras.ops.sigmoid(x)), x
    )
    np.testing.assert_allclose(value, expected, rtol=rel)
    np.testing.assert_allclose(grad, slope, rtol=0, atol=5 * rel * np.abs(slope).max())


@pytest.fixture
def keras_ns():
    import namespaces

    return namespaces.load("keras")


SWAPPED = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16)
OURS = {"alpha": 0.3, "beta": 0.7}
PAIRS = {
    "cross entropy": (
        segact_tf.BinaryCrossentropy(label_smoothing=0.1),
        keras.losses.BinaryCrossentropy(label_smoothing=0.1),
    ),
    "sum": (
        segact_tf.BinaryCrossentropy(reduction="sum"),
        keras.losses.BinaryCrossentropy(reduction="sum"),
    ),
    "focal": (
        segact_tf.BinaryFocalCrossentropy(gamma=1.5),
        keras.losses.BinaryFocalCrossentropy(gamma=1.5),
    ),
    "balanced focal, smoothed labels": (
        segact_tf.BinaryFocalCrossentropy(alpha=0.25, label_smoothing=0.1),
        keras.losses.BinaryFocalCrossentropy(
            apply_class_balancing=True, alpha=0.25, label_smoothing=0.1
        ),
    ),
    "squared error": (segact_tf.MeanSquaredError(), keras.losses.MeanSquaredError()),
    "Dice": (segact_tf.Dice(), keras.losses.Dice()),
    "Dice of each sample": (segact_tf.Dice(per_sample=True), keras.losses.Dice(axis=(1, 2))),
    "Tversky": (
        segact_tf.Tversky(**OURS),
        # up to 3.15 its alpha weighs false negatives, and its beta false positives
        keras.losses.Tversky(**({"alpha": 0.7, "beta": 0.3} if SWAPPED else OURS)),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_keras(keras_ns, batch, pair):
    """Keras adds 1e-7 to its denominators, of about 20 here, and clips at 1e-7."""
    assert_equal(keras_ns, *PAIRS[pair], *batch)


def test_sample_weight(batch):
    """Of samples, of elements, and of all dimensions, as Keras's own take it or not at all."""
    x, y = batch
    p = keras.ops.convert_to_numpy(keras.ops.sigmoid(x))
    for shape in ((4, 6), (4, 1), (4, 6, 1)):
        w = np.linspace(0, 2, np.prod(shape), dtype="float32").reshape(shape)
        ours = float(segact_tf.BinaryCrossentropy()(y, x, sample_weight=w))
        theirs = float(keras.losses.BinaryCrossentropy()(y, p, sample_weight=w))
        assert ours == pytest.approx(theirs, rel=2e-6)
    w = np.array([0.5, 1, 2, 0], "float32")
    of_samples = float(segact_tf.BinaryCrossentropy()(y, x, sample_weight=w))
    each = segact_tf.binary_cross_entropy(y, x, axis=(1, 2))
    assert of_samples == pytest.approx(np.mean(w * np.asarray(each)), rel=2e-6)


def test_sample_weight_of_overlaps(batch):
    x, y = batch
    w = np.array([0.5, 1, 2, 0], "float32")
    each = np.asarray(segact_tf.dice(y, x, per_sample=True))
    of_samples = float(segact_tf.Dice(per_sample=True)(y, x, sample_weight=w))
    assert of_samples == pytest.approx(np.mean(w * each), rel=1e-6)
    inside = float(segact_tf.Dice()(y, x, sample_weight=w))
    assert inside == pytest.approx(
        float(segact_tf.dice(y, x, sample_weight=w.reshape(4, 1, 1))), rel=1e-6
    )
    channels = np.repeat(x, 3, -1), np.repeat(y, 3, -1)
    apart = segact_tf.Dice(per_sample=True, channel_axis=-1)
    assert float(apart(channels[1], channels[0], sample_weight=w)) == pytest.approx(
        np.mean(w * each), rel=1e-6
    )


def test_the_mask_of_a_layer(batch):
    """Elements that a masked layer left out contribute nothing, to overlaps as well."""
    x, y = batch
    left = np.ones((4, 6), bool)
    left[0, 2:], left[1, 5:] = False, False
    for loss in (segact_tf.Dice(), segact_tf.BinaryCrossentropy(), segact_tf.Jaccard("arctan")):
        predictions = keras.ops.convert_to_tensor(np.where(left[..., None], x, np.nan))
        keras.src.backend.set_keras_mask(predictions, keras.ops.convert_to_tensor(left))
        masked = float(loss(y, predictions))
        assert masked == pytest.approx(float(loss(y[left][None], x[left][None])), rel=1e-6)
