"""`assert_model_parity` on layers that the two models hold in another order: it compares by the map
that fits, and prints it."""

from typing import Any

import pytest
from ported import image, keras_model

from parity import weights
from parity.common.findings import ParityError
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")

NAMES = ("fc1", "fc2", "fc3")


def port(declared: tuple[str, ...], called: tuple[str, ...], shift: float = 0.0) -> Any:
    """Linear layers with tanh behind each, declared in one order and called in another."""
    import torch
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in declared:
                setattr(self, name, nn.Linear(4, 4))

        def forward(self, x: Any) -> Any:
            for name in called:
                x = torch.tanh(getattr(self, name)(x))
            return torch.sigmoid(x + shift) if shift else x

    return Port()


def dense(*names: str, shift: float = 0.0) -> Any:
    import keras
    from keras import layers

    found = [layers.Dense(4, "tanh", name=name) for name in names]
    if shift:
        found.append(layers.Lambda(lambda x: keras.ops.sigmoid(x + shift)))
    return keras_model((4,), *found)


def failure(*arguments: Any, **options: Any) -> ParityError:
    with pytest.raises(ParityError) as raised:
        assert_model_parity(*arguments, **options)
    print(raised.value)
    return raised.value


def pasted(text: str) -> dict[str, str]:
    """The map that a message prints, as Python reads it."""
    start = text.index("layers={") + len("layers=")
    found: dict[str, str] = eval(text[start : text.index("}", start) + 1])
    return found


@pytest.mark.parametrize("fault", NAMES)
@pytest.mark.parametrize("shift", [0.0, 90.0])
def test_a_fault_is_named_at_its_own_layer(fault: str, shift: float) -> None:
    """By order it would be another one's; `shift`: a saturated head hides it."""
    one, other = dense(*NAMES, shift=shift), port(("fc3", "fc1", "fc2"), NAMES, shift)
    weights.copy(one, other, layers={name: name for name in NAMES})
    assert assert_model_parity(one, other, image(4)).passed
    getattr(other, fault).weight.data += 0.5
    error = failure(one, other, image(4))
    number = NAMES.index(fault) + 1
    assert f"at layer {number}: Keras {fault} (Dense) and PyTorch {fault} (Lin" in str(error)
    assert "compared by a map, as the order of the layers disagrees with their calls" in str(error)
    layers = pasted(str(error))
    assert layers == weights.suggest(one, other) == error.result.pairs
    again = failure(one, other, image(4), layers=layers)
    assert str(again) == str(error).partition("\n\ncompared by a map")[0]
    assert again.result.pairs == {}


def test_weights_that_were_never_copied() -> None:
    one, other = dense(*NAMES), port(("fc3", "fc1", "fc2"), NAMES)
    assert pasted(str(failure(one, other, image(4)))) == {name: name for name in NAMES}


def test_an_order_of_other_kinds() -> None:
    """Where the layers make no pairs by order at all."""
    from keras import layers
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.norm = nn.Linear(4, 2), nn.BatchNorm1d(4, eps=1e-3)
            self.body = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.body(x)))

    given = [layers.Dense(4, name="body"), layers.BatchNormalization(name="norm")]
    one, other = keras_model((4,), *given, layers.Dense(2, name="head")), Port()
    names = {name: name for name in ("body", "norm", "head")}
    weights.copy(one, other, layers=names, settings="copy")
    assert assert_model_parity(one, other, image(4)).passed
    other.norm.eps = 0.1
    error = failure(one, other, image(4))
    assert "first at layer 2: Keras norm (BatchNormalization) and PyTorch norm" in str(error)
    assert pasted(str(error)) == names


def test_a_long_map_is_whole_in_the_report() -> None:
    names = tuple(f"fc{number:02}" for number in range(24))
    one, other = dense(*names), port(names[::-1], names)
    layers = {name: name for name in names}
    weights.copy(one, other, layers=layers)
    other.fc07.bias.data += 1
    error = failure(one, other, image(4))
    assert "first at layer 8: Keras fc07 (Dense) and PyTorch fc07" in str(error)
    assert len(str(error).splitlines()) <= 40
    assert "    # and 14 more: layers=weights.suggest(source, target) has all\n}" in str(error)
    assert pasted(error.result.report) == layers == error.result.pairs


def test_no_map_where_the_order_is_right() -> None:
    """By the weights, though the names of the two models contradict it."""
    one, other = dense(*NAMES), port(("fc3", "fc1", "fc2"), ("fc3", "fc1", "fc2"))
    layers = dict(zip(NAMES, ("fc3", "fc1", "fc2"), strict=True))
    weights.copy(one, other, layers=layers)
    other.fc1.bias.data += 1
    error = failure(one, other, image(4))
    assert "first at layer 2: Keras fc2 (Dense) and PyTorch fc1 (Linear)" in str(error)
    assert "layers={" not in str(error)
    same = port(NAMES, NAMES)
    assert "layers={" not in str(failure(one, same, image(4)))


def test_weights_error_has_the_map() -> None:
    one, other = dense(*NAMES), port(("fc3", "fc1", "fc2"), NAMES)
    with pytest.raises(weights.WeightsError) as refused:
        weights.copy(one, other)
    assert refused.value.layers == pasted(str(refused.value)) == {name: name for name in NAMES}
    with pytest.raises(weights.WeightsError) as refused:
        weights.copy(one, port(NAMES[:2], NAMES))
    assert refused.value.layers is None
