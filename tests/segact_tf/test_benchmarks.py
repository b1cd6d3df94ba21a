"""The rows of the benchmarks: every loss beside Keras's own, which computes the same."""

import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not installed
keras_cases = pytest.importorskip("benchmarks.keras_cases", reason="needs a source checkout")

import namespaces  # noqa: E402

import segact_tf  # noqa: E402
from benchmarks import worker  # noqa: E402

FRAMEWORKS = {"tensorflow": ["tensorflow", "xla"], "jax": ["jax"], "torch": ["keras-torch"]}[
    keras.config.backend()
]
CASES = keras_cases.cases()


def test_every_loss_has_a_row_and_a_counterpart():
    classes = [c for c in vars(segact_tf).values() if isinstance(c, type)]
    functions = {c.function.__name__ for c in classes if hasattr(c, "function")}
    assert functions <= set(segact_tf.__all__)
    assert {case.loss for case in CASES} == functions
    keys = [case.key for case in CASES]
    assert sorted(keys) == sorted(set(keys))
    assert {case.options for case in CASES if not case.same} & {"", "sigmoid"} == set()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_profile_of_a_step(framework):
    engine = worker.ENGINES[framework](worker.Task(framework))
    case = next(case for case in CASES if case.name == "dice, sigmoid")
    x, y = engine.batch(case, 8 * 4096)
    words = {"xla": r"\d+ loops of \d+ operations: \d+ \w+", "tensorflow": r"[A-Z]\w+ \d+ %"}
    for loss in (case.ours, case.theirs):
        assert re.match(words.get(framework, r"[\w.:]+ .*\d+ %"), engine.profile(loss, x, y))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_ours_and_theirs_are_the_same(case, rng):
    """Value and gradient, where they say so; Keras adds 1e-7 to sums of some 100."""
    ns = namespaces.load("keras")
    x = rng.normal(0, 2, (8, 40, 1)).astype("float32")
    y = (rng.random((8, 40, 1)) < 1 / 3).astype("float32")

    def of(loss):
        def function(x):
            made, targets = case.inputs(x, ns.array(y))
            return keras.ops.cast(loss(made, targets), "float32")

        return ns.gradients(function, x)

    (value, (slope,)), (expected, (other,)) = of(case.ours), of(case.theirs)
    # theirs takes the sigmoid of what it is given, in half precision
    rel = {"float16": 2e-3, "bfloat16": 2e-2}.get(case.options, 1e-5)
    same = float(value) == pytest.approx(float(expected), rel=rel)
    assert same is case.same
    if same and rel == 1e-5:
        np.testing.assert_allclose(slope, other, rtol=0, atol=1e-4 * np.abs(other).max())
