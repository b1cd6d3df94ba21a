"""A training of all losses at once on one device and on several, for every Keras backend."""

import contextlib
from typing import Any

import keras
import numpy as np

from segact_tf import losses

SHAPE = (6, 3, 4, 2)
VOID = 255
ELEMENTWISE = ("BinaryCrossentropy", "BinaryFocalCrossentropy", "MeanSquaredError")
OVERLAP = ("Dice", "Jaccard", "Tversky", "FocalTversky", "DiceCrossentropy")
LOVASZ = ("Lovasz", "LovaszHinge")
# The losses of one `fit`, each with its own weights: the classes, and some options.
FITTED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (*ELEMENTWISE, *OVERLAP)},
    **{name: (name, {"per_sample": True}) for name in LOVASZ},
    "Dice, per_sample": ("Dice", {"per_sample": True, "smooth": 1.0}),
    "Dice, sum of channels": ("Dice", {"channel_axis": -1, "reduction": "sum"}),
    "BinaryCrossentropy, linear": ("BinaryCrossentropy", {"activation": "linear"}),
    "MeanSquaredError, sum": ("MeanSquaredError", {"reduction": "sum"}),
}
WHOLE = {"Lovasz of the batch": ("Lovasz", {})}
"""What no replica can."""
BATCH = 4


def data(samples: int = 9) -> tuple[Any, Any]:
    """Batches of 4, 4 and 1 samples, so that one replica has none of the last."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(samples, *SHAPE[1:]))
    y = np.round(rng.uniform(size=x.shape))
    rising = np.linspace(0, 0.9, len(x)).reshape(-1, 1, 1, 1)
    return x, np.where(rng.uniform(size=x.shape) < rising, VOID, y)


def network(names: Any) -> Any:
    """A convolution for each loss, with the same weights each time."""
    x = keras.Input(SHAPE[1:])
    layers = [keras.layers.Conv2D(2, 3, padding="same", name=f"out{i}") for i in range(len(names))]
    model = keras.Model(x, [layer(x) for layer in layers])
    for layer in layers:
        layer.kernel.assign(np.linspace(-0.4, 0.5, 36).reshape(3, 3, 2, 2))
    return model


def trained(scope: Any, names: Any, samples: int = 9, **options: Any) -> dict[str, list[Any]]:
    """For each loss: kernel, bias and the loss that an epoch of `fit` reports."""
    x, y = data(samples)
    with scope:
        model = network(names)
        kinds = [(FITTED | WHOLE)[name] for name in names]
        made = [getattr(losses, kind)(ignore_index=VOID, **given) for kind, given in kinds]
        model.compile(keras.optimizers.SGD(0.1), made, **options)
    fitted = model.fit(x, [y] * len(names), BATCH, shuffle=False, verbose=0)
    weights = [np.array(w) for w in model.get_weights()]
    found = {}
    for i, name in enumerate(names):
        reported = fitted.history[f"out{i}_loss" if len(names) > 1 else "loss"]
        found[name] = weights[2 * i : 2 * i + 2]
        # For its own sum, Keras reports the mean of the parts' sums times the number of replicas.
        found[name] += [np.array(reported[-1])] if name != "MeanSquaredError, sum" else []
    return found


def fit(scope: Any, names: Any, **options: Any) -> dict[str, float]:
    """The error of a training in the scope, on several devices, against that on one, by loss."""
    one = trained(contextlib.nullcontext(), names, **options)
    two = trained(scope, names, **options)
    return {n: max(off(b, a) for a, b in zip(one[n], two[n], strict=True)) for n in names}


def off(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number."""
    found, expected = (np.asarray(t, "float64") for t in (found, expected))
    if found.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300)
    return float(error if np.isfinite(error) else "inf")
