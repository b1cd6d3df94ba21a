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
    """The array by which an array value is multiplied before it is summed: seeded, in
    [1/2, 3/2), so that no gradient cancels as that of the sum of a softmax does.
    """
    if not shape:
        return np.ones(shape)
    return np.random.default_rng(SEED).uniform(0.5, 1.5, shape)


@dataclass(frozen=True)
class Function:
    """A callable with its framework; the arrays that it takes are tensors of that framework.

    `framework`: one of `FRAMEWORKS`; "keras" is Keras on its active backend. `name` is its name in
    messages. With `targets_first` the second array is passed first, as to Keras's losses; None
    reads the order from the names of the first two parameters.
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
        """The order in which the first two arrays are passed."""
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
        """The backend of Keras, for a Keras function; else empty."""
        return self._engine if self.framework == "keras" else ""

    def evaluate(
        self, arrays: Sequence[Array], wanted: Sequence[int] = (), device: str = "cpu"
    ) -> Evaluation:
        """The value and the gradients in the arrays at the positions `wanted`.

        A gradient is None if there is none. An error of the function is passed on, with a note that
        names the function.
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
    """A callable's name: `dice` for `segact_torch.losses:dice`; for a loss or module, its class."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    name = getattr(thing, "__name__", None) or type(thing).__name__
    return "lambda" if name == "<lambda>" else str(name)


def as_function(thing: Any) -> Any:
    """A callable as a `Function`; one that is a `Function` already (or acts as one) is returned.

    Raises `TypeError` for an object that is not callable, a class, or an unclear framework.
    """
    if hasattr(thing, "evaluate") and hasattr(thing, "framework"):
        return thing
    if not callable(thing):
        raise TypeError(f"{thing!r} cannot be called; wanted a function, module, layer or loss")
    name = name_of(thing)
    if isinstance(thing, type):
        raise TypeError(f"{name} is a class; wanted an instance, {name}(...)")
    return Function(thing, framework_of(thing, name), name)
