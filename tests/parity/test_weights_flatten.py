"""Dense layers behind a flattened image: whatever moves its elements, they find their rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ported import assert_same_model, image, keras_model, outputs, own_scale, randomised, unchanged

from parity import weights
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")


def head(*between: Any) -> Any:
    """A Keras model: a convolution that gives (4, 6, 5), what lies between, a Dense."""
    from keras import layers

    return keras_model((5, 7, 3), layers.Conv2D(5, 2), *between, layers.Dense(4), layers.Dense(3))


def port(between: Callable[[Any], Any], features: int) -> Any:
    """The same in PyTorch, with a function between."""
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 2), nn.Linear(features, 4)
            self.last = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.last(self.fc(between(self.conv(x))))

    return Port()


def keras_moves() -> dict[str, tuple[list[Any], bool]]:
    """What flattens (4, 6, 5) in Keras, and whether there is a vector of all for each sample."""
    import keras
    from keras import layers, ops

    class Own(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.reshape(ops.flip(x, 1), (-1, 120))

    return {
        "Flatten": ([layers.Flatten()], True),
        "Reshape": ([layers.Reshape((-1,))], True),
        "Permute, Flatten": ([layers.Permute((3, 1, 2)), layers.Flatten()], True),
        "Lambda": (
            [layers.Lambda(lambda x: ops.transpose(x, (0, 2, 3, 1))), layers.Flatten()],
            True,
        ),
        "Reshape((4, 30))": ([layers.Reshape((4, 30)), layers.Flatten()], True),
        "tanh": ([layers.Activation("tanh"), layers.Dropout(0.5), layers.Flatten()], True),
        "pooling": ([layers.MaxPooling2D((2, 1)), layers.Softmax(), layers.Flatten()], True),
        "a layer of one's own": ([Own()], True),
        "CRNN": ([layers.Permute((2, 1, 3)), layers.Reshape((6, 20))], False),
        "TimeDistributed": (
            [layers.Permute((2, 1, 3)), layers.TimeDistributed(layers.Flatten())],
            False,
        ),
        "rows": ([layers.Reshape((4, 30))], False),
    }


def torch_moves(name: str) -> tuple[Callable[[Any], Any], int]:
    """The usual port of each: (N, 5, 4, 6) flattened, or by steps along the width or height."""
    import torch
    from torch.nn import functional as F

    flat = {
        "tanh": lambda x: torch.tanh(x).flatten(1),
        "pooling": lambda x: F.max_pool2d(x, (2, 1)).softmax(1).reshape(len(x), -1),
        "a layer of one's own": lambda x: x.flip(2).permute(0, 2, 3, 1).reshape(-1, 120),
    }
    if name == "CRNN" or name == "TimeDistributed":
        return lambda x: x.permute(0, 3, 1, 2).flatten(2), 20  # (N, W, C * H)
    if name == "rows":
        return lambda x: x.permute(0, 2, 1, 3).reshape(-1, 4, 30), 30
    return flat.get(name, lambda x: x.flatten(1)), 60 if name == "pooling" else 120


NAMES = (
    *("Flatten", "Reshape", "Permute, Flatten", "Lambda", "Reshape((4, 30))", "tanh", "pooling"),
    *("a layer of one's own", "CRNN", "TimeDistributed", "rows"),
)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_flattens(name: str) -> None:
    """Copied there and back; the outputs agree."""
    between, _ = keras_moves()[name]
    assert_same_model(head(*between), port(*torch_moves(name)), image(5, 7, 3), vectors=True)


@pytest.mark.parametrize("name", NAMES[:5])
def test_a_port_that_permutes_itself(name: str) -> None:
    """PyTorch flattens channels last, or what else it likes."""
    for moves in (
        lambda x: x.permute(0, 2, 3, 1).flatten(1),
        lambda x: x.permute(0, 3, 1, 2).contiguous().view(len(x), -1),
    ):
        one = head(*keras_moves()[name][0])
        assert_same_model(one, port(moves, 120), image(5, 7, 3), vectors=True)


def test_an_image_made_of_features() -> None:
    import torch
    from keras import layers
    from torch import nn

    class Generator(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.last = last
            self.fc, self.bn, self.up = nn.Linear(6, 24), nn.BatchNorm1d(24), nn.Conv2d(4, 3, 1)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.bn(self.fc(x)))
            if self.last:
                return self.up(x.view(-1, 2, 3, 4).permute(0, 3, 1, 2))
            return self.up(x.view(-1, 4, 2, 3))

    for last in (False, True):
        one = keras_model(
            (6,),
            layers.Dense(24),
            layers.BatchNormalization(epsilon=1e-5, momentum=0.9),
            layers.ReLU(),
            layers.Reshape((2, 3, 4)),
            layers.Conv2D(3, 1),
        )
        assert_same_model(one, Generator(last), image(6))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("both_ways", [False, True])
def test_a_recurrent_layer_that_reads_an_image_column_by_column(kind: str, both_ways: bool) -> None:
    """A CRNN: the rows of the recurrent kernel are those of (height, channels)."""
    from keras import layers
    from torch import nn

    def recurrent() -> Any:
        own = getattr(layers, kind)(3, return_sequences=True)
        return layers.Bidirectional(own) if both_ways else own

    columns = [layers.Permute((2, 1, 3)), layers.Reshape((6, 20)), recurrent(), recurrent()]
    one = keras_model((5, 7, 3), layers.Conv2D(5, 2), *columns, layers.Dense(2))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 2), nn.Linear(6 if both_ways else 3, 2)
            options = {"batch_first": True, "bidirectional": both_ways}
            self.rnn = getattr(nn, kind)(20, 3, 2, **options)

        def forward(self, x: Any) -> Any:
            return self.fc(self.rnn(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0])

    other = Port()
    layers_ = weights.suggest(one, other)
    weights.copy(one, other, layers=layers_)
    there, here = outputs(one, other, image(5, 7, 3), first=True, vectors=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    before = [np.array(value) for value in one.get_weights()]
    for variable in one.weights:
        variable.assign(np.zeros(variable.shape))
    weights.copy(other, one, layers={value: key for key, value in layers_.items()})
    for value, old in zip(one.get_weights(), before, strict=True):
        np.testing.assert_allclose(value, old, rtol=1e-6)


class Flat:
    """A convolution, a flatten, a layer on the flat features, and a Dense, in both frameworks."""

    def __init__(self, keras_layer: Any, torch_layer: Any, last: bool = False) -> None:
        from keras import layers
        from torch import nn

        convolution = layers.Conv2D(3, 2)
        self.keras = keras_model(
            (3, 4, 2), convolution, layers.Flatten(), keras_layer, layers.Dense(4, name="fc")
        )

        class Permute(nn.Module):
            def forward(self, x: Any) -> Any:
                return x.permute(0, 2, 3, 1)

        moves = [Permute(), nn.Flatten()] if last else [nn.Flatten()]
        self.torch = nn.Sequential(nn.Conv2d(2, 3, 2), *moves, torch_layer, nn.Linear(18, 4))


@pytest.mark.parametrize("kind", ["PReLU", "RMS", "one group"])
def test_a_layer_that_keeps_flat_features_in_place(kind: str, tmp_path: Any) -> None:
    """Its own arrays are reordered, too, and so are the rows of the Dense after it."""
    from keras import layers
    from torch import nn

    own = {"epsilon": 1e-5}
    pairs = {
        "PReLU": lambda: (layers.PReLU(), nn.PReLU(18)),
        "RMS": lambda: (layers.RMSNormalization(**own), nn.RMSNorm(18, eps=1e-5)),
        "one group": lambda: (layers.GroupNormalization(1, **own), nn.GroupNorm(1, 18)),
    }
    for last in (False, True):
        both = Flat(*pairs[kind](), last)
        assert_same_model(both.keras, both.torch, image(3, 4, 2))
    both = Flat(*pairs[kind]())
    weights.save(both.keras, tmp_path / "a")
    weights.load(tmp_path / "a", both.torch)
    there, here = outputs(both.keras, both.torch, image(3, 4, 2), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_flat_features_whose_weights_cannot_be_reordered() -> None:
    """Groups of them are other features in PyTorch's order; an own layer may do anything."""
    from keras import layers
    from torch import nn

    def grouped() -> tuple[Any, Any]:
        return layers.GroupNormalization(3, epsilon=1e-5), nn.GroupNorm(3, 18)

    for pair, why in (
        (grouped, "normalizes groups of features of a flattened image"),
        (lambda: own_scale(18, "own"), "Keras own/scale .* is used with the features"),
    ):
        both = Flat(*pair())
        message = f"{why}.*wanted a PyTorch module that permutes"
        unchanged(lambda both=both: weights.copy(both.keras, both.torch), both.torch, message)
        both = Flat(*pair(), last=True)
        weights.copy(both.keras, both.torch, flatten="channels_last")
        there, here = outputs(both.keras, both.torch, image(3, 4, 2), first=True)
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def siamese(join: Callable[..., Any]) -> Any:
    """A Keras model that joins the flattened outputs of one convolution for two images."""
    import keras
    from keras import layers

    picture = keras.Input((3, 4, 2))
    conv, flat = layers.Conv2D(3, 2, name="conv"), layers.Flatten()
    joined = join(flat(conv(picture)), flat(conv(picture * 2)))
    return randomised(keras.Model(picture, layers.Dense(4, name="fc")(joined)))


def siamese_port(join: Callable[..., Any]) -> Any:
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 3, 2), nn.Linear(18, 4)

        def forward(self, x: Any) -> Any:
            return self.fc(join(self.conv(x).flatten(1), self.conv(2 * x).flatten(1)))

    return Port()


def test_flat_features_of_several_images_that_are_added() -> None:
    """A siamese network: a distance of the two, or a softmax."""
    import torch
    from keras import ops

    for joins in (
        (lambda a, b: ops.abs(a - b), lambda a, b: torch.abs(a - b)),
        (lambda a, b: ops.softmax(a * b), lambda a, b: torch.softmax(a * b, 1)),
        (
            lambda a, b: a - ops.mean(b, -1, keepdims=True),
            lambda a, b: a - b.mean(-1, keepdim=True),
        ),
    ):
        assert_same_model(siamese(joins[0]), siamese_port(joins[1]), image(3, 4, 2))


def test_flat_features_that_cannot_be_followed() -> None:
    """They are refused; the shape of the image, if named, is used."""
    import torch
    from keras import ops

    order = {"fc": (2, 3, 3)}
    one = siamese(lambda a, b: ops.cumsum(a, -1) + b)
    other = siamese_port(lambda a, b: torch.cumsum(a, -1) + b)
    message = "order of the features between Keras fc .*is computed from a flattened image"
    unchanged(lambda: weights.copy(one, other), other, message)
    weights.copy(one, other, flatten=order)
    kernel = one.get_layer("fc").kernel
    wanted = ops.convert_to_numpy(kernel).reshape(2, 3, 3, 4).transpose(2, 0, 1, 3).reshape(18, 4)
    np.testing.assert_array_equal(other.fc.weight.detach().T, wanted)


def test_an_image_made_of_a_sum_of_features() -> None:
    import keras
    from keras import layers
    from torch import nn

    features = keras.Input((6,))
    both = [layers.Dense(24, name=f"fc{n}")(features) for n in (1, 2)]
    made = layers.Reshape((2, 3, 4))(keras.ops.tanh(both[0]) * keras.ops.sigmoid(both[1]))
    one = randomised(keras.Model(features, layers.Conv2D(3, 1)(made)))

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.up = nn.Linear(6, 24), nn.Linear(6, 24), nn.Conv2d(4, 3, 1)

        def forward(self, x: Any) -> Any:
            return self.up((self.fc1(x).tanh() * self.fc2(x).sigmoid()).view(-1, 4, 2, 3))

    assert_same_model(one, Generator(), image(6))


def test_two_images_in_one_vector() -> None:
    import keras
    import torch
    from keras import layers
    from torch import nn

    picture = keras.Input((4, 5, 3))
    parts = [layers.Conv2D(f, 2, name=f"conv{f}")(picture) for f in (2, 3)]
    flat = layers.Concatenate()([layers.Flatten()(part) for part in parts[::-1]])
    one = randomised(keras.Model(picture, layers.Dense(4)(flat)))

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.three, self.two = nn.Conv2d(3, 3, 2), nn.Conv2d(3, 2, 2)
            self.fc = nn.Linear(60, 4)

        def forward(self, x: Any) -> Any:
            both = [self.three(x).flatten(1), self.two(x).flatten(1)]
            return self.fc(torch.cat(both if self.alike else both[::-1], 1))

    for alike in (True, False):  # the order of the concatenation is followed, too
        other = Module()
        other.alike = alike
        assert_same_model(one, other, image(4, 5, 3))


def test_what_cannot_be_known_is_refused() -> None:
    """PyTorch takes other elements together, or its parts are not Keras's."""
    one = head(*keras_moves()["CRNN"][0])
    for moves, why in [
        (lambda x: x.reshape(len(x), 6, 20), "group different elements of the image"),
        (
            lambda x: x.reshape(-1, 10, 2, 6).cumsum(2).permute(0, 3, 1, 2).flatten(2),
            "no layout of",
        ),
    ]:
        other = port(moves, 20)
        with pytest.raises(
            WeightsError,
            match=rf"order of the features between Keras dense.* and PyTorch fc \(Linear\) cannot "
            rf"be known: .*{why}.*wanted models that flatten",
        ):
            weights.copy(one, other)


def test_a_port_that_cannot_be_called_is_taken_to_flatten_channels_first() -> None:
    """Keras's side is followed all the same."""

    def wants_numbers(x: Any) -> Any:
        raise TypeError("wants more than x")

    for name, order in [("Flatten", (2, 0, 1)), ("Permute, Flatten", None)]:
        one, other = head(*keras_moves()[name][0]), port(wants_numbers, 120)
        weights.copy(one, other)
        kernel = one.layers[-2].kernel.numpy()
        if order:
            kernel = kernel.reshape(4, 6, 5, 4).transpose(*order, 3).reshape(120, 4)
        np.testing.assert_array_equal(other.fc.weight.detach(), kernel.T)


@pytest.mark.parametrize("name", NAMES[:7])
def test_through_a_file(name: str, tmp_path: Any) -> None:
    """A file keeps what Keras flattens, and PyTorch flattens channels first."""
    one, other = head(*keras_moves()[name][0]), port(*torch_moves(name))
    weights.save(one, tmp_path / "a")
    weights.load(tmp_path / "a", other)
    there, here = outputs(one, other, image(5, 7, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["parts", "shuffle", "crop"])
def test_parts_and_shuffles_through_a_file(case: str, tmp_path: Any) -> None:
    """PyTorch joins parts of an image in Keras's order, and shuffles channels in the same way; a
    part that is flattened is an image."""
    import keras
    import torch
    from keras import layers, ops
    from torch import nn

    picture = keras.Input((4, 6, 3))
    x = layers.Conv2D(4, 1)(picture)
    if case == "parts":
        x = ops.concatenate([x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1))], -1)
        x = layers.LayerNormalization(epsilon=1e-5)(x)
    if case == "shuffle":
        x = layers.Reshape((4, 6, 2, 2))(x)
        x = layers.Reshape((4, 6, 4))(layers.Permute((1, 2, 4, 3))(x))
        x = layers.DepthwiseConv2D(3, padding="same")(x)
    if case == "crop":
        x = layers.Flatten()(x[:, 1:-1, :4])
    one = randomised(keras.Model(picture, layers.Dense(5)(x)))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            own = {
                "parts": lambda: nn.LayerNorm(12),
                "shuffle": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
                "crop": nn.Flatten,
            }
            size = {"parts": 12, "shuffle": 4, "crop": 32}[case]
            self.one, self.own, self.two = nn.Conv2d(3, 4, 1), own[case](), nn.Linear(size, 5)

        def forward(self, x: Any) -> Any:
            x = self.one(x)
            if case == "crop":
                return self.two(self.own(x[:, :, 1:-1, :4]))
            if case == "parts":
                x = torch.cat([x[:, :, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1))], 1)
                return self.two(self.own(x.movedim(1, -1))).movedim(-1, 1)
            x = x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
            return self.two(self.own(x).movedim(1, -1)).movedim(-1, 1)

    other = Port()
    weights.save(one, tmp_path / "a")
    weights.load(tmp_path / "a", other)
    there, here = outputs(one, other, image(4, 6, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    weights.save(other, tmp_path / "b")
    before = one.get_weights()
    one.set_weights([0 * value for value in before])
    weights.load(tmp_path / "b", one)
    for value, wanted in zip(one.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_an_order_as_blocks() -> None:
    from parity.weights.flatten import permutation
    from parity.weights.orders import Unclear, as_blocks

    for blocks in [
        [[[5, 4, 6], [1, 2, 0]]],
        [[[3], [0]], [[2, 3], [1, 0]], [[4], [0]]],
        [[[5, 2, 2, 3], [3, 1, 0, 2]], [[2, 3, 3], [1, 2, 0]]],
    ]:
        order = permutation(blocks)
        np.testing.assert_array_equal(permutation(as_blocks(order)), order)
    with pytest.raises(Unclear):
        as_blocks(np.array([0, 3, 1, 2, 4]))


@pytest.mark.parametrize("kind", ["Conv2D", "Conv2DTranspose", "Dense"])
def test_channels_of_a_concatenation(kind: str) -> None:
    """As many as the image is wide. With the two tensors the other way round the rows of a Dense
    are reordered, and a convolution is refused; also if one of them comes from a pooling."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Port(nn.Module):
        def __init__(self, pooled: bool, turned: bool) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 3, padding=1)
            of_kind = nn.ConvTranspose2d if kind == "Conv2DTranspose" else nn.Conv2d
            self.head = of_kind(6, 4, 1)
            self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False) if pooled else nn.Identity()
            self.turned = turned

        def forward(self, x: Any) -> Any:
            parts = self.pool(self.one(x)), self.other(x)
            return self.head(torch.cat(parts[::-1] if self.turned else parts, 1))

    for pooled in (False, True):
        picture = keras.Input((6, 6, 2))
        parts = [layers.Conv2D(3, size, padding="same")(picture) for size in (1, 3)]
        if pooled:
            parts[0] = layers.AveragePooling2D(3, 1, "same")(parts[0])
        last = layers.Dense(4) if kind == "Dense" else getattr(layers, kind)(4, 1)
        model = randomised(keras.Model(picture, last(layers.Concatenate()(parts))))
        assert_same_model(model, Port(pooled, False), image(6, 6, 2))
        turned = Port(pooled, True)
        if kind == "Dense":
            assert_same_model(model, turned, image(6, 6, 2))
            continue
        both = r"Keras .* and PyTorch head \(Conv.*\) get the same channels in different orders"
        unchanged(lambda m=model, port=turned: weights.copy(m, port), turned, both)


def shuffles(*behind: Any, before: Any = (), skip: bool = False) -> Any:
    """A Keras model with a convolution of 12 channels that become 3 at four times the places."""
    import keras
    from keras import layers, ops

    picture = keras.Input((5, 7, 3))
    made = layers.Conv2D(12, 2, name="to_shuffle")(picture)
    for layer in before:
        made = layer(made)
    if skip:
        made = made + layers.Conv2D(12, 1, name="added")(made)
    x = layers.Permute((1, 3, 2, 4, 5))(layers.Reshape((4, 6, 2, 2, 3))(ops.relu(made)))
    x = layers.Reshape((8, 12, 3))(x)
    for layer in behind:
        x = layer(x)
    return randomised(keras.Model(picture, x))


def pixels(*behind: Any, before: Any = (), skip: bool = False) -> Any:
    """The usual port, with `nn.PixelShuffle`."""
    from torch import nn

    class Shuffles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_shuffle, self.before = nn.Conv2d(3, 12, 2), nn.Sequential(*before)
            self.added = nn.Conv2d(12, 12, 1) if skip else None
            self.behind = nn.Sequential(nn.ReLU(), nn.PixelShuffle(2), *behind)

        def forward(self, x: Any) -> Any:
            x = self.before(self.to_shuffle(x))
            return self.behind(x + self.added(x) if self.added else x)

    return Shuffles()


@pytest.mark.parametrize("case", ["output", "convolution", "pads", "pools", "norms", "dense"])
def test_channels_that_become_places(case: str, tmp_path: Any) -> None:
    """Keras's depth_to_space splits the channels as (2, 2, 3), nn.PixelShuffle as (3, 2, 2): the
    convolution's own channels are reordered, and those of normalizations behind it; through a file,
    too."""
    from keras import layers
    from torch import nn

    behind, its, before, own = {
        "output": ([], [], [], []),
        "convolution": ([layers.Conv2D(4, 3)], [nn.Conv2d(3, 4, 3)], [], []),
        "pads": (
            [layers.ZeroPadding2D(1), layers.Conv2D(4, 3)],
            [nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)],
            [],
            [],
        ),
        "pools": (
            [layers.MaxPooling2D(2), layers.Conv2D(4, 3)],
            [nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)],
            [],
            [],
        ),
        "norms": (
            [layers.Conv2D(4, 3)],
            [nn.Conv2d(3, 4, 3)],
            [
                layers.BatchNormalization(epsilon=1e-5, momentum=0.9),
                layers.PReLU(None, shared_axes=[1, 2]),
            ],
            [nn.BatchNorm2d(12), nn.PReLU(12)],
        ),
        "dense": ([layers.Flatten(), layers.Dense(4)], [nn.Flatten(), nn.Linear(288, 4)], [], []),
    }[case]
    one, other = shuffles(*behind, before=before), pixels(*its, before=own)
    assert_same_model(one, other, image(5, 7, 3))
    if case == "dense":  # a file of one model does not tell how the other flattens
        why = "places were channels, in an order that a file of one model does not tell"
        with pytest.raises(WeightsError, match=why):
            weights.save(one, tmp_path / "a")
        weights.save(other, tmp_path / "a")
        before = one.get_weights()
        for flatten in ("auto", {one.layers[-1].name: (8, 12, 3)}):
            with pytest.raises(WeightsError, match=why):
                weights.load(tmp_path / "a", one, flatten=flatten)
        assert all(map(np.array_equal, one.get_weights(), before))
        return
    loaded = pixels(*its, before=own)
    randomised(one)
    weights.save(one, tmp_path / "a")
    weights.load(tmp_path / "a", loaded, settings="ignore")
    there, here = outputs(one, loaded, image(5, 7, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_channels_that_become_places_and_cannot_be_reordered() -> None:
    """A sum of convolutions, one of which another takes; groups."""
    from keras import layers
    from torch import nn

    why = r"output channels of Keras {} \(Conv2D\) and its partner.*{}; wanted a PyTorch module"
    one, other = shuffles(skip=True), pixels(skip=True)
    unchanged(
        lambda: weights.copy(one, other),
        other,
        why.format("to_shuffle", "compute with them before"),
    )
    one = shuffles(before=[layers.Conv2D(12, 1, groups=2, name="grouped_12")])
    other = pixels(before=[nn.Conv2d(12, 12, 1, groups=2)])
    unchanged(lambda: weights.copy(one, other), other, why.format("grouped_12", "several groups"))


def test_channels_that_become_places_in_the_order_of_keras() -> None:
    """Nothing is reordered, and a sum before is no matter."""
    from torch import nn

    class Same(nn.Module):
        def forward(self, x: Any) -> Any:
            x = x.unflatten(1, (2, 2, 3)).permute(0, 3, 4, 1, 5, 2)
            return x.flatten(4).flatten(2, 3)

    other = pixels(skip=True)
    other.behind = nn.Sequential(nn.ReLU(), Same())
    assert_same_model(shuffles(skip=True), other, image(5, 7, 3))
