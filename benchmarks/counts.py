"""The cost of a loss if each operation runs by itself: operations, and tensors moved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# These allocate memory, or make a number, and move no data.
NUMBERS = {"new_zeros", "new_ones", "new_full"}
ROOM = {"empty", "empty_like", "new_empty", "detach", "_unsafe_view", *NUMBERS}


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Counter(TorchDispatchMode):
    """Counts the operations on at least half of the elements, and what they read and write.

    `moved` is in float32 tensors of that many elements; `names` are the operations in order.
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.moved = 0.0
        self.names: list[str] = []

    @property
    def operations(self) -> int:
        return len(self.names)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in ROOM:
            return out
        tensors = tensors_of((args, kwargs)) + tensors_of(out)
        large = [t for t in tensors if 2 * t.numel() >= self.elements]
        if large:
            self.names.append(name)
            sizes = (min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in large)
            self.moved += sum(sizes) / (4 * self.elements)
        return out


@contextmanager
def bare() -> Iterator[None]:
    """Only PyTorch's own operations, as on a device without loops and kernels.

    An active dispatch mode does not change which operations run.
    """
    from segact_torch import _backends

    with (
        patch.object(_backends.availability, "KERNELS", "0"),
        patch.object(_backends, "_is_traced", lambda *tensors: False),
    ):
        yield


def count(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Counter:
    """Counts a step, forward and backward, after a first one, in which values are checked."""
    loss(x, y)
    with Counter(x.numel()) as counter:
        loss(x, y).backward()
    x.grad = None
    return counter
