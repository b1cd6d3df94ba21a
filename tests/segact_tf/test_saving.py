"""Losses, activations and models that are saved, loaded and exported."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras_losses import BACKEND, make  # noqa: E402

import segact_tf  # noqa: E402


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


def test_registered_activation_saves_by_name():
    ops = keras.ops
    mine = segact_tf.register_activation("saved_gumbel", lambda x: ops.exp(-ops.exp(-x)))
    f = segact_tf.losses.Dice(mine)
    twin = keras.losses.deserialize(keras.losses.serialize(f))
    assert twin.options["activation"].name == "saved_gumbel"


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
