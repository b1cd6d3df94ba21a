"""Layers of every further kind: after the copy both nets give the same outputs, and back."""

from typing import Any

import numpy as np
import pytest
from ported import assert_same_model, image, keras_model, outputs, randomised, unchanged

from parity import ParityError, assert_model_parity, weights
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")


def first_of(module: Any) -> Any:
    """The module, of whose outputs the first counts."""
    from torch import nn

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any) -> Any:
            return self.inner(x)[0]

    return First()


NORMS = [
    ("GroupNormalization", {"groups": 2}, "GroupNorm", (2, 6), (4, 5, 6)),
    ("GroupNormalization", {"groups": 3, "scale": False}, "GroupNorm", (3, 6), (7, 6)),
    ("GroupNormalization", {"groups": -1}, "InstanceNorm2d", (6, 1e-3, 0.1, True), (4, 5, 6)),
    ("GroupNormalization", {"groups": -1}, "InstanceNorm3d", (6, 1e-3, 0.1, True), (3, 4, 2, 6)),
    ("BatchNormalization", {"momentum": 0.9}, "SyncBatchNorm", (6, 1e-3), (4, 5, 6)),
]


@pytest.mark.parametrize("case", NORMS)
def test_normalizations_over_channels(case: tuple[Any, ...]) -> None:
    from keras import layers
    from torch import nn

    kind, options, module, given, size = case
    other = getattr(nn, module)(*given)
    other.eps = 1e-3
    assert_same_model(keras_model(size, getattr(layers, kind)(**options)), other, image(*size))


def test_the_groups_and_epsilon_of_a_group_normalization_must_agree() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((4, 4, 6), layers.GroupNormalization(3))
    unchanged(lambda: weights.copy(one, nn.GroupNorm(2, 6)), nn.GroupNorm(2, 6), "groups is 3 in")
    with pytest.raises(WeightsError, match=r"epsilon is 0.001 in .*, 1e-05 in"):
        weights.copy(one, nn.GroupNorm(3, 6))


def test_normalizations_without_weights(tmp_path: Any) -> None:
    """As PyTorch's InstanceNorm is by default: their settings are checked and copied, a partner may
    be a function instead, and files of weights do not have them."""
    import torch
    from keras import layers
    from torch import nn
    from torch.nn import functional as F

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Any) -> Any:
            return self.two(F.instance_norm(self.one(x), eps=1e-3))

    def port(eps: float = 1e-3, affine: bool = False) -> Any:
        norm = nn.InstanceNorm2d(6, eps, affine=affine)
        return nn.Sequential(nn.Conv2d(3, 6, 1), norm, nn.Conv2d(6, 4, 1))

    def keras(groups: int = -1) -> Any:
        norm = layers.GroupNormalization(groups, scale=False, center=False, name="no_weights")
        return keras_model((4, 5, 3), layers.Conv2D(6, 1), norm, layers.Conv2D(4, 1))

    for other in (port(), Calls(), port(affine=True)):
        assert_same_model(keras(), other, image(4, 5, 3))
    other = port(1e-5)
    unchanged(lambda: weights.copy(keras(), other), other, r"epsilon is 0.001 in .*, 1e-05 in")
    unchanged(lambda: weights.copy(keras(2), other), other, "groups is 2 in Keras no_weights, 6 in")
    weights.copy(keras(), other, settings="copy")
    assert other[1].eps == 1e-3
    one = keras()
    names = weights.suggest(one, other)
    assert names["no_weights"] == "1"
    weights.copy(one, other, layers=names)
    del names["no_weights"]
    weights.copy(one, other, layers=names)
    torch.save(other.state_dict(), tmp_path / "a.pth")
    assert weights.load(tmp_path / "a.pth", one) == [(there, here) for here, there in names.items()]
    one.save_weights(tmp_path / "a.weights.h5")
    found = weights.load(tmp_path / "a.weights.h5", other)
    assert [there for _, there in found] == ["0", "2"]


def test_a_normalization_without_weights_of_flat_features() -> None:
    from keras import layers
    from torch import nn

    norm = layers.LayerNormalization(scale=False, center=False, epsilon=1e-5)
    parts = layers.Conv2D(5, 2), layers.Flatten(), norm, layers.Dense(3)
    own = nn.LayerNorm(60, elementwise_affine=False)
    other = nn.Sequential(nn.Conv2d(3, 5, 2), nn.Flatten(), own, nn.Linear(60, 3))
    assert_same_model(keras_model((4, 5, 3), *parts), other, image(4, 5, 3))


def test_frozen_batch_normalization() -> None:
    """As torchvision has it: its weights are buffers."""
    import torch
    from keras import layers
    from torch import nn

    class FrozenBatchNorm2d(nn.Module):
        def __init__(self, features: int, eps: float) -> None:
            super().__init__()
            self.eps = eps
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.ones(features))

        def forward(self, x: Any) -> Any:
            w, b, mean, var = (
                getattr(self, name).reshape(1, -1, 1, 1)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            return (x - mean) * (w / (var + self.eps).sqrt()) + b

    one = keras_model((4, 5, 6), layers.BatchNormalization())
    assert_same_model(one, FrozenBatchNorm2d(6, 1e-3), image(4, 5, 6))


def test_root_mean_square_normalization() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((5, 6), layers.RMSNormalization(epsilon=1e-6))
    assert_same_model(one, nn.RMSNorm(6, 1e-6), image(5, 6), first=False)
    with pytest.raises(WeightsError, match=r"epsilon is 1e-06 in .*, 1.19.*e-07 in"):
        weights.copy(one, nn.RMSNorm(6))
    with pytest.raises(WeightsError, match=r"epsilon is 1e-06 in .*, 2.2204460\d+e-16 in"):
        weights.copy(one, nn.RMSNorm(6).double())


@pytest.mark.parametrize("size", [(4, 5, 6), (6,)])
def test_prelu(size: tuple[int, ...]) -> None:
    from keras import layers
    from torch import nn

    one = keras_model(size, layers.PReLU(shared_axes=[1, 2] if len(size) > 1 else None))
    assert_same_model(one, nn.PReLU(6), image(*size), first=len(size) > 1)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
def test_separable_convolutions_are_two(rank: int, multiplier: int) -> None:
    from keras import layers
    from torch import nn

    size = (*(8, 9)[:rank], 4)
    options = {"depth_multiplier": multiplier, "strides": 2, "padding": "same", "name": "sep"}
    one = keras_model(size, getattr(layers, f"SeparableConv{rank}D")(5, 3, **options))
    conv, pad = getattr(nn, f"Conv{rank}d"), getattr(nn, f"ZeroPad{rank}d")
    other = nn.Sequential(
        pad((0, 1) if rank == 1 else (1, 1, 0, 1)),
        conv(4, 4 * multiplier, 3, 2, groups=4, bias=False),
        conv(4 * multiplier, 5, 1),
    )
    assert weights.copy(one, other) == [("sep/depthwise", "1"), ("sep/pointwise", "2")]
    assert_same_model(one, other, image(*size))
    with pytest.raises(WeightsError, match=r"sep/depthwise \(SeparableConv.*strides is \(?\[?2"):
        weights.copy(
            one, nn.Sequential(conv(4, 4 * multiplier, 3, groups=4), conv(4 * multiplier, 5, 1))
        )


RECURRENT = [("LSTM", "LSTM", {}), ("GRU", "GRU", {}), ("SimpleRNN", "RNN", {})]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "module", "options"), RECURRENT)
def test_recurrent_layers(kind: str, module: str, options: dict[str, Any], bias: bool) -> None:
    from keras import config, layers
    from torch import nn

    if kind == "GRU" and not bias and config.backend() == "jax":
        pytest.skip("Keras's GRU without a bias mixes its precisions on JAX with float64 enabled")
    one = keras_model((7, 4), getattr(layers, kind)(5, return_sequences=True, use_bias=bias))
    other = getattr(nn, module)(4, 5, batch_first=True, bias=bias, **options)
    assert_same_model(one, first_of(other), image(7, 4), first=False)


@pytest.mark.parametrize(("kind", "module", "options"), RECURRENT)
def test_two_bidirectional_layers_are_one_of_pytorch(
    kind: str, module: str, options: dict[str, Any]
) -> None:
    from keras import layers
    from torch import nn

    def both_ways() -> Any:
        return layers.Bidirectional(getattr(layers, kind)(5, return_sequences=True))

    one = keras_model((7, 4), both_ways(), both_ways(), layers.Dense(3))
    other = getattr(nn, module)(4, 5, 2, batch_first=True, bidirectional=True, **options)
    module_ = nn.Sequential(first_of(other), nn.Linear(10, 3))
    assert_same_model(one, module_, image(7, 4), first=False)


def test_recurrent_layers_that_pytorch_has_not() -> None:
    from keras import layers
    from torch import nn

    for layer, why in [
        (
            layers.GRU(5, reset_after=False),
            "has reset_after=False, which resets before the recurrent product, where PyTorch's GRU "
            "resets after it, so no weights .*; wanted reset_after=True, or .*weights.register",
        ),
        (layers.LSTM(5, activation="relu"), "has activation='relu'; wanted 'tanh'"),
        (layers.LSTM(5, go_backwards=True), "has go_backwards=True; wanted Bidirectional"),
        (layers.Bidirectional(layers.LSTM(5), "sum"), "has merge_mode='sum'; wanted 'concat'"),
    ]:
        with pytest.raises(WeightsError, match=why):
            weights.copy(keras_model((7, 4), layer), nn.LSTM(4, 5))


def test_a_gru_that_resets_before_is_taught() -> None:
    """PyTorch's has no such form; a module of the user's own has."""
    import torch
    from keras import layers
    from torch import nn

    class ResetBefore(layers.GRU):  # type: ignore[misc]
        pass

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.h = nn.Linear(4, 15), nn.Linear(5, 15, bias=False)

        def forward(self, x: Any) -> Any:
            h, w = torch.zeros(len(x), 5), self.h.weight.split(5)
            for step in x.unbind(1):
                z, r, n = self.x(step).split(5, -1)
                z, r = torch.sigmoid(z + h @ w[0].T), torch.sigmoid(r + h @ w[1].T)
                h = z * h + (1 - z) * torch.tanh(n + (r * h) @ w[2].T)
            return h

    def turned(names: dict[str, str]) -> Any:
        return lambda arrays: {names[key]: value.T for key, value in arrays.items()}

    names = {"cell.kernel": "x.weight", "cell.bias": "x.bias", "cell.recurrent_kernel": "h.weight"}
    back = {value: key for key, value in names.items()}
    weights.register(
        "gru, reset before",
        ResetBefore,
        Module,
        names,
        to_pytorch=turned(names),
        to_keras=turned(back),
    )
    one = keras_model((7, 4), ResetBefore(5, reset_after=False))
    assert_same_model(one, Module(), image(7, 4), first=False)


def test_a_dense_is_a_convolution_of_one_pixel() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((4, 5, 6), layers.Dense(3), layers.Conv2D(2, 1))
    other = nn.Sequential(nn.Conv2d(6, 3, 1), nn.Conv2d(3, 2, 1))
    assert_same_model(one, other, image(4, 5, 6))
    one = keras_model((6,), layers.Reshape((1, 1, 6)), layers.Conv2D(3, 1), layers.Flatten())
    assert_same_model(one, nn.Linear(6, 3), image(6), first=False)
    with pytest.raises(WeightsError, match=r"Dense, kernel \(6, 3\)\) does not fit PyTorch model"):
        weights.copy(keras_model((4, 4, 6), layers.Dense(3)), nn.Conv2d(6, 3, 1, 2))


def test_a_bias_of_zeros_is_none() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((4,), layers.Dense(3, use_bias=False))
    other = nn.Linear(4, 3)
    weights.copy(one, other)
    assert not other.bias.any()
    there, here = outputs(one, other, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)
    weights.copy(other, one)
    nn.init.constant_(other.bias, 0.5)
    with pytest.raises(WeightsError, match=r"bias \(3,\)\) does not fit Keras dense.*, no bias"):
        weights.copy(other, one)


def test_a_bias_before_a_batch_normalization_goes_into_its_mean() -> None:
    """As in keras.applications' ResNet50; not where an activation or another layer sees it."""
    import keras
    from keras import layers
    from torch import nn

    def model(activation: str | None = None, aside: bool = False) -> Any:
        picture = keras.Input((4, 5, 3))
        x = layers.Conv2D(6, 2, activation=activation, name="conv")(picture)
        y = layers.BatchNormalization(epsilon=1e-5, momentum=0.9)(x)
        y = layers.Add()([x, y]) if aside else layers.ReLU()(y)
        return randomised(keras.Model(picture, y))

    one, x = model(), image(4, 5, 3)
    other = nn.Sequential(nn.Conv2d(3, 6, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    weights.copy(one, other)
    there, here = outputs(one, other, x, first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    with_bias = nn.Sequential(nn.Conv2d(3, 6, 2), nn.BatchNorm2d(6), nn.ReLU())
    weights.copy(one, with_bias)  # nothing is moved where both have one
    np.testing.assert_array_equal(with_bias[0].bias.detach(), one.get_layer("conv").bias.numpy())
    back = model()
    weights.copy(other, back)
    np.testing.assert_allclose(outputs(back, other, x, first=True)[0], here, rtol=1e-4, atol=1e-5)
    assert not np.any(back.get_layer("conv").bias.numpy())
    assert_model_parity(one, other, x)
    other[1].weight.data[2] *= 1.5
    with pytest.raises(ParityError, match=r"first at layer 2: Keras batch_norm.* and PyTorch 1 "):
        assert_model_parity(one, other, x)
    weights.copy(one, other)
    for wrong in (model("relu"), model(aside=True)):
        with pytest.raises(WeightsError, match=r"bias \(6,\)\) does not fit PyTorch 0 .*no bias"):
            weights.copy(wrong, other)


@pytest.mark.parametrize("bias", [True, False])
def test_attention(bias: bool) -> None:
    import keras
    from keras import layers
    from torch import nn

    given = keras.Input((7, 6))
    layer = layers.MultiHeadAttention(3, 2, use_bias=bias)
    one = randomised(keras.Model(given, layer(given, given)))
    inner = nn.MultiheadAttention(6, 3, bias=bias, batch_first=True)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = inner

        def forward(self, x: Any) -> Any:
            return self.attention(x, x, x, need_weights=False)[0]

    assert_same_model(one, Module(), image(7, 6), first=False)


def vision_transformer() -> tuple[Any, Any]:
    """A small one in both, with a class token, positions and LayerScale."""
    import keras
    import torch
    from keras import layers, ops
    from torch import nn

    class Tokens(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
            self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[-1]), name="positions")

        def call(self, x: Any) -> Any:
            token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
            return ops.concatenate([token, x], 1) + self.positions

    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

        def call(self, x: Any) -> Any:
            return x * self.gamma

    picture = keras.Input((8, 8, 3))
    x = layers.Reshape((16, 6))(layers.Conv2D(6, 2, 2)(picture))
    x = Tokens()(x)
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + Scale()(layers.MultiHeadAttention(3, 2)(y, y))
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + Scale()(layers.Dense(6)(layers.Dense(12, "gelu")(y)))
    x = layers.LayerNormalization(epsilon=1e-6)(x)[:, 0]
    one = randomised(keras.Model(picture, layers.Dense(4)(x)))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(6, 1e-6), nn.LayerNorm(6, 1e-6)
            self.attention = nn.MultiheadAttention(6, 3, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
            self.scale1 = nn.Parameter(torch.ones(6))
            self.scale2 = nn.Parameter(torch.ones(6))

        def forward(self, x: Any) -> Any:
            y = self.norm1(x)
            x = x + self.scale1 * self.attention(y, y, y)[0]
            return x + self.scale2 * self.mlp(self.norm2(x))

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
            self.pos_embed = nn.Parameter(torch.zeros(1, 17, 6))
            self.patches = nn.Conv2d(3, 6, 2, 2)
            self.blocks = nn.Sequential(Block(), Block())
            self.norm, self.head = nn.LayerNorm(6, 1e-6), nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
            return self.head(self.norm(self.blocks(x))[:, 0])

    return one, Module()


def test_a_vision_transformer_with_parameters_of_its_own() -> None:
    one, other = vision_transformer()
    with pytest.raises(WeightsError, match="the map that fits"):
        weights.copy(one, other)
    layers = weights.suggest(one, other)
    assert len(layers) == len(weights.copy(one, other, layers=layers))
    there, here = outputs(one, other, image(8, 8, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-5)
    before = [np.array(value) for value in one.get_weights()]
    for variable in one.weights:
        variable.assign(np.zeros(variable.shape))
    weights.copy(other, one, layers=weights.suggest(other, one))
    for value, old in zip(one.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_a_matrix_of_equal_sides_in_a_layer_of_ones_own_is_not_guessed() -> None:
    import torch
    from keras import layers
    from torch import nn

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.ones(4, 4))

    with pytest.raises(WeightsError, match=r"0 \(Mix\) has weights of a kind .* \(mix\)"):
        weights.copy(keras_model((4,), layers.Dense(4)), nn.Sequential(Mix()))


def test_weights_that_pytorch_ties() -> None:
    """Keras multiplies by the embedding itself; PyTorch has a Linear of the same weight."""
    import keras
    from keras import layers, ops
    from torch import nn

    embedding = layers.Embedding(9, 4)
    tokens = keras.Input((7,), dtype="int32")

    class Logits(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.matmul(x, ops.transpose(embedding.embeddings))

    one = randomised(keras.Model(tokens, Logits()(layers.Dense(4)(embedding(tokens)))))
    other = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    other[2].weight = other[0].weight
    x = np.arange(14).reshape(2, 7) % 9
    assert_same_model(one, other, x, first=False)


def test_a_users_own_layer() -> None:
    import keras
    import torch
    from keras import ops
    from torch import nn

    class Bilinear(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.mix = self.add_weight(shape=(4, 4), name="mix")
            self.shift = self.add_weight(shape=(4,), name="shift")

        def call(self, x: Any) -> Any:
            return x * ops.matmul(x, self.mix) + self.shift

    class TorchBilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))

        def forward(self, x: Any) -> Any:
            return x * (x @ self.w.T) + self.b

    one = keras_model((4,), Bilinear(), keras.layers.Dense(3))
    other = nn.Sequential(TorchBilinear(), nn.Linear(4, 3))
    with pytest.raises(WeightsError, match=r"Bilinear.*has weights of a kind"):
        weights.copy(one, other)
    weights.register(
        "bilinear",
        Bilinear,
        TorchBilinear,
        {"mix": "w", "shift": "b"},
        to_pytorch=lambda arrays: {"w": arrays["mix"].T, "b": arrays["shift"]},
        to_keras=lambda arrays: {"mix": arrays["w"].T, "shift": arrays["b"]},
    )
    assert_same_model(one, other, image(4), first=False)


def test_a_users_own_layer_that_is_registered_wrongly() -> None:
    """What its function returns does not fit: nothing is written, not even the layer before."""
    import keras
    import torch
    from torch import nn

    class Mix(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.mix = self.add_weight(shape=(4, 4), name="mix")

    class TorchMix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 4))

        def forward(self, x: Any) -> Any:
            return x @ self.w.T

    one = keras_model((4,), keras.layers.Dense(4), Mix())
    other = nn.Sequential(nn.Linear(4, 4), TorchMix())
    for name, rows in (("v", 4), ("w", 2)):

        def to_pytorch(arrays: Any, name: str = name, rows: int = rows) -> Any:
            return {name: arrays["mix"][:rows]}

        weights.register(
            "mix",
            Mix,
            TorchMix,
            {"mix": "w"},
            to_pytorch=to_pytorch,
            to_keras=lambda arrays: {"mix": arrays["w"]},
        )
        message = rf"to_pytorch of the kind 'mix' returns .*'{name}': \({rows}, 4\).*; wanted"
        unchanged(lambda: weights.copy(one, other), other, message)


def test_a_users_own_layer_on_a_flattened_image() -> None:
    """The order of its features cannot be changed."""
    import keras
    import torch
    from torch import nn

    class Mix(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.mix = self.add_weight(shape=(8, 8), name="mix")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, self.mix)

    class TorchMix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(8, 8))

        def forward(self, x: Any) -> Any:
            return x @ self.w

    weights.register("mix of flat features", Mix, TorchMix, {"mix": "w"})
    one = keras_model((3, 3, 1), keras.layers.Conv2D(2, 2), keras.layers.Flatten(), Mix())
    other = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), TorchMix())
    unchanged(lambda: weights.copy(one, other), other, r"\(Mix\) gets a flattened image, and its w")
    weights.copy(one, other, flatten="channels_last")


def test_a_file_carries_parts_and_parameters(tmp_path: Any) -> None:
    """Both ways, without the model that they are of."""
    from keras import layers
    from torch import nn

    def model() -> Any:
        return keras_model(
            (9, 4),
            layers.SeparableConv1D(6, 3),
            layers.GroupNormalization(2),
            layers.PReLU(shared_axes=[1]),
            layers.Bidirectional(layers.GRU(5, return_sequences=True)),
            layers.Dense(3),
        )

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv1d(4, 4, 3, groups=4, bias=False), nn.Conv1d(4, 6, 1))
            self.norm, self.act = nn.GroupNorm(2, 6, 1e-3), nn.PReLU(6)
            self.gru = nn.GRU(6, 5, batch_first=True, bidirectional=True)
            self.fc = nn.Linear(10, 3)

        def forward(self, x: Any) -> Any:
            x = self.act(self.norm(self.conv(x))).transpose(1, 2)
            return self.fc(self.gru(x)[0])

    one, other, again = model(), Module(), Module()
    weights.save(one, tmp_path / "keras")
    weights.load(tmp_path / "keras", other)
    there, here = outputs(one, other, image(9, 4), first=True, vectors=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    weights.save(other, tmp_path / "torch")
    for variable in one.weights:
        variable.assign(np.zeros(variable.shape))
    weights.load(tmp_path / "torch", one)
    weights.copy(one, again)
    for mine, theirs in zip(again.parameters(), other.parameters(), strict=True):
        assert mine.equal(theirs)


def test_what_register_refuses() -> None:
    for arguments, message in [
        (("a", 3, dict, {"a": "b"}), "keras is 3; wanted a class"),
        (("dense", dict, dict, {"a": "b"}), "kind is 'dense', which is a built-in kind"),
        (("a", dict, dict, {}), "arrays is {}; wanted attributes"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            weights.register(*arguments)
    with pytest.raises(ValueError, match="wanted both or none"):
        weights.register("a", dict, dict, {"a": "b"}, to_keras=dict)


def test_the_rest_is_copied_where_a_layer_is_not_known() -> None:
    from keras import layers
    from torch import nn

    one = keras_model(
        (7, 4),
        layers.Dense(5, name="a"),
        layers.EinsumDense("abc,cd->abd", (7, 3), name="e"),
        layers.Dense(2),
    )
    other = nn.Sequential(nn.Linear(4, 5), nn.Bilinear(5, 5, 3), nn.Linear(3, 2))
    with pytest.raises(WeightsError, match=r"e \(EinsumDense\) has weights of a kind"):
        weights.copy(one, other)
    with pytest.warns(UserWarning, match=r"not copied: Keras e \(EinsumDense\), PyTorch 1 \(Bil"):
        assert [name for _, name in weights.copy(one, other, partial=True)] == ["0", "2"]
    np.testing.assert_array_equal(other[0].weight.detach(), one.layers[0].kernel.numpy().T)
    other = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match=r"e \(EinsumDense\), PyTorch 1 \(Linear\), PyTorch 2"):
        assert [name for _, name in weights.copy(one, other, partial=True)] == ["0", "3"]
