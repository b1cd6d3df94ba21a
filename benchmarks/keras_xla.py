"""The process that measures Keras on TensorFlow under XLA: one JSON object on standard output.

Keras takes its backend when it is imported, so this is a process of its own.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import COUNTED, SETTLING
from parity.cases import SMOOTH

STOCK = "BinaryCrossentropy(from_logits=True)"


def goal(name: str) -> float | None:
    """The largest ratio to the stock loss that we want."""
    if name == STOCK:
        return None
    return 1.05 if name == "segact, sigmoid, cross entropy" else 1.5


def _steps() -> dict[str, Callable[[Any, Any], Any]]:
    """Value and gradient of every loss, compiled."""
    import keras
    import tensorflow as tf

    import segact_tf

    losses = {STOCK: keras.losses.BinaryCrossentropy(from_logits=True)}
    for name in SMOOTH:
        losses[f"segact, {name}, cross entropy"] = segact_tf.BinaryCrossentropy(name)
        losses[f"segact, {name}, Dice"] = segact_tf.Dice(name)

    def step(loss: Any) -> Callable[[Any, Any], Any]:
        @tf.function(jit_compile=True)
        def value_and_gradient(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(y, x)
            return value, tape.gradient(value, x)

        return value_and_gradient

    return {name: step(loss) for name, loss in losses.items()}


def main() -> None:
    """Measure, interleaved, and print the seconds of every round."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keras_xla", description=__doc__)
    parser.add_argument("--shape", type=json.loads, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    steps = _steps()
    import tensorflow as tf

    rng = np.random.default_rng(20210902)
    n, *rest = arguments.shape
    shape = (n, *rest[1:], rest[0])  # channels last
    x = tf.constant(rng.normal(0, 2, shape).astype("float32"))
    y = tf.constant((rng.random(shape) < 1 / 3).astype("float32"))
    for step in steps.values():
        step(x, y)[1].numpy()  # compile
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            for i in range(SETTLING + COUNTED):
                start = time.perf_counter()
                step(x, y)[1].numpy()
                if i >= SETTLING:
                    seconds[name].append(time.perf_counter() - start)
    print(json.dumps({"tensorflow": tf.__version__, "seconds": seconds}))


if __name__ == "__main__":
    main()
