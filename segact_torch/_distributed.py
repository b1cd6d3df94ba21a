"""Sums, counts and extremes over the ranks of a process group.

Each rank has a part of the batch, and every rank computes the loss of the whole batch: each sum
over the parts goes through `all_reduce` before it is used. The gradient of such a sum is the sum of
the upstream gradients of all ranks, by the same exchange. DDP and FSDP take the mean of the ranks'
gradients: that is the gradient of the mean of the ranks' losses, also if each rank multiplies its
own by another number.

Sums are sent in float64, if the device has it: 8 bytes in the forward pass and 8 in the backward
pass; a count is 8 bytes. Without a group these functions return their arguments.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from segact_torch import _special
from segact_torch._derivatives import _apply

if TYPE_CHECKING or dist.is_available():
    from torch.distributed import ProcessGroup
else:

    class ProcessGroup:
        """A placeholder, for a PyTorch that was built without `torch.distributed`."""


def is_distributed(values: Any) -> bool:
    """Whether it is a DTensor."""
    return hasattr(values, "device_mesh")


def check_group(process_group: ProcessGroup | str | None) -> None:
    """Raise unless it is None, "world" (which may be created later) or a group with this rank."""
    if process_group is None or isinstance(process_group, ProcessGroup):
        return
    if not isinstance(process_group, str):
        raise TypeError(
            "process_group must be None, 'world' or a torch.distributed.ProcessGroup that this "
            f"rank is in, got {process_group!r}"
        )
    if process_group != "world":
        raise ValueError(
            f"process_group must be None, 'world' or a ProcessGroup, got {process_group!r}"
        )


def group_of(process_group: ProcessGroup | str | None) -> ProcessGroup | None:
    """The group that the argument of a loss refers to, or None."""
    check_group(process_group)
    if not isinstance(process_group, str):
        return process_group
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            "process_group='world' is the default group, and there is none in this process: call "
            "torch.distributed.init_process_group first, or pass None"
        )
    return dist.group.WORLD


def all_reduce(group: ProcessGroup | None, *sums: Tensor) -> tuple[Tensor, ...]:
    """Each of these tensors of one shape summed over the ranks, in one exchange."""
    if group is None:
        return sums
    stacked = torch.stack([_special.double(each) for each in sums])
    reduced = _apply(_AllReduce, stacked, group)
    # not unbound: autograd refuses to change one of several views in place, as in `loss /= 4`
    return tuple(reduced[i].to(own.dtype) for i, own in enumerate(sums))


def all_mean(group: ProcessGroup | None, mean: Tensor, count: Tensor) -> Tensor:
    """The mean over all ranks, from each rank's mean of `count` elements; 0 if there are none.

    The mean is sent, not the sum, which may overflow where the mean does not.
    """
    if group is None:
        return mean
    (of_all,) = all_reduce(group, count)
    part = count / of_all.clamp(min=1)
    (mean_of_all,) = all_reduce(group, mean * part.to(mean.dtype))
    return mean_of_all


def all_extremes(group: ProcessGroup | None, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest minimum and the largest maximum of all ranks, as constants."""
    if group is None:
        return low, high
    # The maximum is minus the minimum of the negatives, so one exchange is enough.
    low, minus_high = _apply(_Least, torch.stack((low, -high)).detach(), group).unbind()
    return low, -minus_high


class _AllReduce(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of the gradients."""

    @staticmethod
    def forward(x: Tensor, group: ProcessGroup) -> Tensor:
        return _exchanged(x, group, "SUM")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _apply(_AllReduce, grads[0], ctx.group), None

    @staticmethod
    def push(ctx: Any, saved: Any, *tangents: Any) -> Tensor:
        result: Tensor = _apply(_AllReduce, tangents[0], ctx.group)
        return result

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, group: ProcessGroup) -> Any:
        return _apply(_AllReduce, x, group), in_dims[0]


class _Least(torch.autograd.Function):
    """The minimum over the ranks, as a constant."""

    @staticmethod
    def forward(x: Tensor, group: ProcessGroup) -> Tensor:
        return _exchanged(x, group, "MIN")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def push(ctx: Any, saved: Any, *tangents: Any) -> Tensor:
        return torch.zeros_like(tangents[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, group: ProcessGroup) -> Any:
        return _apply(_Least, x, group), in_dims[0]


def _exchanged(x: Tensor, group: ProcessGroup, operation: str) -> Tensor:
    """x reduced over all ranks of the group; the same result on each."""
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, op=getattr(dist.ReduceOp, operation), group=group)
    return x
