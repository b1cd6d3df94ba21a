"""Which layer goes to which: the order of the layers, held against shapes, calls and names."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ported import image, keras_model, outputs, randomised, unchanged

from parity import weights
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")


def pasted(refused: WeightsError) -> dict[str, str]:
    """The map that an error prints, as Python reads it."""
    text = str(refused)
    found: dict[str, str] = eval(text[text.index("layers={") + len("layers=") :])
    return found


def assert_copied_by_the_map(one: Any, other: Any, x: Any, first: bool = True) -> dict[str, str]:
    """Refused by order, with a map; pasted back it copies, both ways, and the outputs agree."""
    with pytest.raises(WeightsError, match="the map that fits") as refused:
        weights.copy(one, other)
    layers = pasted(refused.value)
    assert weights.suggest(one, other) == layers
    weights.copy(one, other, layers=layers)
    there, here = outputs(one, other, x, first)
    assert np.abs(there).max() > 0.1
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5 * np.abs(there).max())
    back = weights.suggest(other, one)
    assert back == {value: key for key, value in layers.items()}
    before = [np.array(variable) for variable in one.get_weights()]
    for variable in one.weights:
        variable.assign(np.zeros(variable.shape))
    weights.copy(other, one, layers=back)
    for mine, theirs in zip(one.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    return layers


def three(order: tuple[str, ...], forward: tuple[str, ...]) -> Any:
    """A module with three equal layers, declared in one order and called in another."""
    import torch
    from torch import nn

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in order:
                setattr(self, name, nn.Linear(4, 4))

        def forward(self, x: Any) -> Any:
            for name in forward:
                x = torch.tanh(getattr(self, name)(x))
            return x

    return Three()


def fc(*names: str) -> Any:
    from keras import layers

    return keras_model((4,), *[layers.Dense(4, "tanh", name=name) for name in names])


def test_equal_layers_that_are_declared_in_another_order_than_called() -> None:
    one = fc("fc1", "fc2", "fc3")
    other = three(("fc3", "fc1", "fc2"), ("fc1", "fc2", "fc3"))
    found = assert_copied_by_the_map(one, other, image(4), first=False)
    assert found == {"fc1": "fc1", "fc2": "fc2", "fc3": "fc3"}
    with pytest.raises(
        WeightsError,
        match=r"the order of the layers disagrees with their calls: by order Keras fc1 \(Dense\) "
        r"would go into PyTorch fc3 \(Linear\), by their calls into PyTorch fc1 \(Linear\)",
    ):
        weights.copy(one, other)
    other = three(("a", "b", "c"), ("b", "c", "a"))  # the names tell nothing
    found = assert_copied_by_the_map(one, other, image(4), first=False)
    assert found == {"fc1": "b", "fc2": "c", "fc3": "a"}
    weights.copy(one, three(("a", "b", "c"), ("a", "b", "c")))


@pytest.mark.parametrize("source", ["Keras", "PyTorch"])
def test_an_order_that_contradicts_the_calls_through_a_file(source: str, tmp_path: Any) -> None:
    """A file keeps which layer feeds which, and is refused with the map, as the model itself is."""
    one, other = fc("fc1", "fc2", "fc3"), three(("a", "b", "c"), ("b", "c", "a"))
    both = (one, other) if source == "Keras" else (other, one)
    weights.save(both[0], tmp_path / "file")
    with pytest.raises(WeightsError, match="disagrees with their calls") as refused:
        weights.load(tmp_path / "file", both[1])
    weights.load(tmp_path / "file", both[1], layers=pasted(refused.value))
    there, here = outputs(one, other, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)
    same = three(("a", "b", "c"), ("a", "b", "c"))
    weights.save(both[0] if source == "Keras" else same, tmp_path / "file")
    weights.load(tmp_path / "file", same if source == "Keras" else one)
    there, here = outputs(one, same, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


def test_names_that_contradict_the_order() -> None:
    """They are called in the order in which they are declared, but under each other's names."""
    one, other = fc("fc1", "fc2", "fc3"), three(("fc3", "fc1", "fc2"), ("fc3", "fc1", "fc2"))
    message = "disagrees with their names: by order Keras fc1 .* would go into PyTorch fc3"
    unchanged(lambda: weights.copy(one, other), other, message)
    layers = {"fc1": "fc3", "fc2": "fc1", "fc3": "fc2"}
    assert weights.suggest(one, other) == layers  # that of the calls
    weights.copy(one, other, layers=layers)
    there, here = outputs(one, other, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


def test_names_tell_where_a_module_cannot_be_called() -> None:
    """Its forward wants what the Keras model does not take."""
    one, other = fc("fc1", "fc2", "fc3"), three(("fc3", "fc1", "fc2"), ("fc4",))
    with pytest.raises(WeightsError, match="disagrees with their names") as refused:
        weights.copy(one, other)
    assert pasted(refused.value) == {name: name for name in ("fc1", "fc2", "fc3")}
    weights.copy(one, three(("a", "b", "c"), ("fc4",)))


def bottleneck() -> tuple[Any, Any]:
    """Two blocks of a ResNet, the first with a convolution on its shortcut: as keras.applications
    names and orders them, and as torchvision does."""
    import keras
    from keras import layers
    from torch import nn

    def conv(filters: int, size: int, name: str) -> Any:
        return layers.Conv2D(filters, size, padding="same", use_bias=False, name=f"{name}_conv")

    def norm(name: str) -> Any:
        return layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")

    def block(x: Any, name: str, shortcut: bool) -> Any:
        side = norm(f"{name}_0")(conv(8, 1, f"{name}_0")(x)) if shortcut else x
        for number, (filters, size) in enumerate([(4, 1), (4, 3), (8, 1)], 1):
            x = norm(f"{name}_{number}")(conv(filters, size, f"{name}_{number}")(x))
            x = layers.ReLU()(x) if number < 3 else x
        return layers.ReLU()(layers.Add()([side, x]))

    picture = keras.Input((8, 8, 8))
    x = block(block(picture, "block1", True), "block2", False)
    one = randomised(keras.Model(picture, layers.GlobalAveragePooling2D()(x)))

    class Block(nn.Module):
        def __init__(self, shortcut: bool) -> None:
            super().__init__()
            for number, (given, filters, size) in enumerate([(8, 4, 1), (4, 4, 3), (4, 8, 1)], 1):
                own = nn.Conv2d(given, filters, size, padding=size // 2, bias=False)
                setattr(self, f"conv{number}", own)
                setattr(self, f"bn{number}", nn.BatchNorm2d(filters))
            self.relu = nn.ReLU(inplace=True)
            side = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
            self.downsample = side if shortcut else None

        def forward(self, x: Any) -> Any:
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.relu(self.bn2(self.conv2(out)))
            out = self.bn3(self.conv3(out))
            out += x if self.downsample is None else self.downsample(x)
            return self.relu(out)

    other = nn.Sequential(Block(True), Block(False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return one, other


def test_the_blocks_of_a_resnet() -> None:
    one, other = bottleneck()
    found = assert_copied_by_the_map(one, other, image(8, 8, 8))
    assert found["block1_0_conv"] == "0.downsample.0"
    assert found["block1_3_bn"] == "0.bn3"
    assert found["block2_1_conv"] == "1.conv1"


def test_equal_branches_are_told_by_their_place_in_the_concatenation() -> None:
    import keras
    import torch
    from keras import layers
    from torch import nn

    given = keras.Input((4,))
    left, right = layers.Dense(3, name="left")(given), layers.Dense(3, name="right")(given)
    one = randomised(keras.Model(given, layers.Concatenate()([right, left])))

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return torch.cat([self.a(x), self.b(x)], -1)

    with_order = Branches()
    found = weights.suggest(one, with_order)
    assert found == {"left": "b", "right": "a"}
    weights.copy(one, with_order, layers=found)
    there, here = outputs(one, with_order, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


def test_equal_heads_are_told_by_the_output_that_they_give() -> None:
    import keras
    from keras import layers
    from torch import nn

    given = keras.Input((4,))
    body = layers.Dense(4, "relu", name="body")(given)
    heads = [layers.Dense(2, name=name)(body) for name in ("mean", "spread")]
    one = randomised(keras.Model(given, heads))

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Linear(4, 2), nn.Linear(4, 2)
            self.body = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x).relu()
            return self.first(x), self.second(x)

    found = {"body": "body", "mean": "first", "spread": "second"}
    assert weights.suggest(one, Heads()) == found
    with pytest.raises(WeightsError, match="the map that fits") as refused:
        weights.copy(one, Heads())
    assert pasted(refused.value) == found


def test_a_subclassed_model_with_blocks_of_its_own_is_looked_into() -> None:
    import keras
    from keras import layers, ops

    class Block(layers.Layer):
        def __init__(self, name: str) -> None:
            super().__init__(name=name)
            self.last, self.first = layers.Dense(4, name="last"), layers.Dense(4, name="first")

        def build(self, shape: Any) -> None:
            self.first.build(shape)
            self.last.build(shape)

        def call(self, x: Any) -> Any:
            return x + ops.tanh(self.last(ops.tanh(self.first(x))))

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block("block")

        def call(self, x: Any) -> Any:
            return self.block(x)

    import torch
    from torch import nn

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return x + torch.tanh(self.down(torch.tanh(self.up(x))))

    one = Model()
    one(np.zeros((1, 4), np.float32))
    randomised(one)
    found = weights.suggest(one, Module())
    assert found == {"block/first": "up", "block/last": "down"}
    assert_copied_by_the_map(one, Module(), image(4), first=False)


def test_tracing_leaves_no_trace() -> None:
    one, other = bottleneck()
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in one.layers]
    config = one.get_config()
    other.train()
    other[1].eval()
    modes = [module.training for module in other.modules()]
    weights.suggest(one, other)
    assert nodes == [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in one.layers]
    assert config == one.get_config()
    assert modes == [module.training for module in other.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.modules())
    assert all(
        module.num_batches_tracked == 0 for module in other.modules() if hasattr(module, "eps")
    )


def test_what_cannot_be_a_pair_is_named() -> None:
    from torch import nn

    one = fc("fc1", "fc2", "fc3")
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    with pytest.raises(
        WeightsError, match=r"layer 3: Keras fc3 \(Dense, kernel \(4, 4\)\) does no"
    ):
        weights.copy(one, other)
    with pytest.raises(
        WeightsError,
        match=r"in other numbers: Keras fc1 \(Dense, kernel \(4, 4\)\), .*fc3 .*; PyTorch 0 .*, "
        r"PyTorch 2 \(Linear, weight \(5, 4\)\)",
    ):
        weights.suggest(one, other)


def test_a_long_map_is_not_printed_whole() -> None:
    names = [f"fc{number}" for number in range(40)]
    one = fc(*names)
    other = three(tuple(names[::-1]), tuple(names))
    with pytest.raises(WeightsError, match=r"and 10 more: layers=weights.suggest\(") as refused:
        weights.copy(one, other)
    assert str(refused.value).count("\n") < 40
    assert weights.suggest(one, other) == {name: name for name in names}
    assert re.search("disagrees with their calls", str(refused.value))


def test_an_order_that_shapes_contradict_without_calls(tmp_path: Path) -> None:
    """A file has no calls: the message does not say that names told the map."""
    from keras import layers
    from torch import nn

    one = keras_model((6,), *[layers.Dense(n, name=name) for n, name in ((6, "a"), (2, "b"))])
    other = nn.ModuleDict({"last": nn.Linear(6, 2), "first": nn.Linear(6, 6)})
    weights.save(one, tmp_path / "a")
    message = (
        r"(?s)disagrees with their shapes: by order Keras a \(Dense\) would go into PyTorch last .*"
        r"by their shapes into PyTorch first .*the map by shapes \(layers of one shape are paired "
        r"by names, or else in order\).*'a': 'first'"
    )
    unchanged(lambda: weights.load(tmp_path / "a", other), other, message)


def test_a_map_of_tied_layers() -> None:
    """The printed map has them once, and can be pasted; a comparison uses it, too."""
    import keras
    from keras import layers
    from torch import nn

    from parity import ParityError, assert_model_parity

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.emb = layers.Embedding(7, 4, name="emb")
            self.all = [layers.Dense(4, name=name) for name in ("fc1", "fc2")]

        def call(self, x: Any) -> Any:
            out = self.all[1](self.all[0](self.emb(x)))
            return keras.ops.matmul(out, keras.ops.transpose(self.emb.embeddings))

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(7, 4)
            self.b, self.a = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x: Any) -> Any:
            return self.head(self.b(self.a(self.emb(x))))

    ids = np.random.default_rng(1).integers(0, 7, (3, 5))
    one, other = Model(), Module()
    one(ids)
    randomised(one)
    wanted = {"emb": "emb", "fc1": "a", "fc2": "b"}
    with pytest.raises(WeightsError) as refused:
        weights.copy(one, other)
    assert pasted(refused.value) == wanted
    with pytest.raises(ParityError, match="the outputs differ"):
        assert_model_parity(one, other, ids)
    weights.copy(one, other, layers=wanted)
    assert_model_parity(one, other, ids)
    weights.copy(other, one, layers={value: key for key, value in wanted.items()})
    with pytest.raises(WeightsError, match="layers leaves out Keras fc2"):
        weights.copy(one, other, layers={"emb": "emb", "fc1": "a"})


def test_layers_of_which_there_are_other_numbers_are_named() -> None:
    """Not those whose place in the order is another, but which have a partner."""
    import keras
    from keras import layers
    from torch import nn

    one = keras_model((6,), layers.Dense(6, name="twice_6"), layers.Dense(2, name="end_2"))
    other = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    message = r"other numbers: Keras twice_6 [^;]*; PyTorch 0 [^;]*, PyTorch 1 \(Linear, .*\)$"
    unchanged(lambda: weights.copy(one, other), other, message)
    features = keras.Input((5, 6))
    x = layers.Dense(6, name="before_heads")(features)
    heads = layers.MultiHeadAttention(2, 3, name="heads_2")(x, x)
    one = randomised(keras.Model(features, layers.LayerNormalization(epsilon=1e-5)(heads)))
    other = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 18))
    message = r"other numbers: Keras heads_2 [^;]*; PyTorch 2 \(Linear, weight \(18, 6\)\)$"
    unchanged(lambda: weights.copy(one, other), other, message)


def test_layers_that_share_weights_and_biases_in_a_file(tmp_path: Any) -> None:
    """They count once, as in the module itself."""
    import keras
    from keras import layers
    from torch import nn

    features = keras.Input((6,))
    shared, other_6 = layers.Dense(6, "tanh", name="shared_6"), layers.Dense(6, name="other_6")
    out = layers.Dense(2, name="out_of_6")(shared(other_6(shared(features))))
    one = randomised(keras.Model(features, out))
    tied = nn.Linear(6, 6)
    again = nn.Linear(6, 6)
    again.weight, again.bias = tied.weight, tied.bias
    other = nn.Sequential(tied, nn.Tanh(), nn.Linear(6, 6), again, nn.Tanh(), nn.Linear(6, 2))
    weights.save(other, tmp_path / "a")
    weights.load(tmp_path / "a", one)
    there, here = outputs(one, other, image(6), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)
