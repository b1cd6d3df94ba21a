"""The checks on two replicas of `tf.distribute.MirroredStrategy`, for test_distributed.py.

    python replicas.py FILE

Every case is a loss of a batch of which each replica has a part, compared with the loss of the
whole batch on a single device. FILE gets the relative error of each check, by name.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from fitting import (
    BATCH,
    ELEMENTWISE,
    FITTED,
    LOVASZ,
    OVERLAP,
    SHAPE,
    VOID,
    data,
    fit,
    network,
    off,
)

import segact_tf
from segact_tf import _compact, _distributed, _sums, activations, functional, losses

# The number of samples of each replica.
SPLITS = {"uneven": (1, 5), "empty": (6, 0), "ignored": (1, 5)}

COMPILED = ("Dice", "BinaryCrossentropy", "Dice, per_sample")
"""In a graph, which takes seconds for each."""


@dataclass(frozen=True)
class Case:
    """A loss with its options, and the arrays of its batch."""

    loss: str
    options: dict[str, Any] = field(default_factory=dict)
    batch: tuple[str, ...] = ("void",)


def cases() -> dict[str, Case]:
    found = {}
    weighted = {"reduction": "mean_with_sample_weight"}
    for loss in (*ELEMENTWISE, *OVERLAP):
        found[loss] = Case(loss, {}, ())
        found[f"{loss}, void"] = Case(loss)
        found[f"{loss}, linear"] = Case(loss, {"activation": "linear"}, ("mask",))
    for loss in ("BinaryCrossentropy", "Dice"):
        for batch in ("weight", "mask", "weight of samples"):
            found[f"{loss}, {batch}"] = Case(loss, {}, (batch,))
        found[f"{loss}, mean_with_sample_weight"] = Case(loss, weighted, ("void", "weight"))
    for loss in OVERLAP:
        for groups in ({"per_sample": True}, {"channel_axis": -1}):
            name = ", ".join([loss, *groups])
            found[name] = Case(loss, groups)
    for groups in ({"per_sample": True}, {"channel_axis": -1}):
        name = ", ".join(["Dice", *groups, "smooth"])
        found[name] = Case("Dice", {**groups, "smooth": 1.0}, ("absent",))
    for loss in LOVASZ:
        found[f"{loss}, per_sample"] = Case(loss, {"per_sample": True}, ("hard", "void"))
    linear = {"per_sample": True, "activation": "linear"}
    found["Lovasz, linear, per_sample"] = Case("Lovasz", linear, ("hard", "void"))
    for reduction in ("sum", "none"):
        for options in ({"per_sample": True}, {"channel_axis": -1}, {}):
            name = ", ".join(["Dice", *options, reduction])
            found[name] = Case("Dice", {**options, "reduction": reduction}, ("absent", "void"))
        for axis in (-1, 0, None):
            name = f"MeanSquaredError, over {axis}, {reduction}"
            found[name] = Case("MeanSquaredError", {"axis": axis, "reduction": reduction})
    of_samples = ("weight of samples", "void")
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight", "sum"):
        options = {"per_sample": True, "channel_axis": -1, "reduction": reduction}
        found[f"Jaccard, both, {reduction}"] = Case("Jaccard", options, of_samples)
    for axis in ((0, 1, 2), (1, 2, 3), 0):
        f = segact_tf.get_activation("linear", axis=axis)
        found[f"Dice, linear over {axis}"] = Case("Dice", {"activation": f}, ("mask",))
    for f in ("normal_cdf", "hardtanh"):
        found[f"BinaryCrossentropy, {f}"] = Case("BinaryCrossentropy", {"activation": f})
    keras2 = {"from_logits": False, "convention": "keras"}
    found["BinaryCrossentropy, keras"] = Case("BinaryCrossentropy", keras2, ("probabilities",))
    return found


CASES = cases()
# The cases with an empty part, with a part that is ignored as a whole, and in float32.
OTHERWISE = [
    *(f"{loss}, void" for loss in (*ELEMENTWISE, *OVERLAP)),
    *("BinaryCrossentropy", "DiceCrossentropy, linear", "Dice, channel_axis", "Dice, per_sample"),
    *("Lovasz, per_sample", "LovaszHinge, per_sample", "Dice, linear over (1, 2, 3)"),
]


class Whole:
    """The whole batch of a case, and the loss of any part of it."""

    def __init__(self, case: Case, split: str, dtype: str) -> None:
        rng = np.random.default_rng(7)
        self.case, self.dtype = case, dtype
        x = 2 * rng.normal(size=SHAPE)
        y = rng.uniform(size=SHAPE)
        rising = np.linspace(0, 1, len(x)).reshape(-1, 1, 1, 1)
        self.mask = rng.uniform(size=SHAPE) > 0.7 * rising
        self.weight = None
        if "hard" in case.batch:
            y = np.round(y)
        if "absent" in case.batch:
            y[..., 1] = 0
        if "probabilities" in case.batch:
            x = 1 / (1 + np.exp(-x))
        if "void" in case.batch:
            y = np.where(self.mask, y, VOID)
        if split == "ignored":  # the first replica's part
            self.mask = self.mask & (np.arange(len(x)) > 0).reshape(-1, 1, 1, 1)
            y = np.where(self.mask, y, VOID)
        if "weight" in case.batch:
            self.weight = rng.uniform(0, 2, SHAPE).astype(dtype)
        if "weight of samples" in case.batch:
            self.weight = np.array([1.5, 0.0, 2.0, 1.0, 0.5, 3.0], dtype)
        self.x, self.y = x.astype(dtype), y.astype(dtype)

    def loss(self, x: Any, y: Any, weight: Any, mask: Any) -> Any:
        loss = getattr(losses, self.case.loss)(
            **self.case.options, ignore_index=VOID, dtype=self.dtype
        )
        if "mask" in self.case.batch:
            keras.src.backend.set_keras_mask(x, mask)
        return loss(y, x, weight)

    def step(self, x: Any, y: Any, weight: Any, mask: Any) -> tuple[Any, Any]:
        """Value and gradient."""
        x = tf.identity(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = self.loss(x, y, weight, mask)
            total = tf.reduce_sum(value)
        return value, tape.gradient(total, x)


def errors(
    strategy: Any, name: str, split: str, dtype: str, compiled: bool = False
) -> tuple[float, float]:
    """The errors of value and gradient, added up over the replicas."""
    case = CASES[name]
    whole = Whole(case, split, dtype)
    tensors = (whole.x, whole.y, whole.weight, whole.mask)
    value, gradient = Whole(case, split, "float64").step(
        *(None if t is None else tf.constant(t, "float64" if t.dtype != bool else bool)
          for t in tensors)
    )  # fmt: skip
    ends = (0, *np.cumsum(SPLITS[split]))

    def part(context: Any) -> Any:
        number = context.replica_id_in_sync_group
        rows = slice(ends[number], ends[number + 1])
        return tuple(tf.constant(t[rows]) for t in tensors if t is not None)

    def step(given: Any) -> Any:
        x, y, *weight, mask = given
        return whole.step(x, y, weight[0] if weight else None, mask)

    parts = strategy.experimental_distribute_values_from_function(part)
    run = tf.function(strategy.run) if compiled else strategy.run
    values, gradients = run(step, args=(parts,))
    values = strategy.experimental_local_results(values)
    found = np.concatenate(strategy.experimental_local_results(gradients))
    of_samples = case.options.get("reduction") == "none" and value.shape[:1] == SHAPE[:1]
    joined = np.concatenate(values) if of_samples else sum(v.numpy() for v in values)
    return off(joined, value), off(found, gradient)


PLANTED = {
    "no all-reduce in the backward pass": ("Dice, void", "BinaryCrossentropy, void"),
    "times the replicas": ("Dice, void", "Jaccard, per_sample", "MeanSquaredError, void"),
    "the count of each replica": ("BinaryCrossentropy, void", "Tversky, per_sample"),
    "the areas of each replica": ("Dice, void", "DiceCrossentropy, channel_axis"),
    "the extremes of each replica": ("Dice, linear", "MeanSquaredError, linear"),
}


@contextlib.contextmanager
def planted(error: str) -> Any:
    """Puts an error into the code, of a kind that was made elsewhere."""
    exchanged, reduced = _distributed._exchanged, _distributed.all_reduce

    def of_each_replica(group: Any, mean: Any, count: Any) -> Any:
        (total,) = reduced(group, mean)
        return total / group.num_replicas_in_sync

    with contextlib.ExitStack() as stack:

        def replace(value: Any, name: str, *owners: Any) -> None:
            for owner in owners:
                stack.callback(setattr, owner, name, vars(owner)[name])
                setattr(owner, name, value)

        if error == "no all-reduce in the backward pass":
            own = lambda x, group: x + tf.stop_gradient(exchanged(x, group) - x)  # noqa: E731
            replace(own, "_exchanged", _distributed)
        elif error == "times the replicas":
            replace(lambda self, shared: None, "_replica_share", losses._Loss)
        elif error == "the count of each replica":
            replace(of_each_replica, "all_mean", _compact, losses)
            replace(lambda group, *sums: sums, "all_reduce", _sums)
        elif error == "the areas of each replica":
            replace(lambda group, *sums: sums, "all_reduce", _compact)
        else:
            replace(lambda group, *both: both, "all_extremes", activations)
        yield


class Checks:
    """Further checks, each a method that returns its error."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy

    def a_loop_of_ones_own(self) -> float:
        """As in docs/scaling.md: gradients and losses of the replicas are added up."""
        x, y = data()
        found = []
        for scope in (contextlib.nullcontext(), self.strategy.scope()):
            with scope:
                model, optimizer = network(["Dice"]), keras.optimizers.SGD(0.1)
                loss_of = losses.Dice("arctan", ignore_index=VOID)

            def step(x: Any, y: Any, model=model, optimizer=optimizer, loss_of=loss_of) -> Any:
                with tf.GradientTape() as tape:
                    loss = loss_of(y, model(x))
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply(gradients, model.trainable_variables)
                return loss

            if not found:
                values = [step(x[at : at + BATCH], y[at : at + BATCH]) for at in (0, 4, 8)]
            else:
                batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)

                @tf.function(reduce_retracing=True, autograph=False)
                def steps(batch: Any, step=step) -> Any:
                    parts = self.strategy.run(step, args=batch)
                    return self.strategy.reduce("SUM", parts, axis=None)

                spread = self.strategy.experimental_distribute_dataset(batches)
                values = [steps(batch) for batch in spread]
            found.append([*(np.array(w) for w in model.get_weights()), np.array(values)])
        return max(off(b, a) for a, b in zip(*found, strict=True))

    def functions(self) -> float:
        """Each replica has the value of the whole batch, undivided."""
        x, y = (t.astype("float64") for t in data())
        y = np.where(y == VOID, 0.0, y)
        found, ends = [], (slice(2), slice(2, None))
        for name in ("dice", "jaccard", "tversky", "focal_tversky", "dice_cross_entropy"):
            function = getattr(functional, name)
            expected = function(y, x, channel_axis=-1)

            def value(x: Any, y: Any, function=function) -> Any:
                return function(y, x, channel_axis=-1)

            parts = [
                self.strategy.experimental_distribute_values_from_function(
                    lambda context, t=t: tf.constant(t[ends[context.replica_id_in_sync_group]])
                )
                for t in (x, y)
            ]
            values = self.strategy.run(value, args=parts)
            found += [off(v, expected) for v in self.strategy.experimental_local_results(values)]
        return max(found)

    def what_is_refused(self) -> float:
        """Errors: a Lovasz loss of the batch, and a scalar, which has no samples."""
        x = tf.zeros((2, 3), "float64")
        for name in LOVASZ:
            loss = getattr(losses, name)(dtype="float64")
            with pytest.raises(ValueError, match=r"per_sample must be True .* sorts all errors"):
                self.strategy.run(lambda loss=loss: loss(x, x))
        with pytest.raises(ValueError, match="y_pred has no dimension of samples"):
            self.strategy.run(lambda: functional.dice(1.0, tf.zeros(())))
        return 0.0

    def in_the_scope_alone(self) -> float:
        """Outside of `run` a loss sees the whole batch; Keras divides means there, too."""
        x, y = data()
        y = np.where(y == VOID, 0.0, y)
        expected = losses.Dice(dtype="float64")(y, x)
        with self.strategy.scope():
            return off(2 * losses.Dice(dtype="float64")(y, x), expected)

    def one_replica(self) -> float:
        """Nothing is exchanged, and the bits are the same as without a strategy."""
        alone = tf.distribute.MirroredStrategy(["CPU:0"])
        x, y = (tf.constant(t) for t in data())
        loss = losses.Dice("linear", ignore_index=VOID, dtype="float64")
        exchanged, _distributed._exchanged = _distributed._exchanged, None
        try:
            found = alone.run(loss, args=(y, x))
        finally:
            _distributed._exchanged = exchanged
        return float(found != loss(y, x))


CHECKS = [name for name in vars(Checks) if not name.startswith("_")]


def run(strategy: Any) -> dict[str, Any]:
    """All requested checks, by name."""
    found: dict[str, Any] = {}
    for name in CASES:
        found[f"{name}; uneven; float64"] = errors(strategy, name, "uneven", "float64")
    for name in OTHERWISE:
        for split, dtype in (("empty", "float64"), ("ignored", "float64"), ("uneven", "float32")):
            found[f"{name}; {split}; {dtype}"] = errors(strategy, name, split, dtype)
    keras.config.set_floatx("float64")
    found["fit"] = fit(strategy.scope(), COMPILED)
    found["eager fit"] = fit(strategy.scope(), FITTED, run_eagerly=True)
    checks = Checks(strategy)
    for name in CHECKS:
        found[name] = getattr(checks, name)()
    for error, names in PLANTED.items():
        with planted(error):
            for name in names:
                case = errors(strategy, name, "uneven", "float64")
                found[f"planted: {error}; {name}"] = case
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if (Path(__file__).parents[2] / "scripts").exists():
        from scripts import local_and_global_keras

        found["table"] = local_and_global_keras.table(strategy)
    with planted("times the replicas"):
        found["planted in fit"] = fit(strategy.scope(), ("Dice",), run_eagerly=True)
    return found


def main() -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    Path(sys.argv[1]).write_text(json.dumps(run(strategy)))


if __name__ == "__main__":
    main()
