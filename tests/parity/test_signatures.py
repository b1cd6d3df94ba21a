"""Which of two parameters takes the targets, and what is said where that cannot be known."""

import functools
import inspect

import numpy as np
import pytest

from parity import Function, ParityError, assert_parity
from parity.common.signatures import Order, order, parameters, read
from parity.functions.function import as_function
from parity.functions.nearest import nearest_in_any_order
from parity.functions.recorded import evaluate, orders_that_agree
from parity.functions.remote import Server

X = np.linspace(-4, 4, 24, dtype=np.float32)
Y = (np.arange(24) % 2).astype(np.float32)

# By the names of the first two: whether the targets come first, and whether that is certain.
READINGS = {
    "y_true y_pred": (True, True),
    "y_pred y_true": (False, True),
    "target input": (True, True),
    "input target": (False, True),
    "targets logits": (True, True),
    "labels outputs": (True, True),
    "ground_truth prediction": (True, True),
    "gt probs": (True, True),
    "true_mask pred_mask": (True, True),
    "mask_pred mask_true": (False, True),
    "predicted_labels labels": (False, True),
    "yTrue yPred": (True, True),
    "ytrue yhat": (True, True),
    "x y": (False, True),
    "p y": (False, True),
    "y t": (False, True),
    "y target": (False, True),
    "y labels": (False, False),
    "y y_hat": (True, True),
    "y y_pred": (True, True),
    "y x": (True, False),
    "y p": (True, False),
    "mask x": (True, True),
    "labels b": (True, False),
    "a y_true": (False, False),
    "a y_pred": (True, False),
    "a x": (False, False),
    "t y": (False, False),
    "a b": (False, False),
    "x1 x2": (False, False),
    "target labels": (False, False),
    "y": (False, False),
    "": (False, False),
}


@pytest.mark.parametrize("names", READINGS)
def test_what_names_say(names: str) -> None:
    assert read(names.split()) == READINGS[names]


def loss_like(*names: str):
    """A NumPy function with these parameters, the squared error weighted by its first."""
    scope: dict = {"np": np}
    one, two = names
    exec(f"def loss({one}, {two}): return np.mean(np.exp({one}) * {two})", scope)
    return scope["loss"]


@pytest.mark.parametrize("names", [n for n in READINGS if len(n.split()) == 2])
def test_what_is_read_is_what_is_given(names: str) -> None:
    """The prediction is the first where they are called so, the second otherwise."""
    first, second = names.split()
    targets_first, certain = READINGS[names]
    one, two = (Y, X) if targets_first else (X, Y)
    value, _ = as_function(loss_like(first, second)).evaluate([X, Y])
    assert value == np.mean(np.exp(one) * two)
    assert (order(loss_like(first, second)).doubt("f") == "") == certain


def bce(x, y):
    return np.mean(np.logaddexp(0, x) - x * y)


def chainer(y, t):
    return np.mean(np.logaddexp(0, y) - y * t)


def unnamed(a, b):
    """With the targets first."""
    return np.mean(np.logaddexp(0, b) - a * b)


def test_y_is_the_prediction_beside_t() -> None:
    assert assert_parity(bce, chainer, inputs=[X, Y]).passed
    assert assert_parity(chainer, bce, inputs="classification").passed


@pytest.mark.parametrize("swap", [False, True])
def test_the_function_that_does_not_say_is_the_one_that_is_meant(swap: bool) -> None:
    pair = (unnamed, bce) if swap else (bce, unnamed)
    with pytest.raises(ParityError) as caught:
        assert_parity(*pair, inputs=[X, Y])
    text = str(caught.value)
    assert "they agree if unnamed gets its first two inputs the other way round" in text
    assert "they agree if bce" not in text
    assert (
        "unnamed(a, b) was given the outputs first, and its parameters do not say whether that is "
        "right: parity.Function(..., targets_first=True) is the other way round"
    ) in text
    said = Function(unnamed, "numpy", "unnamed", targets_first=True)
    found = assert_parity(bce, said, inputs=[X, Y])
    assert not any("was given" in note for note in found.notes)


def test_a_guess_is_told_only_of_those_that_differ() -> None:
    def right(a, b):
        return bce(a, b)

    def wrong(x, y):
        return 2 * bce(x, y)

    assert_parity(bce, right, inputs=[X, Y])
    with pytest.raises(ParityError) as caught:
        assert_parity(bce, wrong, inputs=[X, Y])
    assert "was given" not in str(caught.value)
    with pytest.raises(ParityError) as caught:
        assert_parity(np.sin, np.cos, inputs=[X])
    assert "was given" not in str(caught.value)  # there is one input


def test_an_error_says_what_was_assumed() -> None:
    def strict(a, b):
        if np.any((a < 0) | (a > 1)):
            raise ValueError("targets outside [0, 1]")
        return bce(b, a)

    with pytest.raises(ValueError, match="outside") as caught:
        assert_parity(bce, strict, inputs=[X, Y.astype(np.int64)])
    assert caught.value.__notes__ == [
        "in strict (numpy), given float32[24], int64[24]",
        order(strict).doubt("strict"),
    ]
    with pytest.raises(ValueError, match="broadcast") as caught:
        assert_parity(bce, lambda y_true, y_pred: y_true + np.ones(5), inputs=[X, Y.astype(bool)])
    assert caught.value.__notes__ == ["in lambda (numpy), given bool[24], float32[24]"]


def test_names_of_inputs_say_which_is_which() -> None:
    def keras_like(y_true, y_pred):
        return bce(y_pred, y_true)

    found = assert_parity(bce, keras_like, inputs={"y_true": Y, "y_pred": X})
    assert found.passed
    with pytest.raises(ParityError, match=r"y_pred = .*, y_true = "):
        assert_parity(
            lambda y_pred, y_true: np.subtract(y_pred, y_true),
            lambda y_pred, y_true: np.add(y_pred, 2),
            inputs={"y_true": Y, "y_pred": X},
        )


def test_what_stands_before_a_function() -> None:
    def with_option(gamma, y_true, y_pred, *, eps=0.0):
        return y_pred

    @functools.wraps(with_option)
    def wrapped(*arguments, **options):
        return with_option(*arguments, **options)

    class Called:
        def __call__(self, labels, logits):
            return logits

    def hidden(*arguments):
        return arguments[0]

    assert parameters(functools.partial(with_option, 2.0)) == ("y_true", "y_pred")
    assert order(functools.partial(with_option, 2.0)).targets_first
    assert parameters(wrapped) == ("gamma", "y_true", "y_pred")
    assert not order(wrapped).certain
    assert order(Called()) == Order(True, True, ("labels", "logits"))
    assert order(hidden) == Order()
    assert order(hidden).doubt("f").startswith("f was given the outputs first")
    assert order(max) == Order()


@pytest.mark.needs("torch")
def test_modules_of_pytorch() -> None:
    import torch

    class Backwards(torch.nn.Module):
        def forward(self, target, input):
            return (input - 2 * target).abs().mean()

    script = torch.jit.script(Backwards())
    for module in (Backwards(), torch.compile(Backwards()), script, torch.nn.BCELoss()):
        found = order(module)
        assert found.certain
        assert found.targets_first == (not isinstance(module, torch.nn.BCELoss)), module
    forwards = Function(lambda input, target: (input - 2 * target).abs().mean(), "torch", "f")
    assert assert_parity(Backwards(), forwards, inputs=[X, Y]).passed


@pytest.mark.needs("keras")
def test_layers_losses_and_metrics_of_keras() -> None:
    import keras

    class Layer(keras.layers.Layer):
        def call(self, y_true, y_pred):
            return y_pred - 2 * y_true

    metric = keras.metrics.BinaryAccuracy()
    for thing in (Layer(), keras.losses.Dice(), keras.losses.dice, metric):
        assert order(thing).targets_first, thing
        assert order(thing).certain, thing
    value, _ = as_function(Layer()).evaluate([X, Y])
    np.testing.assert_array_equal(value, X - 2 * Y)


@pytest.mark.needs("tensorflow", "jax")
def test_compiled_functions() -> None:
    import jax
    import tensorflow as tf

    def loss(y_true, y_pred):
        return y_pred

    for thing in (tf.function(loss), jax.jit(loss), jax.vmap(loss)):
        assert order(thing).targets_first, thing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("orders")
    source = "import numpy as np\n\n" + "\n\n".join(map(inspect.getsource, (bce, chainer, unnamed)))
    strict = (
        "\n\ndef strict(a, b):\n    if np.any((a < 0) | (a > 1)):\n"
        "        raise ValueError('outside [0, 1]')\n    return unnamed(a, b)\n"
    )
    (folder / "orders.py").write_text(source + strict)
    found = Server(ahead=str(folder))
    yield found
    found.close()


@pytest.mark.parametrize(
    ("name", "targets_first"),
    [("bce", False), ("chainer", False), ("unnamed", True), ("strict", True)],
)
def test_the_judge_tries_both(server: Server, name: str, targets_first: bool) -> None:
    function = evaluate("mine", f"orders:{name}", "classification-float32", server)
    best, notes = nearest_in_any_order(function, None, None)
    assert (best.case.activation, best.case.quantity) == ("sigmoid", "binary_cross_entropy")
    assert all(m.passed for m in best.measurements)
    assert [("targets" if targets_first else "outputs") in note for note in notes] == (
        [True] if targets_first else []
    )


def test_two_functions_of_ones_own(server: Server) -> None:
    found = [
        evaluate(n, f"orders:{n}", "classification-float32", server) for n in ("bce", "unnamed")
    ]
    doubt, agree = orders_that_agree(found, None, None)
    assert doubt.startswith("unnamed(a, b) was given the outputs first")
    assert agree == "bce and unnamed agree if unnamed is given them so"
    assert orders_that_agree(found[:1] * 2, None, None) == []


@pytest.mark.needs("keras", "torch")
def test_losses_of_models() -> None:
    import torch

    from parity.models.losses import losses_apart

    def keras_loss(y_true, y_pred):
        import keras

        return keras.ops.mean(keras.ops.square(y_pred - 2 * y_true))

    def backwards(target, logits):
        return torch.mean((logits - 2 * target) ** 2)

    def unnamed_torch(a, b):
        return backwards(a, b)

    arrays = Y[:, None], X[:, None], X[:, None]
    assert losses_apart((keras_loss, backwards), *arrays, False, None, None) == ""
    text = losses_apart((keras_loss, unnamed_torch), *arrays, False, None, None)
    assert "unnamed_torch(a, b) was given the outputs first" in text

    def wrong(y_pred, y_true):
        return keras_loss(y_true, y_pred)

    text = losses_apart((wrong, backwards), *arrays, False, None, None)
    assert "Keras gives a loss the targets first, and wrong(y_pred, y_true) takes" in text
