"""Files of others: Keras's models and PyTorch's state dicts."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ported import image, keras_model, outputs
from safetensors.numpy import save_file

from parity import weights
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")


def pair() -> tuple[Any, Any]:
    """A Keras model and its port: an LSTM over the rows of convolved images, a flatten."""
    from keras import layers
    from torch import nn

    one = keras_model(
        (6, 5, 3),
        layers.Conv2D(4, 2, name="conv"),
        layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="norm"),
        layers.Conv2D(2, 1, name="pixel"),
        layers.Permute((2, 1, 3)),
        layers.Reshape((4, 10)),
        layers.LSTM(5, return_sequences=True, name="rnn"),
        layers.Dense(3, name="fc"),
    )

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)
            self.pixel = nn.Conv2d(4, 2, 1)
            self.rnn, self.fc = nn.LSTM(10, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Any) -> Any:
            x = self.pixel(self.norm(self.conv(x))).permute(0, 3, 1, 2).flatten(2)
            return self.fc(self.rnn(x)[0])

    return one, Port()


def assert_agree(one: Any, other: Any) -> None:
    there, here = outputs(one, other, image(6, 5, 3), first=True, vectors=True)
    assert np.abs(there).max() > 0.1
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_a_keras_file_goes_into_a_module(tmp_path: Path) -> None:
    one, other = pair()
    one.save(tmp_path / "model.keras")
    names = weights.load(tmp_path / "model.keras", other)
    assert names[0] == ("conv", "conv")
    assert_agree(one, other)
    (tmp_path / "bad.keras").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"bad.keras: cannot .* \(truncated, or no zip"):
        weights.load(tmp_path / "bad.keras", other)


@pytest.mark.parametrize("name", ["state.pth", "state.safetensors", "wrapped.pt"])
def test_a_state_dict_goes_into_a_keras_model(name: str, tmp_path: Path) -> None:
    """Without the module: the kinds are those of Keras's layers, the flatten is channels first."""
    import torch

    one, other = pair()
    path = tmp_path / name
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = other.state_dict()
    if path.suffix == ".safetensors":
        arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in state.items()}
        save_file(arrays, path, metadata={"format": "pt"})
    elif name == "wrapped.pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    else:
        torch.save(state, path)
    weights.load(path, one)
    assert_agree(one, other)


def test_a_state_dict_of_equal_layers_needs_an_order_or_names(tmp_path: Path) -> None:
    from keras import layers
    from torch import nn

    one = keras_model((4,), *[layers.Dense(4, name=name) for name in ("a", "b")])
    arrays = {
        f"{name}.{array}": np.full((4, 4)[: 2 if array == "weight" else 1], value, "float32")
        for name, value in (("x", 1), ("y", 2))
        for array in ("weight", "bias")
    }
    save_file(arrays, tmp_path / "s.safetensors")
    with pytest.raises(WeightsError, match=r"for Keras a \(Dense\) the file has x .*, y .*; want"):
        weights.load(tmp_path / "s.safetensors", one)
    weights.load(tmp_path / "s.safetensors", one, layers={"y": "a", "x": "b"})
    assert float(one.get_layer("a").kernel.numpy()[0, 0]) == 2
    with pytest.raises(WeightsError, match="layers: the file has no 'z'"):
        weights.load(tmp_path / "s.safetensors", one, layers={"z": "a", "x": "b"})
    with pytest.raises(WeightsError, match="2 layers with weights in the file, 1 in the model"):
        weights.load(tmp_path / "s.safetensors", keras_model((4,), layers.Dense(4)))
    with pytest.raises(WeightsError, match=r"wanted model.load_state_dict"):
        weights.load(tmp_path / "s.safetensors", nn.Linear(4, 4))
    with pytest.raises(WeightsError, match="holds no settings to copy"):
        weights.load(tmp_path / "s.safetensors", one, settings="copy")


def test_a_state_dict_whose_order_contradicts_its_names(tmp_path: Path) -> None:
    """The module defines its layers in another order than it calls them."""
    import torch
    from keras import layers
    from torch import nn

    one = keras_model((4,), *[layers.Dense(4, name=name) for name in ("hidden", "out")])
    other = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("out", "hidden")})
    path = tmp_path / "s.pth"
    torch.save(other.state_dict(), path)
    message = "by order PyTorch out .* would go into Keras hidden .*, by their names into Keras out"
    with pytest.raises(WeightsError, match=message) as found:
        weights.load(path, one)
    weights.load(path, one, layers=found.value.layers)
    for name in ("hidden", "out"):
        kernel = one.get_layer(name).kernel
        np.testing.assert_array_equal(other[name].weight.detach().T, np.array(kernel))


def test_a_map_that_leaves_out_an_entry(tmp_path: Path) -> None:
    """It is refused, unless another entry has the same weights: tied ones have two names."""
    import torch
    from keras import layers
    from torch import nn

    one = keras_model((4,), layers.Dense(4, name="fc"))
    other = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("fc", "more")})
    path = tmp_path / "s.pth"
    torch.save(other.state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"layers leaves out more \(weight \(4, 4\)\) of the file"
    ):
        weights.load(path, one, layers={"fc": "fc"})
    other["more"] = other["fc"]
    torch.save(other.state_dict(), path)
    weights.load(path, one, layers={"fc": "fc"})


def test_recurrent_layers_of_a_state_dict_without_an_order(tmp_path: Path) -> None:
    """The arrays of an LSTM cannot be split into the three gates of a GRU."""
    from keras import layers
    from torch import nn

    one = keras_model((5, 4), layers.LSTM(5, return_sequences=True, name="b"), layers.GRU(3))
    other = nn.ModuleDict({"b": nn.LSTM(4, 5), "a": nn.GRU(5, 3)})
    state = {key: value.numpy() for key, value in other.state_dict().items()}
    save_file(state, tmp_path / "s.safetensors")
    weights.load(tmp_path / "s.safetensors", one)
    wanted = keras_model((5, 4), layers.LSTM(5, return_sequences=True), layers.GRU(3))
    weights.copy(other, wanted)
    for value, expected in zip(one.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_in_a_state_dict(bias: bool, tmp_path: Path) -> None:
    import keras
    import torch
    from keras import layers
    from torch import nn

    steps = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, use_bias=bias, name="self_attention")
    attended = attention(steps, steps)
    one = keras.Model(steps, layers.Dense(8, name="fc")(attended))
    other = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(8, 2, bias=bias), "fc": nn.Linear(8, 8)}
    )
    torch.save(other.state_dict(), tmp_path / "s.pth")
    weights.load(tmp_path / "s.pth", one)
    found = [np.array(value) for value in one.get_weights()]
    for variable in one.weights:
        variable.assign(np.zeros(variable.shape))
    weights.copy(other, one)
    for value, expected in zip(found, one.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_tied_weights_in_a_file(tmp_path: Path) -> None:
    """They are in it twice; a model that has them once gets them. Weights that are equal since they
    are as initialized are not tied."""
    import torch
    from keras import layers
    from torch import nn

    other = nn.ModuleDict({"emb": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    other["head"].weight = other["emb"].weight
    torch.save(other.state_dict(), tmp_path / "s.pth")
    weights.save(other, tmp_path / "w")
    for name in ("s.pth", "w"):
        one = keras_model((5,), layers.Embedding(7, 4))
        weights.load(tmp_path / name, one)
        np.testing.assert_array_equal(one.get_weights()[0], other["emb"].weight.detach())

    other = nn.ModuleDict({name: nn.LayerNorm(4) for name in ("a", "b")})
    torch.save(other.state_dict(), tmp_path / "s.pth")
    weights.save(other, tmp_path / "w")
    for name in ("s.pth", "w"):
        with pytest.raises(WeightsError, match=r"2 layers with weights in the (file|source), 1"):
            weights.load(tmp_path / name, keras_model((4,), layers.LayerNormalization()))


def test_tensors_that_numpy_does_not_have(tmp_path: Path) -> None:
    """Numbers of 8 or 16 bits are read; complex and sparse ones are refused, not cut."""
    import torch
    from keras import layers
    from torch import nn

    one, other = keras_model((4,), layers.Dense(4)), nn.Linear(4, 4)
    path = tmp_path / "s.PTH"  # the case of an extension does not matter

    def save(change: Any) -> None:
        torch.save({key: change(value) for key, value in other.state_dict().items()}, path)

    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        save(lambda value, dtype=dtype: value.to(dtype))
        weights.load(path, one)
        wanted = other.weight.detach().to(dtype).float().T
        np.testing.assert_array_equal(np.array(one.layers[0].kernel), wanted)
    for change in (lambda value: value.to(torch.complex64), lambda value: value.to_sparse()):
        save(change)
        with pytest.raises(WeightsError, match=r"s.PTH: weight is .*; wanted real numbers"):
            weights.load(path, one)
    save(lambda value: value.to("meta"))
    with pytest.raises(WeightsError, match=r"weight is on the meta device, without numbers"):
        weights.load(path, one)
    with pytest.raises(WeightsError, match="is a folder; wanted a file"):
        weights.load(tmp_path, one)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    """A pickled module, or anything but tensors, is refused."""
    import torch

    one, other = pair()
    torch.save(other.fc, tmp_path / "module.pth")
    with pytest.raises(WeightsError, match="not a state dict that can be read without") as raised:
        weights.load(tmp_path / "module.pth", one)
    assert "weights_only" not in str(raised.value)  # PyTorch's advice is to run the code
    assert "\n" not in str(raised.value)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        weights.load(tmp_path / "other.pth", one)
    with pytest.raises(WeightsError, match="no such file"):
        weights.load(tmp_path / "absent.pth", one)


def test_the_framework_that_reads_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parity.weights.state_dict import read_pickled
    from parity.weights.transfer import _keras_model

    for name, reader in [("torch", read_pickled), ("keras", _keras_model)]:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(WeightsError, match=r"needs (PyTorch|Keras), which is not installed"):
            reader(tmp_path / "a")
        monkeypatch.undo()
