"""Keras's RMSprop in PyTorch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class RMSprop(torch.optim.Optimizer):
    """w - lr g / sqrt(v + epsilon), with v the moving average of g^2 with decay rho.

    `torch.optim.RMSprop` adds epsilon outside of the root: lr g / (sqrt(v) + eps). At Keras's
    default, 1e-7, that matters for all |g| below 1e-3, and no setting makes the two equal.
    """

    def __init__(
        self, params: Iterable[torch.Tensor], lr: float, rho: float, epsilon: float
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the closure, which computes the gradients, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state, rho = self.state[weight], group["rho"]
                if not state:
                    state["mean_square"] = torch.zeros_like(weight)
                v = state["mean_square"]
                v.mul_(rho).addcmul_(weight.grad, weight.grad, value=1 - rho)
                weight.addcdiv_(weight.grad, (v + group["epsilon"]).sqrt_(), value=-group["lr"])
        return loss
