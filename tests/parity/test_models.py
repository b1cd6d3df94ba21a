"""`assert_model_parity`: sound ports pass, other models are compared as their layers pair."""

import re
from typing import Any

import numpy as np
import pytest
from port import X, message, permuting, torch_cnn
from ported import keras_model

from parity import weights
from parity.common.findings import ParityError
from parity.common.tolerance import Difference
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")


def test_a_sound_port_passes_and_nothing_stays_behind(ported: tuple[Any, Any]) -> None:
    one, other = ported
    other.train()
    other.bn1.eval()
    found = assert_model_parity(one, other, X)
    assert isinstance(found, Difference)
    assert found.passed
    assert found.shapes == ((6, 1), (6, 1))
    text = message(one, other, X, rtol=0, atol=1e-12)
    assert text.startswith("the outputs miss the given tolerances; no layer does more than round")
    assert "Keras conv_1 / PyTorch conv1: " in text
    assert other.training
    assert not other.bn1.training
    for module in other.modules():
        assert not module._forward_hooks
    for layer in one.layers:
        assert "call" not in vars(layer)
    assert one.get_layer("conv_1").activation.__name__ == "relu"


def test_twenty_layers_pass_at_the_default_tolerance() -> None:
    import keras
    from keras import layers
    from torch import nn

    keras.utils.set_random_seed(4)
    there: list[Any] = [keras.Input((8, 8, 8))]
    here: list[Any] = []
    for i in range(20):
        there += [layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(name=f"bn_{i}")]
        there += [layers.ReLU()]
        here += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    one, other = keras.Sequential(there), nn.Sequential(*here)
    weights.copy(one, other, settings="copy")
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 8)).astype(np.float32)
    assert_model_parity(one, other, x)
    other[30 + 1].eps = 1e-5
    assert "layer 22: Keras bn_10 (Batch" in message(one, other, x)


def test_a_sound_port_of_forty_layers_is_sound_layer_by_layer() -> None:
    """In float32, where rounding adds up, and in half precision."""
    import keras
    from keras import layers
    from torch import nn

    keras.utils.set_random_seed(4)
    keras_layers: list[Any] = [keras.Input((8, 8, 8))]
    torch_layers: list[Any] = []
    for _ in range(40):
        keras_layers += [layers.Conv2D(8, 3, padding="same", activation="relu")]
        keras_layers += [layers.BatchNormalization()]
        torch_layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8)]
    keras_layers += [layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")]
    torch_layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(-1)]
    one, other = keras.Sequential(keras_layers), nn.Sequential(*torch_layers)
    weights.copy(one, other, settings="copy")
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 8)).astype(np.float32)
    assert_model_parity(one, other, x)
    assert_model_parity(one, other.bfloat16(), x)


def saturated(one: Any, other: Any) -> tuple[Any, Any]:
    """The same models with a head whose sigmoid is 1 everywhere, as trained ones may have."""
    import keras
    from torch import nn

    head = one.get_layer("dense_2")
    head.bias.assign(head.bias + 60.0)
    other.fc2.bias.data += 60.0
    return keras.Sequential([one, keras.layers.Activation("sigmoid")]), nn.Sequential(
        other, nn.Sigmoid()
    )


@pytest.mark.parametrize("fault", ["running_var", "weight", "one weight", "activation"])
def test_a_fault_that_a_saturated_head_hides(ported: tuple[Any, Any], fault: str) -> None:
    import torch
    from torch import nn

    inner, port = ported
    one, other = saturated(inner, port)
    assert assert_model_parity(one, other, X).passed
    opening = "the outputs agree on these inputs, but not all layers do: first "
    if fault == "running_var":
        port.bn1.running_var *= 1.5
        place, cause = "at layer 2: ", "Keras's moving_variance and PyTorch's running_var differ"
    elif fault == "weight":
        port.conv1.weight.data *= 0.9
        place, cause = "at layer 1: ", "Keras's kernel and PyTorch's weight differ"
    elif fault == "one weight":
        port.conv2.weight.data[0, 1, 2, 0] += 1e-2
        place, cause = "at layer 3: ", "1 of 144 numbers"
    else:
        port.leaky = nn.LeakyReLU(0.2)
        place, cause = "between Keras ", "slope 0.3, PyTorch leaky_relu with slope 0.2"
    with torch.no_grad():
        assert abs(other.eval()(torch.from_numpy(X).moveaxis(-1, 1)).numpy() - 1).max() < 1e-6
    text = message(one, other, X)
    assert text.startswith(opening + place)
    assert cause in text


def test_a_gelu_that_is_another_by_a_little() -> None:
    """In front of a head with so small a kernel that nothing of it comes through."""
    import keras
    from keras import layers
    from torch import nn

    one = keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, "gelu"), layers.Dense(6), layers.Dense(1)]
    )
    for layer in one.layers[1:]:
        layer.kernel.assign(layer.kernel * 1e-3)
        layer.bias.assign(np.ones(layer.bias.shape))

    def port(approximate: str) -> Any:
        other = nn.Sequential(
            nn.Linear(5, 6), nn.GELU(approximate), nn.Linear(6, 6), nn.Linear(6, 1)
        )
        weights.copy(one, other)
        return other

    x = X.reshape(-1, 6)[:20, :5]
    assert_model_parity(one, port("none"), x)
    text = message(one, port("tanh"), x)
    assert text.startswith("the outputs agree on these inputs, but not all layers do: first betwe")
    assert "Keras applies gelu, PyTorch gelu (tanh)" in text
    assert assert_model_parity(one, port("tanh"), x, rtol=1e-2).passed  # as the user allows


def test_layers_in_another_order_are_no_fault_where_outputs_agree() -> None:
    """Branches that are defined the other way around, without a map; a shared layer that is called
    in another order; features in another order; an image of one pixel as it is."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    left, right, picture = keras.Input((4,)), keras.Input((4,)), keras.Input((1, 1, 4))
    shared = layers.Dense(4, "relu", name="shared")
    joined = layers.Add()([shared(left), shared(right)])
    branches = [layers.Dense(4, name="a")(joined), layers.Dense(4, name="b")(joined)]
    pixel = layers.Flatten()(layers.Dense(4, name="pixel")(picture))
    out = layers.Dense(2, name="out")(layers.Concatenate()([*branches, pixel]))
    one = keras.Model([left, right, picture], out)

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.b, self.a = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.pixel, self.out = nn.Linear(4, 4), nn.Linear(12, 2)

        def forward(self, left: Any, right: Any, picture: Any) -> Any:
            joined = self.shared(right).relu() + self.shared(left).relu()
            pixel = self.pixel(picture.flatten(1))
            return self.out(torch.cat([pixel, self.b(joined), self.a(joined)], 1))

    other = Port()
    # the rows of out follow the order of the concatenation
    weights.copy(one, other, layers={n: n for n in ("shared", "a", "b", "pixel", "out")})
    x = (X[:, 0, :4, 0], X[:, 1, :4, 0], X[:, 2:3, :1, [0, 1, 2, 0]] + X[:, 2:3, 1:2, :1])
    assert_model_parity(one, other, x)
    with pytest.raises(ValueError, match="no layer with weights is called 'c'"):
        assert_model_parity(one, other, x, layers={"c": "a"})
    other.shared.weight.data[0, 0] += 0.1
    assert "at layer 1: Keras shared (Dense)" in message(one, other, x)


def test_half_precision(ported: tuple[Any, Any]) -> None:
    """Of two precisions the lower one counts; a wrong kernel is found all the same."""
    one, other = ported
    assert_model_parity(one, other.bfloat16(), X)
    assert_model_parity(one, other.half(), X)
    other.fc2.weight.data *= -1
    assert "first at layer 6: Keras dense_2" in message(one, other, X)


def test_half_precision_in_one_of_the_two() -> None:
    """Mixed precision: the layers agree up to its rounding, the float32 outputs do not."""
    from keras import layers
    from torch import nn

    one = keras_model(
        (8, 8, 3),
        layers.Conv2D(4, 3, dtype="mixed_float16"),
        layers.ReLU(dtype="mixed_float16"),
        layers.Flatten(),
        layers.Dense(2, dtype="float32"),
    )
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    weights.copy(one, other)
    with pytest.raises(ParityError) as raised:
        assert_model_parity(one, other, X)
    (cause,) = raised.value.result.causes
    assert cause.kind == "precision"
    assert re.match(r"Keras conv2d\S* in float16 and PyTorch 0 in float32: they differ", cause.text)
    assert assert_model_parity(one, other, X, atol=0.01).passed
    other[0].bias.data += 1
    with pytest.raises(ParityError) as raised:
        assert_model_parity(one, other, X)
    assert [cause.kind for cause in raised.value.result.causes] == ["weight"]


@pytest.mark.parametrize("within", [True, False])
def test_weights_that_a_block_or_the_model_holds_itself(within: bool) -> None:
    """They are listed before the layers of their owner, and used after one of them."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Block(keras.Model):
        def build(self, shape: Any) -> None:
            self.first, self.second = layers.Dense(4), layers.Dense(4)
            self.first.build(shape)
            self.second.build(shape)
            self.token = self.add_weight(shape=(4,), name="token")

        def call(self, x: Any) -> Any:
            return self.second(self.first(x) + self.token)

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.token = nn.Parameter(torch.zeros(4))

        def forward(self, x: Any) -> Any:
            return self.second(self.first(x) + self.token)

    one, block = keras_model((4,), Block(name="block")), Port()
    other: Any = nn.Sequential(block) if within else block
    weights.copy(one, other)
    assert_model_parity(one, other, X[:, 0, :4, 0])
    block.token.data[1] += 1
    found = message(one, other, X[:, 0, :4, 0])
    name = "0.token" if within else "model.token"
    assert f"and PyTorch {name} (Port): Keras's value and PyTorch's token differ" in found


def test_steps_as_samples() -> None:
    """Keras calls the convolution for each step, the port once: the calls are not compared, the
    weights are."""
    from keras import layers
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn = nn.Conv2d(2, 4, 3), nn.GRU(16, 5, batch_first=True)

        def forward(self, x: Any) -> Any:
            steps = self.conv(x.permute(0, 1, 4, 2, 3).flatten(0, 1))
            return self.rnn(steps.reshape(*x.shape[:2], -1))[0][:, -1]

    each = [layers.TimeDistributed(one) for one in (layers.Conv2D(4, 3), layers.Flatten())]
    one, other = keras_model((3, 4, 4, 2), *each, layers.GRU(5, name="gru")), Port()
    weights.copy(one, other, flatten={"gru": (2, 2, 4)})
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    assert_model_parity(one, other, x, data_format="channels_last")
    other.conv.bias.data[1] += 1
    found = message(one, other, x, data_format="channels_last")
    assert "(Conv2d): Keras's bias and PyTorch's bias differ" in found
    assert "their shapes" not in found


def test_weights_of_all_axes_of_an_image() -> None:
    """Their layouts differ and are no cause, their numbers are one."""
    from keras import layers
    from torch import nn

    one = keras_model((4, 6, 3), layers.LayerNormalization([1, 2, 3]), layers.Conv2D(2, 1))
    other = nn.Sequential(nn.LayerNorm((3, 4, 6), eps=1e-3), nn.Conv2d(3, 2, 1))
    weights.copy(one, other)
    assert_model_parity(one, other, X[:, :4, :6])
    other[0].weight.data[1, 2, 3] += 1
    found = message(one, other, X[:, :4, :6])
    assert re.search(r"likely cause\n  Keras's gamma .* at \(2, 3, 1\) .*, 1 of 72 numbers", found)


def test_layers_that_are_no_pairs(ported: tuple[Any, Any]) -> None:
    from torch import nn

    one, other = ported
    text = message(one, nn.Sequential(other, nn.Linear(1, 1)), X)
    assert "first after the last layer with weights, Keras dense_2 / PyTorch 0.fc2" in text
    assert "not compared, as none of the other model fits\n  PyTorch 1 (Linear)" in text
    assert "those that fit in order were compared: 6 layers with weights in the" in text
    assert "output of the models" in text
    text = message(one, nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), X)
    assert "where is not known, as the layers are no pairs: layer 1: Keras conv_1" in text


def test_a_subclassed_model_with_a_layer_that_is_called_twice() -> None:
    import keras
    from torch import nn

    class There(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(5, name="first")
            self.again = keras.layers.Dense(5, "relu", name="again")

        def call(self, x: Any) -> Any:
            return self.again(self.again(self.first(x)))

    class Here(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.times = nn.Linear(5, 5), nn.Linear(5, 5), 2

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            for _ in range(self.times):
                x = self.again(x).relu() if self.times > 1 else self.again(x)
            return x

    one, other, x = There(), Here(), X.reshape(-1, 3)[:4] @ np.ones((3, 5), np.float32)
    one(x)
    one.again.bias.assign(np.ones(5))
    weights.copy(one, other)
    assert_model_parity(one, other, x)
    other.times = 1
    text = message(one, other, x)
    assert "Keras again (Dense) is called 2 times, PyTorch again (Linear) 1" in text


def test_several_inputs_and_outputs_and_an_explicit_map() -> None:
    import keras
    from keras import layers
    from torch import nn

    picture, number = keras.Input((8, 8, 3)), keras.Input((2,))
    maps = layers.Conv2D(2, 3, name="conv")(picture)
    added = layers.Dense(2, name="fc")(number)
    one = keras.Model([picture, number], [maps, added])

    class Here(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.conv = nn.Linear(2, 2), nn.Conv2d(3, 2, 3)

        def forward(self, picture: Any, number: Any) -> Any:
            return self.conv(picture), self.fc(number)

    other, names = Here(), {"conv": "conv", "fc": "fc"}
    weights.copy(one, other, layers=names)
    x = (X, X[:, 0, 0, :2])
    assert_model_parity(one, other, x)
    other.fc.bias.data += 1
    text = message(one, other, x, layers=names)
    assert "Keras fc (Dense) and PyTorch fc (Linear)" in text
    assert "Keras's bias and PyTorch's bias differ" in text
    assert "elsewhere" not in text
    assert "output 1 of the models" in text
    text = message(one, other, x)
    assert "Keras fc (Dense) and PyTorch fc (Linear)" in text
    assert "stand in another order; the map that fits:\nlayers={\n    'conv': 'conv',\n" in text


def test_sequences_and_segmentation_losses() -> None:
    """Channels first in one dimension, and a loss over maps: the element is named."""
    import keras
    from keras import layers
    from torch import nn

    one = keras.Sequential([keras.Input((9, 3)), layers.Conv1D(1, 3, padding="same")])
    other = nn.Conv1d(3, 1, 3, padding=1)
    weights.copy(one, other)
    x, y = X[:, :, 0].repeat(2, 1)[:, :9], np.zeros((6, 9, 1), np.float32)
    y[2, 5] = 1

    def weighted(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean((1 + y_true) * (y_pred - y_true) ** 2, axis=-1)

    assert_model_parity(one, other, x, losses=("mse", nn.MSELoss()), targets=y)
    text = message(one, other, x, losses=(weighted, nn.MSELoss()), targets=y)
    assert "they differ most at index (2, 5, 0): output " in text
    assert "target 1," in text


def test_a_port_that_takes_channels_last(ported: tuple[Any, Any]) -> None:
    from torch import nn

    one, inner = ported
    other = nn.Sequential(permuting(0, 3, 1, 2), inner)
    with pytest.raises(RuntimeError, match="Given groups=1") as caught:
        assert_model_parity(one, other, X)
    assert caught.value.__notes__ == [
        "torch_model got (6, 3, 8, 8), channels first; data_format='channels_last' gives it x as "
        "it is"
    ]
    assert_model_parity(one, other, X, data_format="channels_last")
    with pytest.raises(ValueError, match="expected axis -1 of input") as refused:
        assert_model_parity(one, inner, np.moveaxis(X, -1, 1))
    assert "x is given as Keras takes it: keras_model got (6, 3, 8, 8)" in refused.value.__notes__


def test_class_numbers_as_targets() -> None:
    import keras
    from torch import nn

    one, other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]), nn.Linear(3, 4)
    weights.copy(one, other)
    x, y = X[:, 0, 0], np.arange(6) % 4
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert_model_parity(one, other, x, losses=(sparse, nn.CrossEntropyLoss()), targets=y)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert "PyTorch CrossEntropyLoss" in message(one, other, x, losses=(sparse, smooth), targets=y)


def test_bad_arguments(ported: tuple[Any, Any]) -> None:
    one, other = ported
    with pytest.raises(TypeError, match="keras_model is a torch Sequential; wanted a Keras model"):
        assert_model_parity(other, one, X)
    with pytest.raises(TypeError, match=r"torch_model is a keras Sequential; wanted a torch.nn"):
        assert_model_parity(one, one, X)
    with pytest.raises(ValueError, match=r"x holds no number, its shape is \(0, 8, 8, 3\); wanted"):
        assert_model_parity(one, other, X[:0])
    for x in (None, "x", X.astype(complex), {"x": X.astype(object)}):
        with pytest.raises(TypeError, match=r"x holds .*; wanted real numbers"):
            assert_model_parity(one, other, x)
    with pytest.raises(ValueError, match=r"x is \[\]; wanted at least one array"):
        assert_model_parity(one, other, [])
    with pytest.raises(TypeError, match="layers is 3; wanted a dictionary"):
        assert_model_parity(one, other, X, layers=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data_format is 'NHWC'; wanted 'channels_first' or 'ch"):
        assert_model_parity(one, other, X, data_format="NHWC")
    with pytest.raises(ValueError, match="losses without targets"):
        assert_model_parity(one, other, X, losses=("mse", "mse"))
    with pytest.raises(ValueError, match="losses is 'mse'; wanted"):
        assert_model_parity(one, other, X, losses="mse", targets=X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rtol is -1; wanted a number >= 0"):
        assert_model_parity(one, other, X, rtol=-1)
    with pytest.raises(ValueError, match="targets have 2 samples, the outputs 6"):
        assert_model_parity(one, other, X, losses=("mse", "mse"), targets=X[:2])


def test_everything_is_restored_when_a_model_raises(ported: tuple[Any, Any]) -> None:
    from torch import nn

    one, _ = ported

    class Fails(nn.Module):
        """Raises behind its last layer."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch_cnn()

        def forward(self, x: Any) -> Any:
            self.inner(x)
            raise RuntimeError("planted")

    other = Fails().train()
    with pytest.raises(RuntimeError, match="planted"):
        assert_model_parity(one, other, X)
    assert all(module.training and not module._forward_hooks for module in other.modules())
    assert all("call" not in vars(layer) for layer in one.layers)
    assert one.get_layer("dense_1").activation.__name__ == "tanh"
