"""Weights that are computed: weight and spectral norm, parametrizations, pruning."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ported import image, keras_model, outputs, unchanged

from parity import weights
from parity.common.findings import ParityError
from parity.models.assertion import assert_model_parity
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")

NORMS = ["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm", "pruning"]


def computing(name: str) -> Callable[..., Any]:
    """The function of PyTorch that has a module compute its weight."""
    import torch

    if name == "pruning":
        from torch.nn.utils import prune

        return lambda module, which="weight": prune.random_unstructured(module, which, 0.4)
    old = name.startswith("old ")
    found = getattr(torch.nn.utils if old else torch.nn.utils.parametrizations, name.split()[-1])

    def applied(module: Any, which: str = "weight") -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old ones tell of the new
            return found(module, which)

    return applied


def both(name: str) -> tuple[Any, Any]:
    """A Keras model, and a module that computes its weights, far from what it was made with."""
    import torch
    from keras import layers
    from torch import nn

    torch.manual_seed(3)
    norm = computing(name)
    one = keras_model(
        (5, 4, 3),
        layers.Conv2D(4, 2, name="conv"),
        layers.Conv2DTranspose(4, 2, name="up"),
        layers.Flatten(),
        layers.Dense(4, name="fc"),
    )
    other = nn.Sequential(
        norm(nn.Conv2d(3, 4, 2)),
        norm(nn.ConvTranspose2d(4, 4, 2)),
        nn.Flatten(),
        norm(nn.Linear(80, 4)),
    )
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += torch.randn_like(parameter) * 0.3
    return one, other.train()


@pytest.mark.parametrize("name", NORMS)
def test_what_the_module_computes_is_read(name: str, tmp_path: Path) -> None:
    """In eval mode, though it is in training, where a spectral norm changes at each look."""
    one, other = both(name)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    weights.copy(other, one)
    for key, value in other.state_dict().items():
        assert value.equal(before[key]), key
    assert all(module.training for module in other.modules())
    there, here = outputs(one, other, image(5, 4, 3), first=True)
    assert np.abs(there).max() > 0.1
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    assert assert_model_parity(one, other, image(5, 4, 3)).passed
    weights.save(other.train(), tmp_path / "a.safetensors")
    weights.load(tmp_path / "a.safetensors", one, flatten={"fc": (5, 4, 4)})
    np.testing.assert_allclose(outputs(one, other, image(5, 4, 3), first=True)[0], there, rtol=1e-6)
    assert np.isfinite(float(other[0].weight.detach().sum()))  # a number, as before
    other.train()(weights_input()).sum().backward()
    assert all(parameter.grad is not None for parameter in other.parameters())


def weights_input() -> Any:
    import torch

    return torch.ones(2, 3, 5, 4)


@pytest.mark.parametrize("name", NORMS)
def test_it_cannot_be_written(name: str) -> None:
    one, other = both(name)
    message = (
        r"PyTorch 0 \((Parametrized)?Conv2d\) computes its weight from others .*can be read but "
        "not written; wanted a module without it, to which it is added afterwards"
    )
    unchanged(lambda: weights.copy(one, other), other, message)
    unchanged(lambda: weights.copy(other, both(name)[1]), other, message)


def test_a_fault_is_named() -> None:
    import torch

    one, other = both("weight_norm")
    weights.copy(other, one)
    with torch.no_grad():
        other[1].parametrizations.weight.original0 *= 2
    with pytest.raises(ParityError, match="first at layer 2: Keras up") as raised:
        assert_model_parity(one, other, image(5, 4, 3))
    assert "Keras's kernel and PyTorch's weight differ" in str(raised.value)


@pytest.mark.parametrize("name", ["weight_norm", "old weight_norm"])
def test_a_recurrent_layer(name: str) -> None:
    import torch
    from keras import layers
    from torch import nn

    one = keras_model((5, 4), layers.LSTM(3, return_sequences=True, name="rnn"))
    other = computing(name)(nn.LSTM(4, 3, batch_first=True), "weight_hh_l0")
    with torch.no_grad():
        next(p for key, p in other.named_parameters() if key.endswith(("_g", "0"))).add_(0.5)
    weights.copy(other, one)
    with torch.no_grad():
        here = other(torch.from_numpy(image(5, 4)))[0].numpy()
    np.testing.assert_allclose(one.predict(image(5, 4), verbose=0), here, rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match="computes its weight_hh_l0 from others"):
        weights.copy(one, other)


def test_two_layers_that_compute_their_weights_are_not_tied() -> None:
    """What they compute lies at one address, one after the other."""
    from keras import layers
    from torch import nn

    norm = computing("weight_norm")
    one = keras_model((4,), *[layers.Dense(4, name=name) for name in "abc"])
    other = nn.Sequential(*[norm(nn.Linear(4, 4)) for _ in range(3)])
    assert len(weights.copy(other, one)) == 3
    there, here = outputs(one, other, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match="3 layers with weights in the source, 2 in the target"):
        weights.copy(other, keras_model((4,), *[layers.Dense(4) for _ in "ab"]))


def test_spectral_normalization_of_keras(tmp_path: Path) -> None:
    """It divides the kernel when it trains; inference takes it as it is."""
    from keras import layers
    from torch import nn

    one = keras_model(
        (5, 4, 3),
        layers.SpectralNormalization(layers.Conv2D(4, 2, name="conv"), name="spectral"),
        layers.Flatten(),
        layers.SpectralNormalization(layers.Dense(4, name="fc")),
    )
    one(image(5, 4, 3), training=True)
    other = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(48, 4))
    assert weights.copy(one, other)[0] == ("spectral/conv", "0")
    there, here = outputs(one, other, image(5, 4, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    assert assert_model_parity(one, other, image(5, 4, 3)).passed
    one.save_weights(tmp_path / "model.weights.h5")
    again = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(48, 4))
    names = dict(weights.copy(one, other))
    shape = {name: (12, 4) for name in names if name.endswith("/fc")}
    assert dict(weights.load(tmp_path / "model.weights.h5", again, flatten=shape)) == names
    np.testing.assert_array_equal(outputs(one, again, image(5, 4, 3), first=True)[1], here)
    other[0].weight.data[0] += 1
    with pytest.raises(ParityError, match="first at layer 1: Keras spectral/conv"):
        assert_model_parity(one, other, image(5, 4, 3))
