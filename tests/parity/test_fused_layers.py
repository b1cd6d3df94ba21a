"""`assert_model_parity` on layers whose class has a forward of its own: timm's BatchNormAct2d."""

from typing import Any

import numpy as np
import pytest
from port import message

from parity import weights
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")

X = np.random.default_rng(5).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def keras_model() -> Any:
    """Activations fused and as layers, and a normalization of channels at the end."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(4, 3, padding="same", name="conv_2"),
            layers.ReLU(name="relu_2"),
            layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv_3"),
            layers.BatchNormalization(name="norm_3"),
            layers.Activation("silu", name="silu_3"),
            layers.LayerNormalization(name="norm_4"),
            layers.Conv2D(5, 1, name="conv_5"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="dense"),
        ],
        name="net",
    )
    rng = np.random.default_rng(2)
    for variable in model.get_layer("norm_3").weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def modules() -> dict[str, Any]:
    """What PyTorch's counterpart is made of, as timm and torchvision write it."""
    from torch import nn
    from torch.nn import functional as F

    class ConvReLU(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return F.relu(super().forward(x))

    class BatchNormAct2d(nn.BatchNorm2d):
        def __init__(self, channels: int, act: Any, eps: float) -> None:
            super().__init__(channels, eps=eps)
            self.drop, self.act = nn.Identity(), act

        def forward(self, x: Any) -> Any:
            statistics = self.running_mean, self.running_var, self.weight, self.bias
            return self.act(self.drop(F.batch_norm(x, *statistics, False, 0.1, self.eps)))

    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return {
        "conv_1": ConvReLU(3, 4, 3, padding=1),
        "conv_2": ConvReLU(4, 4, 3, padding=1),
        "conv_3": nn.Conv2d(4, 6, 3, padding=1, bias=False),
        "norm_3": BatchNormAct2d(6, nn.SiLU(), 1e-3),
        "norm_4": LayerNorm2d(6, eps=1e-3),
        "conv_5": nn.Conv2d(6, 5, 1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "dense": nn.Linear(5, 3),
    }


def port(keras_model: Any, **parts: Any) -> Any:
    """Its counterpart, some modules replaced."""
    from torch import nn

    model = nn.Sequential()
    for name, module in {**modules(), **parts}.items():
        model.add_module(name, module)
    weights.copy(keras_model, model, settings="copy")
    return model


def saturated(keras_model: Any, model: Any) -> tuple[Any, Any]:
    """Both with a sigmoid that is 1 everywhere, which hides what is before it."""
    import keras
    from torch import nn

    class Far(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x + 90.0).sigmoid()

    head = keras.layers.Lambda(lambda x: keras.ops.sigmoid(x + 90.0))
    return keras.Sequential([keras_model, head]), nn.Sequential(model, Far())


def test_a_sound_port_passes(keras_model: Any) -> None:
    model = port(keras_model)
    assert assert_model_parity(keras_model, model, X).passed
    assert assert_model_parity(*saturated(keras_model, model), X).passed


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("fault", ["fused", "kernel", "bias", "head"])
def test_a_fault_among_fused_modules_is_named_at_its_own_layer(
    keras_model: Any, fault: str, hidden: bool
) -> None:
    model = port(keras_model)
    if fault == "fused":
        model.conv_2.weight.data = model.conv_2.weight.data.transpose(2, 3).clone()
        place, cause = "layer 2: Keras conv_2", "the kernel is transposed"
    elif fault == "kernel":
        model.conv_3.weight.data = model.conv_3.weight.data.transpose(2, 3).clone()
        place, cause = "layer 3: Keras conv_3", "the kernel is transposed"
    elif fault == "bias":
        model.conv_5.bias.data += 0.1
        place, cause = "layer 6: Keras conv_5", "Keras's bias and PyTorch's bias differ"
    else:
        model.dense.weight.data *= -1
        place, cause = "layer 7: Keras dense", "Keras's kernel and PyTorch's weight differ"
    both = saturated(keras_model, model) if hidden else (keras_model, model)
    text = message(*both, X)
    place = place.replace("Keras ", "Keras net/") if hidden else place
    assert "first at " + place in text
    assert cause in text


def test_a_fault_of_a_fused_module_itself(keras_model: Any) -> None:
    """Its weights, its setting, and its activation."""
    from torch import nn

    model = port(keras_model)
    model.conv_2.weight.data[0] += 0.1
    text = message(keras_model, model, X)
    assert "first at layer 2: Keras conv_2 (Conv2D) and PyTorch conv_2 (ConvReLU)" in text
    assert "Keras's kernel and PyTorch's weight differ" in text
    model = port(keras_model)
    model.norm_3.eps = 1e-1
    text = message(keras_model, model, X)
    assert "first at layer 4: Keras norm_3 (BatchNormalization) and PyTorch norm_3 (Batch" in text
    assert "epsilon is 0.001 in Keras norm_3, 0.1 in PyTorch norm_3" in text
    model = port(keras_model)
    model.norm_3.act = nn.GELU()
    text = message(keras_model, model, X)
    assert "between Keras norm_3 / PyTorch norm_3 and Keras norm_4 / PyTorch norm_4" in text
    assert "Keras applies silu, PyTorch gelu" in text
    assert "PyTorch: the forward of norm_3 (BatchNormAct2d)" in text


def test_a_forward_that_means_something_else_is_never_the_cause(keras_model: Any) -> None:
    """It gives twice what its kind does, which comes in half behind it."""
    from torch import nn

    class Twice(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return self._conv_forward(x, 2 * self.weight, self.bias)

    class Half(nn.BatchNorm2d):
        def forward(self, x: Any) -> Any:
            return nn.functional.silu(super().forward(x / 2))

    parts = {"conv_3": Twice(4, 6, 3, padding=1, bias=False), "norm_3": Half(6, eps=1e-3)}
    model = port(keras_model, **parts)
    assert assert_model_parity(*saturated(keras_model, model), X).passed
    model.conv_5.weight.data[0] *= 2
    assert "first at layer 6: Keras conv_5" in message(keras_model, model, X)


def test_a_keras_layer_with_a_call_of_its_own(keras_model: Any) -> None:
    import keras
    from torch import nn

    class ConvRelu(keras.layers.Conv2D):
        def call(self, x: Any) -> Any:
            return keras.ops.relu(super().call(x))

    one = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            ConvRelu(4, 3, name="first"),
            ConvRelu(4, 3, name="second"),
            keras.layers.Conv2D(2, 3, name="third"),
        ]
    )
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), modules()["conv_2"], nn.Conv2d(4, 2, 3))
    other[2].padding = (0, 0)
    weights.copy(one, other)
    assert assert_model_parity(one, other, X).passed
    other[3].bias.data += 1
    assert "first at layer 3: Keras third (Conv2D) and PyTorch 3" in message(one, other, X)
    other[3].bias.data -= 1
    other[2].bias.data += 1
    assert "first at layer 2: Keras second (ConvRelu) and PyTorch 2" in message(one, other, X)
