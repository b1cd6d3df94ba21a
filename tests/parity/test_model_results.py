"""What `assert_model_parity` says and returns: short messages, objects, dictionaries by key."""

from typing import Any

import numpy as np
import pytest

from parity import weights
from parity.common.findings import Finding, ParityError, observers
from parity.models.assertion import assert_model_parity
from parity.models.result import Cause, LayerResult, ModelResult

pytestmark = pytest.mark.needs("torch", "keras")

X = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
MANY = 60


@pytest.fixture(scope="module")
def deep() -> Any:
    """A Keras model of many normalizations."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    norms = [layers.BatchNormalization(name=f"norm_{i}") for i in range(MANY)]
    return keras.Sequential([keras.Input((6,)), *norms, layers.Dense(3, name="head")])


def deep_port(keras_model: Any, eps: float) -> Any:
    from torch import nn

    norms = [nn.BatchNorm1d(6, eps=eps) for _ in range(MANY)]
    model = nn.Sequential(*norms, nn.Linear(6, 3))
    weights.copy(keras_model, model, settings="ignore")
    return model


@pytest.fixture(scope="module")
def small() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu", name="first"),
            layers.BatchNormalization(epsilon=1.001e-5, name="norm"),
            layers.LayerNormalization(epsilon=1.001e-5, name="layer_norm"),
            layers.Dense(3, name="head"),
        ]
    )


def small_port(keras_model: Any) -> Any:
    from torch import nn

    model = nn.Sequential()
    for name, module in {
        "first": nn.Linear(6, 5),
        "act": nn.ReLU(),
        "norm": nn.BatchNorm1d(5),
        "layer_norm": nn.LayerNorm(5),
        "head": nn.Linear(5, 3),
    }.items():
        model.add_module(name, module)
    weights.copy(keras_model, model, settings="ignore")
    return model


def failure(*arguments: Any, **options: Any) -> ParityError:
    with pytest.raises(ParityError) as raised:
        assert_model_parity(*arguments, **options)
    print(raised.value)
    return raised.value


# Messages


def test_settings_that_differ_alike_are_one_line(deep: Any) -> None:
    with pytest.raises(weights.WeightsError, match=f"{2 * MANY} settings differ") as caught:
        weights.copy(deep, deep_port(deep, 1e-5))
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "60 BatchNormalization: epsilon 0.001 against 1e-05, first at Keras norm_0 and PyTorch 0; "
        "wanted in PyTorch: eps=0.001, or settings='copy'",
        "60 BatchNormalization: momentum 0.99 against 0.1 (Keras's is 1 minus that), first at "
        "Keras norm_0 and PyTorch 0; wanted in PyTorch: momentum=0.01, or settings='copy'",
    ]


def test_a_message_is_short_and_the_report_has_all(deep: Any) -> None:
    found: list[Finding] = []
    observers.append(found.append)
    try:
        model = deep_port(deep, 1e-5)
        model[MANY].weight.data *= 2
        model[40].running_mean += 1
        model[40].eps = model[41].eps = 1e-2
        error = failure(deep, model, X)
        hidden = failure(deep, deep_port(deep, 1.5e-3), X, rtol=0.1)
    finally:
        observers.clear()
    text, report = str(error), error.result.report
    assert len(text.splitlines()) < 40
    assert "  57 BatchNormalization: epsilon 0.001 against 1e-05, first at Keras norm_1 and" in text
    assert "epsilon is 0.001 in Keras norm_37, 1e-05 in PyTorch 37" in report
    assert found[0].message == report
    assert text.splitlines()[-1] == "all of it: the `result.report` of this error"
    assert str(hidden).splitlines()[1] == (
        "60 BatchNormalization: epsilon 0.001 against 0.0015, first at Keras norm_0 and PyTorch 0; "
        "wanted in PyTorch: eps=0.001"
    )
    assert len(hidden.result.report.splitlines()) > MANY


def test_a_long_list_of_layers_is_cut(deep: Any) -> None:
    model = deep_port(deep, 1e-3)
    model[MANY].bias.data += 1
    error = failure(deep, model, X)
    lines = str(error).splitlines()
    assert len(lines) < 40
    assert any(line.startswith("  ... and ") and "before these" in line for line in lines)
    assert "  Keras head / PyTorch 60: " in str(error)
    assert len(error.result.layers) == MANY + 1
    assert "  Keras norm_0 / PyTorch 0: " in error.result.report


def test_an_epsilon_within_the_tolerance(small: Any) -> None:
    """1.001e-5 for 1e-5: what it can move is less than what rounding does."""
    from torch import nn

    model = small_port(small)
    assert assert_model_parity(small, model, X).passed
    model.norm.eps = 1e-3
    far = nn.Sequential(model)
    text = str(failure(small, far, X, rtol=1e-2, atol=1e-2))
    assert text.startswith("the outputs agree on these inputs, ")
    assert "epsilon is 1.001e-05 in Keras norm, 0.001 in PyTorch 0.norm" in text
    assert "layer_norm" not in text
    variance = small.get_layer("norm").moving_variance
    before = np.array(variance)
    try:
        variance.assign(np.full(5, 1e-7))
        model = small_port(small)
        x = 1e-4 * X  # so small that an epsilon of this size counts
        text = str(failure(small, model, x, rtol=1e-4))
        assert "epsilon is 1.001e-05 in Keras norm, 1e-05 in PyTorch norm" in text
    finally:
        variance.assign(before)


# Objects


def test_the_result_of_a_layer(small: Any) -> None:
    model = small_port(small)
    model.head.weight.data *= 2
    model.norm.eps = 1e-3
    model.norm.running_var += 1e-5 - 1e-3
    model.layer_norm.eps = 1e-1
    result = failure(small, model, X).result
    assert isinstance(result, ModelResult)
    assert not result.passed
    assert result.where == "layer"
    assert isinstance(result.layer, LayerResult)
    assert (result.layer.keras, result.layer.pytorch) == ("layer_norm", "layer_norm")
    assert (result.layer.number, result.layer.kind) == (3, "layer_normalization")
    assert result.layer.input_error < 1e-5 < result.layer.output_error
    assert [one.keras for one in result.layers] == ["first", "norm", "layer_norm"]
    assert result.before == result.layers[1]
    assert result.causes[0].kind == "setting"
    assert [one.key for one in result.settings] == ["epsilon"]
    assert result.settings[0].values == ("1.001e-05", "0.001")
    assert result.settings[0].wanted == "eps=1.001e-05"
    assert result.difference is not None
    assert not result.difference.passed
    assert not result.outputs[""].passed


def test_the_result_of_what_lies_between(small: Any) -> None:
    from torch import nn

    model = small_port(small)
    model.act = nn.Tanh()
    result = failure(small, model, X).result
    assert result.where == "between"
    assert result.before.keras == "first"
    assert result.layer.keras == "norm"
    assert result.causes == (Cause("activation", "Keras applies relu, PyTorch tanh"),)


def test_the_result_of_losses(small: Any) -> None:
    from torch import nn

    loss = nn.MSELoss(reduction="sum")
    y = X[:, :3]
    result = failure(small, small_port(small), X, losses=("mse", loss), targets=y).result
    assert result.where == "losses"
    assert result.outputs[""].passed
    assert "their losses do not" in result.report


# Dictionaries


def by_key(whole: bool, swapped: bool, keys: tuple[str, str] = ("b", "a")) -> Any:
    """A module that takes two named inputs, or one dictionary, and gives one."""
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 2), nn.Linear(4, 2)

        def compute(self, left: Any, right: Any) -> Any:
            outputs = self.two(right), self.one(left)
            return dict(zip(keys, outputs[::-1] if swapped else outputs, strict=True))

    class Named(Port):
        def forward(self, right: Any, left: Any) -> Any:
            return self.compute(left, right)

    class Whole(Port):
        def forward(self, x: Any) -> Any:
            return self.compute(**x)

    return Whole() if whole else Named()


@pytest.fixture(scope="module")
def keras_by_key() -> Any:
    import keras

    inputs = {"left": keras.Input((6,), name="left"), "right": keras.Input((4,), name="right")}
    one, two = keras.layers.Dense(2, name="one"), keras.layers.Dense(2, name="two")
    return keras.Model(inputs, {"a": one(inputs["left"]), "b": two(inputs["right"])})


@pytest.mark.parametrize("whole", [False, True])
def test_dictionaries_are_compared_by_key(keras_by_key: Any, whole: bool) -> None:
    x = {"left": X, "right": X[:, :4]}
    names = {"one": "one", "two": "two"}

    def carried(model: Any) -> Any:
        weights.copy(keras_by_key, model, layers=names)
        return model

    model = carried(by_key(whole, swapped=False))
    assert assert_model_parity(keras_by_key, model, x, layers=names).passed
    error = failure(keras_by_key, carried(by_key(whole, swapped=True)), x, layers=names)
    assert "output a of the models" in str(error)
    assert set(error.result.outputs) == {"a", "b"}
    wrong = carried(by_key(whole, swapped=False, keys=("b", "c")))
    with pytest.raises(ValueError, match="are a, b and b, c; wanted the same keys"):
        assert_model_parity(keras_by_key, wrong, x, layers=names)


def test_a_dictionary_against_a_tuple_is_compared_in_order(keras_by_key: Any) -> None:
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 2), nn.Linear(4, 2)

        def forward(self, left: Any, right: Any) -> Any:
            return self.one(left), self.two(right)

    model, x = Port(), {"left": X, "right": X[:, :4]}
    names = {"one": "one", "two": "two"}
    weights.copy(keras_by_key, model, layers=names)
    assert assert_model_parity(keras_by_key, model, x, layers=names).passed
