"""Layers of a known kind whose class has a forward of its own: `class ConvReLU(nn.Conv2d)`.

Such a layer has the weights of its kind, but may do more with them than its kind does: apply an
activation, pad the input.
"""

from collections.abc import Callable
from typing import Any


def own_forward(module: Any) -> bool:
    """Whether a PyTorch module of a known kind has another forward than PyTorch's class."""
    return _differs(module, "forward", "torch.nn")


def own_call(layer: Any) -> bool:
    """Whether a Keras layer of a known kind has another call than Keras's class."""
    return _differs(layer, "call", "keras")


def stock_forward(module: Any) -> Callable[[Any], Any]:
    """The forward of PyTorch's class, of this module."""
    return lambda x: _stock(module, "torch.nn").forward(module, x)


def stock_call(layer: Any) -> Callable[[Any], Any]:
    """The call of Keras's class, of this layer."""
    return lambda x: _stock(layer, "keras").call(layer, x)


def _stock(layer: Any, package: str) -> Any:
    """The first class of the framework itself among those that a layer is of."""
    return next(
        one for one in type(layer).__mro__ if f"{one.__module__}.".startswith(f"{package}.")
    )


def _differs(layer: Any, method: str, package: str) -> bool:
    if method in vars(layer):
        return True
    return getattr(type(layer), method) is not getattr(_stock(layer, package), method)
