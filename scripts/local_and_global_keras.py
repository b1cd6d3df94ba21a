"""The errors of the losses of parts against the loss of the whole batch, on two replicas.

    python scripts/local_and_global_keras.py

Prints the second table of docs/scaling.md. Each of two replicas, on logical devices of the CPU, has
four images, with different numbers of ignored and of foreground pixels. The sum of the replicas'
gradients, as in Keras's optimizers, is compared with the gradient of one device with all images,
relative to its norm.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import segact_tf

VOID = 255
REPLICAS, PER_REPLICA, SIZE = 2, 4, 32
Loss = Callable[..., Any]

OURS: dict[str, Loss] = {
    "Dice": segact_tf.Dice,
    "Dice, channel_axis": partial(segact_tf.Dice, channel_axis=-1),
    "Dice, per_sample": partial(segact_tf.Dice, per_sample=True),
    "Jaccard": segact_tf.Jaccard,
    "cross entropy": segact_tf.BinaryCrossentropy,
    "cross entropy of linear": partial(segact_tf.BinaryCrossentropy, "linear"),
    "Dice + cross entropy": segact_tf.DiceCrossentropy,
}


def batch() -> tuple[Any, Any]:
    """Raw outputs and targets of both replicas; each later image has more ignored pixels."""
    rng = np.random.default_rng(20)
    shape = (PER_REPLICA * REPLICAS, SIZE, SIZE, 1)
    x, noise = rng.normal(size=shape), rng.normal(size=shape)
    rising = np.linspace(0, 1, len(x)).reshape(-1, 1, 1, 1)
    y = (x + 2 * noise > 1 + rising).astype(float)
    return 2 * x + rising, np.where(rng.uniform(size=shape) < 0.9 * rising, VOID, y)


def gradient(loss: Any, x: Any, y: Any) -> Any:
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(y, x)
    return tape.gradient(value, x)


def over_replicas(strategy: Any, loss: Any, x: Any, y: Any) -> Any:
    """The gradients of the replicas, concatenated."""

    def part(values: Any) -> Any:
        own = np.split(values, REPLICAS)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(own[context.replica_id_in_sync_group])
        )

    parts = strategy.run(gradient, args=(loss, part(x), part(y)))
    return np.concatenate(strategy.experimental_local_results(parts))


def table(strategy: Any) -> list[str]:
    """The lines of the table, and the length of a step with Keras's own Dice."""
    x, y = batch()
    lines = [f"{'':24}  parts' losses  tf.distribute"]
    for name, make in OURS.items():
        loss = make(ignore_index=VOID, dtype="float64")
        whole = gradient(loss, x, y).numpy()
        pairs = zip(np.split(x, REPLICAS), np.split(y, REPLICAS), strict=True)
        of_parts = np.concatenate([gradient(loss, *pair) for pair in pairs]) / REPLICAS
        both = (of_parts, over_replicas(strategy, loss, x, y))
        local, of_all = (np.linalg.norm(g - whole) / np.linalg.norm(whole) for g in both)
        lines.append(f"{name:24}  {local:10.1%} off  {of_all:9.0e} off")
    keras_dice = keras.losses.Dice(dtype="float64")
    probabilities, y = 1 / (1 + np.exp(-x)), np.where(y == VOID, 0.0, y)
    whole = gradient(keras_dice, probabilities, y).numpy()
    found = over_replicas(strategy, keras_dice, probabilities, y)
    longer = np.linalg.norm(found) / np.linalg.norm(whole)
    return [*lines, "", f"keras.losses.Dice: a step {longer:.2f} times as long as on one device"]


def main() -> None:
    halves = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
    print("\n".join(table(strategy)))


if __name__ == "__main__":
    main()
