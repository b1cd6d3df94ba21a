"""The two implementations with one interface, so that one test body works for both.

`available()` names those that can be imported here; "keras" is Keras on its active backend, which
`KERAS_BACKEND` chooses (`make test` runs the tests once for each).
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from names import ELEMENTWISE


class TorchNamespace:
    """segact_torch, with NumPy in and out."""

    name = "torch"
    argument: ClassVar = {"prediction": "input", "target": "target"}

    def __init__(self) -> None:
        import torch

        import segact_torch

        self.torch, self.package = torch, segact_torch

    def array(self, x: Any) -> Any:
        return self.torch.as_tensor(np.asarray(x))

    def numpy(self, x: Any) -> np.ndarray:
        return x.detach().cpu().numpy()

    def exp(self, x: Any) -> Any:
        return self.torch.exp(x)

    def compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f, compiled if the framework is used that way and is slow otherwise."""
        return f

    def gradients(self, f: Callable[..., Any], *arrays: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        """f(*arrays) and the gradients of its sum."""
        tensors = [self.array(a).clone().requires_grad_() for a in arrays]
        value = f(*tensors)
        grads = self.torch.autograd.grad(value.sum(), tensors)
        return self.numpy(value), [self.numpy(g) for g in grads]

    def elementwise(self, loss: str, y: Any, x: Any, *args: Any, **options: Any) -> Any:
        return getattr(self.package, loss)(x, y, *args, reduction="none", **options)

    def groups(self, loss: str, y: Any, x: Any, *args: Any, **options: Any) -> Any:
        """The losses of an overlap loss, unreduced."""
        return self.elementwise(loss, y, x, *args, **options)

    def mean(self, loss: str, y: Any, x: Any, *args: Any, **options: Any) -> Any:
        return getattr(self.package, loss)(x, y, *args, **options)

    def loss_class(self, name: str, *args: Any, **options: Any) -> Callable[[Any, Any], Any]:
        """The class of that loss as a function of (y, x) and perhaps the weights."""
        module = getattr(self.package, name + "Loss")(*args, **options)
        return lambda y, x, *weight: module(x, y, *weight)

    classes: ClassVar = {
        "binary_cross_entropy": "BinaryCrossEntropy",
        "binary_focal_cross_entropy": "BinaryFocalCrossEntropy",
        "mean_squared_error": "MeanSquaredError",
        "dice": "Dice",
        "jaccard": "Jaccard",
        "tversky": "Tversky",
        "focal_tversky": "FocalTversky",
        "dice_cross_entropy": "DiceCrossEntropy",
        "lovasz": "Lovasz",
        "lovasz_hinge": "LovaszHinge",
    }


class KerasNamespace:
    """segact_tf on the active Keras backend, with NumPy in and out."""

    argument: ClassVar = {"prediction": "y_pred", "target": "y_true"}

    def __init__(self) -> None:
        import keras

        import segact_tf

        self.keras, self.package = keras, segact_tf
        self.backend = keras.backend.backend()
        self.name = f"keras-{self.backend}"

    def array(self, x: Any) -> Any:
        return self.keras.ops.convert_to_tensor(np.asarray(x))

    def numpy(self, x: Any) -> np.ndarray:
        return self.keras.ops.convert_to_numpy(x)

    def exp(self, x: Any) -> Any:
        return self.keras.ops.exp(x)

    def compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f, compiled if the framework is used that way and is slow otherwise."""
        if self.backend == "jax":
            return importlib.import_module("jax").jit(f)
        if self.backend == "tensorflow":
            return importlib.import_module("tensorflow").function(f, autograph=False)
        return f

    def gradients(self, f: Callable[..., Any], *arrays: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        """f(*arrays) and the gradients of its sum."""
        tensors = [self.array(a) for a in arrays]
        if self.backend == "tensorflow":
            tensorflow = importlib.import_module("tensorflow")
            with tensorflow.GradientTape() as tape:
                for t in tensors:
                    tape.watch(t)
                value = f(*tensors)
            grads = tape.gradient(value, tensors)
        elif self.backend == "jax":
            jax = importlib.import_module("jax")
            value, pull = jax.vjp(f, *tensors)
            grads = pull(jax.numpy.ones_like(value))
        else:
            torch = importlib.import_module("torch")
            tensors = [t.detach().clone().requires_grad_() for t in tensors]
            value = f(*tensors)
            grads = torch.autograd.grad(value.sum(), tensors)
        return self.numpy(value), [self.numpy(g) for g in grads]

    def elementwise(self, loss: str, y: Any, x: Any, *args: Any, **options: Any) -> Any:
        return self.groups(loss, y, x, *args, axis=(), **options)

    def groups(self, loss: str, y: Any, x: Any, *args: Any, **options: Any) -> Any:
        """The losses of an overlap loss, unreduced."""
        if "weight" in options:
            options["sample_weight"] = options.pop("weight")
        return getattr(self.package, loss)(y, x, *args, **options)

    def mean(self, loss: str, y: Any, x: Any, *args: Any, **options: Any) -> Any:
        if loss in ELEMENTWISE:
            options["axis"] = None
        value = self.groups(loss, y, x, *args, **options)
        # keras.ops.mean of float64 is float32 on two of the backends
        return self.keras.ops.sum(value) / int(np.prod(value.shape))

    def loss_class(self, name: str, *args: Any, **options: Any) -> Callable[[Any, Any], Any]:
        """The class of that loss as a function of (y, x) and perhaps the weights."""
        return getattr(self.package, name)(*args, **options)

    classes: ClassVar = {
        "binary_cross_entropy": "BinaryCrossentropy",
        "binary_focal_cross_entropy": "BinaryFocalCrossentropy",
        "mean_squared_error": "MeanSquaredError",
        "dice": "Dice",
        "jaccard": "Jaccard",
        "tversky": "Tversky",
        "focal_tversky": "FocalTversky",
        "dice_cross_entropy": "DiceCrossentropy",
        "lovasz": "Lovasz",
        "lovasz_hinge": "LovaszHinge",
    }


Namespace = TorchNamespace | KerasNamespace


def available() -> list[str]:
    """The implementations whose framework is installed; `SEGACT_ONLY` narrows them to one."""
    frameworks = {"torch": "torch", "keras": "keras"}
    only = os.environ.get("SEGACT_ONLY")
    return [
        name
        for name, module in frameworks.items()
        if importlib.util.find_spec(module) is not None and only in (None, name)
    ]


def load(name: str) -> Namespace:
    return TorchNamespace() if name == "torch" else KerasNamespace()
