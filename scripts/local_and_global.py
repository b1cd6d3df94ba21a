"""The errors of the ranks' own losses against the loss of the whole batch, and the exchanges.

    python -m torch.distributed.run --standalone --nproc-per-node 2 scripts/local_and_global.py

Prints the table of docs/scaling.md. With `--device cuda` each rank has a GPU, with NCCL. Every rank
has four images, with different numbers of ignored and of foreground pixels. The mean of the ranks'
gradients, as in DDP, is compared with the gradient of one process with all images, relative to its
norm.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import segact_torch

VOID = 255
PER_RANK, SIZE = 4, 32
DEVICE = "cuda" if sys.argv[1:] == ["--device", "cuda"] else "cpu"

LOSSES: dict[str, Callable[..., Tensor]] = {
    "Dice": segact_torch.dice,
    "Dice, channel_axis": partial(segact_torch.dice, channel_axis=1),
    "Dice, per_sample": partial(segact_torch.dice, per_sample=True),
    "Jaccard": segact_torch.jaccard,
    "cross entropy": segact_torch.binary_cross_entropy,
    "cross entropy of linear": partial(segact_torch.binary_cross_entropy, activation="linear"),
    "Dice + cross entropy": segact_torch.dice_cross_entropy,
}


def batch(ranks: int) -> tuple[Tensor, Tensor]:
    """Raw outputs and targets of all ranks; each later image has more ignored pixels."""
    generator = torch.Generator().manual_seed(20)
    shape = (PER_RANK * ranks, 1, SIZE, SIZE)
    noise, x = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    rising = torch.linspace(0, 1, len(x)).reshape(-1, 1, 1, 1)
    y = (x + 2 * noise > 1 + rising).double()
    ignored = torch.rand(shape, generator=generator) < 0.9 * rising
    x, y = 2 * x + rising, torch.where(ignored, VOID, y)
    return x.to(DEVICE), y.to(DEVICE)


def gradient(loss: Callable[..., Tensor], x: Tensor, y: Tensor, group: Any, own: slice) -> Tensor:
    x = x.clone().requires_grad_()
    loss(x[own], y[own], ignore_index=VOID, process_group=group).backward()
    assert x.grad is not None
    return x.grad


def average(gradients: Tensor) -> Tensor:
    """The mean of the ranks' gradients, as in DDP."""
    dist.all_reduce(gradients)
    return gradients / dist.get_world_size()


def exchanged(step: Callable[[], Any]) -> list[int]:
    """The bytes of each exchange in a step."""
    found, real = [], dist.all_reduce

    def recorded(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(tensor.numel() * tensor.element_size())
        return real(tensor, *args, **kwargs)

    dist.all_reduce = recorded
    try:
        step()
    finally:
        dist.all_reduce = real
    return found


def table() -> list[str]:
    """The lines of the table, computed by all ranks of the default group together."""
    rank = dist.get_rank()
    own = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    x, y = batch(dist.get_world_size())
    lines = [f"{'':24}  own losses  process_group  exchanges  bytes"]
    for name, loss in LOSSES.items():
        whole = gradient(loss, x, y, None, slice(None))
        local, of_all = (
            ((average(gradient(loss, x, y, group, own)) - whole).norm() / whole.norm()).item()
            for group in (None, "world")
        )
        moved = exchanged(partial(gradient, loss, x, y, "world", own))
        numbers = f"{local:9.1%} off  {of_all:9.0e} off  {len(moved):9}  {sum(moved):5}"
        lines.append(f"{name:24} {numbers}")
    return lines


def main() -> None:
    torch.set_num_threads(1)
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    lines = table()
    if dist.get_rank() == 0:
        print("\n".join(lines))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
