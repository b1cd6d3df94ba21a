"""`assert_parity` over the frameworks, and `run_in_backend`."""

import functools
import importlib.util
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from parity import Function, ParityError, assert_parity, run_in_backend
from parity.functions.function import as_function
from parity.functions.target import load_target, target_of
from parity.suite.inputs import case_inputs

X = np.linspace(-30, 30, 24, dtype=np.float32)
Y = (np.arange(24) % 2).astype(np.float32)
HAS = {name: importlib.util.find_spec(name) is not None for name in ("torch", "keras", "jax")}


def numpy_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def torch_sigmoid(x):
    import torch

    return torch.sigmoid(x)


def sleeping(x):
    import time

    import torch

    time.sleep(3)
    return torch.zeros(1)


def keras_sigmoid(x):
    import keras

    return keras.ops.sigmoid(x)


def jax_sigmoid(x):
    import jax

    return jax.nn.sigmoid(x)


def in_every_framework():
    found = [numpy_sigmoid]
    for name, function in (
        ("torch", torch_sigmoid),
        ("keras", keras_sigmoid),
        ("jax", jax_sigmoid),
    ):
        found += [function] if HAS[name] else []
    return found


def test_the_same_function_in_every_framework():
    functions = in_every_framework()
    found = assert_parity(*functions, inputs=[X], atol=1e-6)
    able = len(functions) - 1
    parts = [check.part for check in found.checks]
    assert parts.count("value") == len(functions) * (len(functions) - 1) // 2
    assert parts.count("gradient in x") == able * (able - 1) // 2


@pytest.mark.needs("torch")
def test_one_that_differs_is_told_with_where_and_by_how_much():
    def off(x):
        return torch_sigmoid(x) + (x == x.max()) * 0.5

    with pytest.raises(ParityError) as caught:
        assert_parity(torch_sigmoid, off, inputs={"raw": X}, names=("old", "new"))
    text = str(caught.value)
    for words in (
        "old and new differ in the value",
        "index (23,): raw = 30",
        "old     1\n",
        "new     1.5\n",
        "error   0.5, relative 0.333, 4.194e+06 ulp of float32",
        "misses  1 of 24 elements",
        "passes  from rtol=3.4e-01 or atol=5.0e-01 on",
        "differ in the value: 1 of 2 comparisons",
    ):
        assert words in text, text


@pytest.mark.needs("torch")
def test_a_gradient_alone_that_differs():
    import torch

    def detached(x):
        return torch.sigmoid(x.detach()) + 0 * x

    with pytest.raises(ParityError, match="differ in the gradient in x") as caught:
        assert_parity(torch_sigmoid, detached, inputs=[X])
    assert "differ in the gradient in x: 1 of 2 comparisons" in str(caught.value)
    assert assert_parity(torch_sigmoid, detached, inputs=[X], gradients=[]).passed
    with pytest.raises(ParityError, match="cut has none: its value does not depend on x"):
        assert_parity(
            torch_sigmoid, lambda x: torch.sigmoid(x.detach()), inputs=[X], names=("a", "cut")
        )


@pytest.mark.needs("torch")
def test_a_gradient_that_cancels_in_the_sum_is_seen():
    import torch

    def softmax(x):
        return torch.softmax(x, -1)

    def without_gradient(x):
        return softmax(x).detach() + 0 * x

    with pytest.raises(ParityError, match="gradient in x"):
        assert_parity(softmax, without_gradient, inputs=[np.ones((2, 3), np.float32)])


@pytest.mark.needs("torch", "keras")
@pytest.mark.parametrize("cases", ["segmentation", "classification", "volumes"])
def test_losses_of_both_packages_on_the_cases_of_the_judge(cases):
    import segact_tf
    import segact_torch

    for activation in ("arctan", "normal_cdf"):
        found = assert_parity(
            segact_tf.losses.Dice(activation),
            segact_torch.DiceLoss(activation),
            functools.partial(segact_torch.dice, activation=activation),
            inputs=cases,
            gradients=["x"],
        )
        sets = {check.case for check in found.checks}
        assert sets == set(case_inputs(cases))


@pytest.mark.needs("torch", "keras")
def test_the_clipped_loss_and_the_one_from_logits_part_at_the_tails():
    import keras
    import torch

    clipped = keras.losses.BinaryCrossentropy(from_logits=False, reduction=None)

    def keras_head(x, y):
        p = keras.ops.clip(keras.ops.sigmoid(x), 0, 1)  # a layer after the sigmoid
        return clipped(y[..., None], p[..., None])

    exact = torch.nn.BCEWithLogitsLoss(reduction="none")
    with pytest.raises(ParityError, match="keras_head and BCEWithLogitsLoss differ in the value"):
        assert_parity(keras_head, exact, inputs=(X, Y))
    inside = np.abs(X) < 10
    assert_parity(keras_head, exact, inputs=(X[inside], Y[inside]), rtol=2e-3)


@pytest.mark.needs("torch")
def test_float64_stays_float64_and_half_is_held_to_its_own_digits():
    def off(x):
        return torch_sigmoid(x) * (1 + 1e-9)

    with pytest.raises(ParityError, match="float64"):
        assert_parity(torch_sigmoid, off, inputs=[X.astype(np.float64)])
    assert assert_parity(torch_sigmoid, off, inputs=[X]).passed
    half = np.linspace(-3, 3, 9, dtype=np.float16)
    assert assert_parity(torch_sigmoid, off, inputs=[half]).checks[0].difference.dtype == "float16"


@pytest.mark.needs("jax")
def test_jax_keeps_float64():
    found = as_function(jax_sigmoid).evaluate([X.astype(np.float64)], [0])
    assert found[0].dtype == found[1][0].dtype == np.float64


def test_numpy_is_compared_in_value_alone():
    found = assert_parity(numpy_sigmoid, lambda x: np.exp(x) / (np.exp(x) + 1), inputs=[X])
    assert found.notes == ["values alone were compared: NumPy has no gradients"]
    with pytest.raises(ValueError, match="fewer than two of the functions have gradients"):
        assert_parity(numpy_sigmoid, numpy_sigmoid, inputs=[X], gradients=["x"])


@pytest.mark.needs("torch")
def test_frameworks_are_found():
    import torch

    def with_import_inside(x):
        from torch.nn import functional

        return functional.relu(x)

    def calling(x):
        return torch_sigmoid(x) * np.pi

    def annotated(x: torch.Tensor):
        return x * x

    module = torch.nn.Linear(2, 2)
    for thing in (torch.exp, module, module.forward, functools.partial(torch.clamp, min=0)):
        assert as_function(thing).framework == "torch", thing
    for thing in (
        annotated,
        with_import_inside,
        calling,
        lambda x: module(x) + 1,
        lambda x: calling(x),
    ):
        assert as_function(thing).framework == "torch", thing
    assert as_function(np.exp).framework == "numpy"


@pytest.mark.needs("torch", "keras")
def test_keras_is_keras_on_every_backend():
    import keras

    layer = keras.layers.Dense(1)
    for thing in (layer, keras.losses.Dice(), keras.ops.exp, keras_sigmoid, lambda x: layer(x)):
        assert as_function(thing).framework == "keras", thing
    assert as_function(keras.losses.Dice()).order.targets_first
    assert as_function(keras.losses.dice).order.targets_first
    assert not as_function(layer).order.targets_first


@pytest.mark.parametrize(
    ("functions", "options", "error", "words"),
    [
        ([np.exp], {}, TypeError, "1 functions given; wanted two or more"),
        ([np.exp, 3], {}, TypeError, "3 cannot be called"),
        ([np.exp, dict], {}, TypeError, "dict is a class; wanted an instance"),
        ([np.exp, lambda x: x * x], {}, TypeError, "lambda shows no framework"),
        ([np.exp, np.exp], {"inputs": 3}, TypeError, "inputs is int; wanted a list of arrays"),
        ([np.exp, np.exp], {"inputs": []}, ValueError, "inputs is empty"),
        ([np.exp, np.exp], {"inputs": ["a"]}, TypeError, "input x is <U1; wanted real numbers"),
        ([np.exp, np.exp], {"inputs": [np.zeros((0, 3))]}, ValueError, "input x is empty"),
        ([np.exp, lambda x: np.exp(1j * x)], {}, TypeError, "returned complex64; wanted real"),
        ([np.exp, np.exp], {"inputs": "tail"}, ValueError, "did you mean tails?"),
        (
            [np.exp, np.exp],
            {"gradients": ["z"]},
            ValueError,
            "gradients names 'z'; the inputs are x",
        ),
        ([np.exp, np.exp], {"gradients": "x"}, TypeError, "gradients is 'x'; wanted names"),
        ([np.exp, np.exp], {"rtol": -1}, ValueError, "rtol is -1"),
        ([np.exp, np.exp], {"names": ["a"]}, ValueError, "names is .*wanted 2 different"),
        ([np.exp, lambda x: (np.exp(x), 1)], {}, TypeError, "returned tuple; wanted one NumPy"),
        ([np.exp, lambda x: np.exp(x).astype(str)], {}, TypeError, "returned str.*; wanted real"),
        ([np.exp, lambda x: np.exp(x)[None][:0]], {}, ValueError, r"no number, its shape is \(0, "),
    ],
)
def test_what_cannot_be_compared_is_refused(functions, options, error, words):
    with pytest.raises(error, match=words):
        assert_parity(*functions, **{"inputs": [X], **options})


BY_HAND = {
    "sum": ("bce", lambda x, y: bce(x, y).sum(), "sum is 24 times bce; a sum in place of a mean?"),
    "swapped": (
        "bce",
        lambda a, x: bce(x, a).mean(),
        "swapped gets its first two inputs the oth",
    ),
    "probabilities": (
        "bce",
        lambda p, y: -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean(),
        "they agree if probabilities gets sigmoid(x): it takes probabilities",
    ),
    "clipped": (
        "each",
        lambda x, y: bce(np.clip(x, -16.1, 16.1), y),
        "they agree where abs x <= 15: one of them clips probabilities, the other does not",
    ),
    "other": ("bce", lambda x, y: ((x - y) ** 2).mean(), ""),
}


def bce(x, y):
    return np.logaddexp(0, x) - x * y


@pytest.mark.parametrize("mistake", BY_HAND)
def test_likely_causes(mistake):
    name, function, words = BY_HAND[mistake]
    x = X if name == "each" else X / 8
    right = Function(bce if name == "each" else lambda x, y: bce(x, y).mean(), "numpy", name)
    with pytest.raises(ParityError) as caught:
        assert_parity(right, Function(function, "numpy", mistake), inputs=[x, Y])
    assert (words in str(caught.value)) if words else ("likely cause" not in str(caught.value))


def test_a_random_function_is_named_as_such():
    rng = np.random.default_rng(0)

    def dropped(x, y):
        return bce(x * rng.integers(0, 2, x.shape), y).mean()

    def right(x, y):
        return bce(x, y).mean()

    functions = [Function(one, "numpy", one.__name__) for one in (right, dropped)]
    with pytest.raises(ParityError, match="dropped gives other values when it is called again"):
        assert_parity(*functions, inputs=[X, Y])


def test_targets_first_whatever_they_are_called():
    def backwards(target, logits):
        return bce(logits, target).mean()

    assert as_function(backwards).order.targets_first
    assert_parity(backwards, lambda x, y: bce(x, y).mean(), inputs=[X, Y])


def test_a_function_that_changes_its_input_changes_nothing_else():
    def changing(x):
        x *= 2
        return np.square(x) / 4

    x = np.ones(3, np.float32)
    assert_parity(changing, np.square, inputs=[x])
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        case_inputs("segmentation-float32")["segmentation-soft-float32"]["x"][...] = 0


@pytest.mark.needs("torch")
def test_no_gradient_anywhere_is_said():
    import torch

    def flat(x):
        return (torch.sign(x) > 0).float()

    assert "no gradient in x was compared" in assert_parity(flat, flat, inputs=[X]).notes[0]
    with pytest.raises(ValueError, match="no gradient in x was compared"):
        assert_parity(flat, flat, inputs=[X], gradients=["x"])


@pytest.mark.needs("torch", "jax")
def test_a_gradient_of_zeros_is_none():
    import torch

    def torch_flat(x):
        return (torch.sign(x) > 0).float()

    def jax_flat(x):
        import jax

        return (jax.numpy.sign(x) > 0).astype("float32")

    assert assert_parity(torch_flat, jax_flat, inputs=[X]).passed


def test_unknown_inputs_are_told_the_precisions():
    with pytest.raises(ValueError, match="in one precision with -float32 or -float64 at the end"):
        assert_parity(np.square, np.square, inputs="tails-float16")


def test_a_result_is_one_line_in_a_notebook():
    found = assert_parity(np.square, lambda x: x * np.asarray(x), inputs=[[2.0]], names=["a", "b"])
    assert repr(found) == "<Parity of a and b: 0 of 1 comparisons failed>"


def test_an_unknown_framework_is_refused():
    with pytest.raises(ValueError, match="unknown framework pytorch; did you mean torch"):
        Function(np.exp, "pytorch", "f")


def test_an_error_of_the_function_says_whose_it_is():
    def broken(x):
        return np.exp(x) + np.zeros(5)

    with pytest.raises(ValueError, match="broadcast") as caught:
        assert_parity(np.exp, broken, inputs=[X])
    assert caught.value.__notes__ == ["in broken (numpy), given float32[24]"]


def test_targets_are_found_and_refused(tmp_path):
    file = tmp_path / "own_losses.py"
    file.write_text(
        "def half(x):\n    return x / 2\n\nclass Times:\n    def __init__(self, by):\n"
        "        self.by = by\n    def __call__(self, x):\n        return self.by * x\n"
    )
    assert load_target(f"{file}:half")(4) == 2
    assert load_target(f"{file}:Times", {"by": 3})(4) == 12
    assert load_target("math:hypot")(3, 4) == 5
    for target, words in {
        "math": "wanted MODULE:NAME",
        "nowhere_at_all:f": "there is no module nowhere_at_all",
        "math:hypott": "math has no hypott; did you mean hypot?",
        "math:pi": "pi cannot be called; it is float",
        f"{tmp_path}/none.py:f": "there is no file",
    }.items():
        with pytest.raises(ValueError, match=words):
            load_target(target)
    assert target_of(np.testing.assert_allclose) == "numpy.testing._private.utils:assert_allclose"
    assert load_target(target_of(numpy_sigmoid))(0.0) == 0.5
    assert load_target(f"{file}:Times(by=5)")(2) == 10
    for keywords, words in {
        "bye=5": "unknown keyword bye; did you mean by",
        "zzz=5": "unknown keyword zzz; wanted one of by",
        "by=5, more=1": "unknown keyword more",
    }.items():
        with pytest.raises(ValueError, match=words):
            load_target(f"{file}:Times({keywords})")
    for target in (f"{file}:Times(5)", f"{file}:Times(by=print())", f"{file}:Times(by=5"):
        with pytest.raises(ValueError, match="wanted keywords with plain values"):
            load_target(target)
    for nowhere in (
        lambda x: x,
        functools.partial(np.exp),
        load_target(f"{file}:Times(by=5)").__call__,
    ):
        with pytest.raises(TypeError, match="cannot be found by another process"):
            target_of(nowhere)


@pytest.mark.needs("keras", "jax", "torch")
def test_other_backends_in_processes_of_their_own():
    on_jax = run_in_backend("jax", keras_sigmoid)
    on_torch = run_in_backend("torch", "segact_tf.losses:Dice", activation="arctan", smooth=1.0)
    assert (on_jax.framework, on_jax.name) == ("keras", "keras_sigmoid on jax")
    assert_parity(torch_sigmoid, on_jax, inputs=[X], atol=1e-6)
    import segact_torch

    ours = segact_torch.DiceLoss("arctan", smooth=1.0)
    assert_parity(on_torch, ours, inputs="segmentation")
    with pytest.raises(ParityError, match="Dice on torch and DiceLoss differ in the value"):
        assert_parity(on_torch, segact_torch.DiceLoss("arctan"), inputs="segmentation")
    with pytest.raises(ValueError, match=r"segact_tf\.losses has no Dise; did you mean Dice"):
        run_in_backend("torch", "segact_tf.losses:Dise")
    with pytest.raises(RuntimeError, match="in Dice"):
        on_torch.evaluate([X])


def quit_process(x):
    import torch

    os._exit(3)
    return torch.zeros(1)


@pytest.mark.needs("keras", "torch")
def test_a_process_that_ended_is_started_again():
    again = run_in_backend("torch", keras_sigmoid)
    ending = run_in_backend("torch", quit_process)
    assert again.evaluate([X])[0].shape == X.shape
    with pytest.raises(RuntimeError, match="the process with Keras on torch ended"):
        ending.evaluate([X])
    assert again.evaluate([X])[0].shape == X.shape


@pytest.mark.needs("keras", "torch")
def test_an_answer_that_came_too_late_is_not_taken_for_another():
    again = run_in_backend("torch", keras_sigmoid)
    expected = again.evaluate([X])[0]

    class Late(Exception):
        pass

    def interrupt(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Late):
            run_in_backend("torch", sleeping).evaluate([X])
    finally:
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(again.evaluate([X])[0], expected)


@pytest.mark.needs("keras", "torch")
def test_a_fork_leaves_the_process_alone():
    again = run_in_backend("torch", keras_sigmoid)
    child = os.fork()
    if not child:
        again.server.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert again.evaluate([X])[0].shape == X.shape


@pytest.mark.needs("keras", "torch")
def test_relative_files_are_those_of_the_caller(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\n\ndef half(x):\n    return x / 2\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert run_in_backend("torch", "../mine.py:half").evaluate([X])[0][0] == X[0] / 2
    with pytest.raises(ValueError, match=r"keywords of .*not JSON serializable"):
        run_in_backend("torch", "../mine.py:half", by=np.float32(2))


@pytest.mark.needs("keras")
def test_other_backends_refused():
    with pytest.raises(ValueError, match="unknown backend tensorflw; did you mean tensorflow"):
        run_in_backend("tensorflw", "a:b")


def test_importing_it_imports_no_framework():
    code = (
        "import sys; from parity import assert_parity, run_in_backend, ParityError, Function\n"
        "import parity.weights, parity.models, parity.pytest_plugin\n"
        "print(*{'torch', 'keras', 'tensorflow', 'jax', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
