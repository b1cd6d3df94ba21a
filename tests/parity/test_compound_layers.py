"""`assert_model_parity` on layers whose calls are not compared: recurrent, separable, attention.

What is wrong with their weights and settings is named with the layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ported import image, keras_model, randomised

from parity import weights
from parity.common.findings import ParityError
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")


def recurrent(kind: str, of_torch: str) -> tuple[Any, Any]:
    from keras import layers
    from torch import nn

    one = keras_model(
        (7, 4),
        layers.Dense(4, name="body"),
        getattr(layers, kind)(5, return_sequences=True, name="rnn"),
        layers.Dense(3, name="head"),
    )

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(5, 3)
            self.rnn = getattr(nn, of_torch)(4, 5, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(self.body(x))[0])

    other = Port()
    weights.copy(one, other, layers={name: name for name in ("body", "rnn", "head")})
    return one, other


def attention() -> tuple[Any, Any]:
    import keras
    from keras import layers
    from torch import nn

    x = keras.Input((7, 6))
    y = layers.Dense(6, name="body")(x)
    y = layers.MultiHeadAttention(3, 2, name="heads")(y, y)
    one = randomised(keras.Model(x, layers.Dense(2, name="head")(y)))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Linear(6, 6), nn.MultiheadAttention(6, 3, batch_first=True)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            x = self.body(x)
            return self.head(self.heads(x, x, x, need_weights=False)[0])

    other = Port()
    weights.copy(one, other)
    return one, other


def separable() -> tuple[Any, Any]:
    from keras import layers
    from torch import nn

    one = keras_model(
        (9, 8, 4),
        layers.Conv2D(4, 1, name="body"),
        layers.SeparableConv2D(4, 3, name="apart"),
        layers.Conv2D(2, 1, name="head"),
    )
    other = nn.Sequential(
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 2, 1),
    )
    weights.copy(one, other)
    return one, other


def message(*both: Any, x: Any, **options: Any) -> str:
    with pytest.raises(ParityError) as raised:
        assert_model_parity(*both, x, **options)
    print(raised.value)
    assert raised.value.result.causes[0].kind == "weight"
    return str(raised.value)


def _add(name: str) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        getattr(module, name).data[0] += 1

    return change


def _turn(module: Any) -> None:
    module.weight_hh_l0.data[:5] = module.weight_hh_l0.data[:5].T.clone()


def _swap(module: Any) -> None:
    """The gates in Keras's order."""
    for name in ("weight_hh_l0", "weight_ih_l0", "bias_hh_l0", "bias_ih_l0"):
        first, second, third = getattr(module, name).data.split(5)
        getattr(module, name).data = _joined(second, first, third)


def _joined(*tensors: Any) -> Any:
    import torch

    return torch.cat(tensors)


@pytest.mark.parametrize(
    ("kind", "of_torch", "change", "cause"),
    [
        ("LSTM", "LSTM", _add("weight_ih_l0"), "Keras's kernel and PyTorch's weight_ih_l0 differ"),
        ("LSTM", "LSTM", _add("bias_hh_l0"), "Keras's bias and PyTorch's bias_ih_l0 differ"),
        ("SimpleRNN", "RNN", _turn, "the recurrent_kernel is transposed"),
        ("GRU", "GRU", _swap, "the recurrent_kernel has the same numbers in another order"),
    ],
)
def test_a_recurrent_layer_is_named(kind: str, of_torch: str, change: Any, cause: str) -> None:
    one, other = recurrent(kind, of_torch)
    names = {name: name for name in ("body", "rnn", "head")}
    options = {"layers": names, "data_format": "channels_last"}
    assert assert_model_parity(one, other, image(7, 4), **options).passed
    change(other.rnn)
    text = message(one, other, x=image(7, 4), **options)
    assert f"likely cause\n  Keras rnn ({kind}) and PyTorch rnn ({of_torch}): " in text
    assert cause in text


def test_attention_is_named() -> None:
    one, other = attention()
    assert assert_model_parity(one, other, image(7, 6), data_format="channels_last").passed
    other.heads.in_proj_weight.data[7] += 1
    text = message(one, other, x=image(7, 6), data_format="channels_last")
    assert "Keras heads (MultiHeadAttention) and PyTorch heads (MultiheadAttention): " in text
    assert "Keras's key_kernel and PyTorch's key_kernel differ" in text
    assert "query_kernel" not in text
    assert "value_kernel" not in text


@pytest.mark.parametrize(("number", "part"), [(1, "depthwise"), (2, "pointwise")])
def test_a_separable_convolution_is_named_by_its_part(number: int, part: str) -> None:
    one, other = separable()
    assert assert_model_parity(one, other, image(9, 8, 4)).passed
    other[number].weight.data[1] += 1
    text = message(one, other, x=image(9, 8, 4))
    assert (
        f"  Keras apart/{part} (SeparableConv2D) and PyTorch {number} (Conv2d): Keras's ker" in text
    )
    assert text.count("SeparableConv2D) and") == 1


def test_the_settings_of_a_separable_convolution() -> None:
    one, other = separable()
    other[1].padding = (1, 1)
    with pytest.raises(ParityError) as raised:
        assert_model_parity(one, other, image(9, 8, 4))
    assert "likely cause\n  Keras apart/depthwise pads ((0, 0), (0, 0))" in str(raised.value)
    assert str(raised.value).count("apart/depthwise pads") == 1
    assert raised.value.result.causes[0].kind == "setting"


def test_what_weights_and_settings_do_not_show() -> None:
    """Steps before samples, masks, the last output of the backward direction."""
    import keras
    from keras import layers
    from torch import nn

    class Port(nn.Module):
        def __init__(self, rnn: Any, size: int) -> None:
            super().__init__()
            self.rnn, self.head = rnn, nn.Linear(size, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x)[0][:, -1])

    x = np.random.default_rng(0).normal(size=(6, 6, 4)).astype(np.float32)
    x[:, 4:] = 0
    lstm, both = layers.LSTM(5), layers.Bidirectional(layers.LSTM(5))
    for before, rnn, port, words in [
        (
            [],
            lstm,
            nn.LSTM(4, 5),
            r"PyTorch rnn \(LSTM\) has batch_first=False: it takes steps first",
        ),
        ([layers.Masking()], layers.LSTM(5), nn.LSTM(4, 5, batch_first=True), "masks steps"),
        (
            [],
            both,
            nn.LSTM(4, 5, batch_first=True, bidirectional=True),
            "the forward direction agrees, the backward one does not",
        ),
    ]:
        one = keras_model((6, 4), *before, rnn, layers.Dense(2))
        other = Port(port, 10 if rnn is both else 5)
        weights.copy(one, other)
        with pytest.raises(ParityError, match=f"likely cause\n  .*{words}"):
            assert_model_parity(one, other, x)

    class Heads(nn.MultiheadAttention):
        def forward(self, x: Any) -> Any:
            return super().forward(x, x, x)[0]

    inside = keras.Input((6, 4))
    one = randomised(keras.Model(inside, layers.MultiHeadAttention(2, 2)(inside, inside)))
    other = nn.Sequential(Heads(4, 2))
    weights.copy(one, other)
    wanted = "the calls of recurrent layers, attention and SeparableConv are not compared\n"
    with pytest.raises(ParityError, match=wanted + "likely cause\n  .* has batch_first=False"):
        assert_model_parity(one, other, x)
    other[0].add_zero_attn = True
    with pytest.raises(weights.WeightsError, match="add_zero_attn=True, which Keras does not have"):
        weights.copy(one, other)


def test_sound_layers_are_no_cause() -> None:
    """Where what lies between is wrong, and the rows of a kernel stand in another order."""
    from keras import layers
    from torch import nn

    one = keras_model(
        (4, 5, 3),
        layers.Conv2D(2, 1, name="body"),
        layers.Permute((2, 1, 3)),
        layers.Reshape((5, 8)),
        layers.LSTM(5, return_sequences=True, name="rnn"),
        layers.Dense(3, name="head"),
    )

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.rnn = nn.Conv2d(3, 2, 1), nn.LSTM(8, 5, batch_first=True)
            self.head, self.slope = nn.Linear(5, 3), 1.0

        def forward(self, x: Any) -> Any:
            x = self.body(x).permute(0, 3, 1, 2).flatten(2)
            return self.head(self.rnn(x)[0] * self.slope)

    other = Port()
    weights.copy(one, other)
    assert assert_model_parity(one, other, image(4, 5, 3)).passed
    other.slope = 2.0
    with pytest.raises(ParityError) as raised:
        assert_model_parity(one, other, image(4, 5, 3))
    assert "first between Keras body / PyTorch body and Keras head" in str(raised.value)
    assert "(LSTM): " not in str(raised.value)
    assert not [one for one in raised.value.result.causes if one.kind == "weight"]
    assert np.all(np.isfinite([one.output_error for one in raised.value.result.layers]))
