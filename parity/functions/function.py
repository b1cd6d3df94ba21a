"""A user's function with its framework, and calling it.

`as_function` makes one of a callable.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.naming import unknown
from parity.common.signatures import Order, order
from parity.frameworks import autodiff
from parity.frameworks.autodiff import Evaluation, check_device, differentiate
from parity.functions.detect import FRAMEWORKS, framework_of
from parity.suite.inputs import SEED


def direction(shape: tuple[int, ...], dtype: str) -> Array:
    """What a value that is no single number is multiplied by before it is summed: seeded, in
    [1/2, 3/2), so that no gradient cancels as that of the sum of a softmax does.
    """
    if not shape:
        return np.ones(shape)
    return np.random.default_rng(SEED).uniform(0.5, 1.5, shape)


@dataclass(frozen=True)
class Function:
    """A callable with its framework; the arrays that it takes are tensors of that framework.

    `framework`: one of `FRAMEWORKS`; "keras" is Keras on the backend that it runs on here. `name`
    is what messages call it. Where `targets_first`, the second array is given first, as Keras's
    losses take it; None reads that from what the first two parameters are called.
    """

    call: Callable[..., Any]
    framework: str
    name: str
    targets_first: bool | None = None

    def __post_init__(self) -> None:
        if self.framework not in FRAMEWORKS:
            raise ValueError(unknown("framework", self.framework, FRAMEWORKS))

    @property
    def order(self) -> Order:
        """In which order the first two arrays are given."""
        return order(self.call, self.targets_first)

    @property
    def _engine(self) -> str:
        """The framework that computes."""
        if self.framework != "keras":
            return self.framework
        import keras

        backend = str(keras.backend.backend())
        if backend not in autodiff.FRAMEWORKS:
            wanted = list(autodiff.FRAMEWORKS)
            raise ValueError(f"{self.name}: Keras runs on {backend}; wanted one of {wanted}")
        return backend

    @property
    def backend(self) -> str:
        """What Keras runs on, for one of Keras; else empty."""
        return self._engine if self.framework == "keras" else ""

    def evaluate(
        self, arrays: Sequence[Array], wanted: Sequence[int] = (), device: str = "cpu"
    ) -> Evaluation:
        """The value and the gradients in the arrays at the positions `wanted`.

        A gradient is None where there is none. An error of the function goes through, with a note
        that says whose it is.
        """

        order = self.order

        def given(values: Sequence[Any]) -> Sequence[Any]:
            if order.targets_first and len(values) > 1:
                return (values[1], values[0], *values[2:])
            return values

        def call(*tensors: Any) -> Any:
            return self.call(*given(tensors))

        try:
            check_device(self._engine, device)
            options: dict[str, Any] = {"direction": direction, "device": device}
            return differentiate(self._engine, call, wanted, **options)(arrays)
        except Exception as error:
            shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in given(arrays))
            error.add_note(f"in {self.name} ({self.framework}), given {shapes}")
            if len(arrays) > 1 and not order.certain:
                error.add_note(order.doubt(self.name))
            raise


def name_of(thing: Any) -> str:
    """What to call it: `segact_torch.losses:dice` is `dice`, a loss or module its class's name."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    name = getattr(thing, "__name__", None) or type(thing).__name__
    return "lambda" if name == "<lambda>" else str(name)


def as_function(thing: Any, name: str = "") -> Any:
    """A callable as a `Function`; one that is a `Function` already (or acts as one) is returned.

    Raises `TypeError` for what cannot be called, for a class, and where the framework is not clear.
    """
    if hasattr(thing, "evaluate") and hasattr(thing, "framework"):
        return thing
    if not callable(thing):
        raise TypeError(f"{thing!r} cannot be called; wanted a function, module, layer or loss")
    name = name or name_of(thing)
    if isinstance(thing, type):
        raise TypeError(f"{name} is a class; wanted an instance, {name}(...)")
    return Function(thing, framework_of(thing, name), name)
