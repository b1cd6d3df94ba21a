"""Batch normalization over the whole batch, of which each rank has a part; also on CPUs.

`torch.nn.SyncBatchNorm` runs only on GPUs.
"""

import torch
from torch import nn

from segact_torch._distributed import all_reduce, group_of


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with the mean and variance over the pixels of all ranks."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Like `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(input)
        group, axis = group_of("world"), (0, 2, 3)
        x = input.to(torch.promote_types(input.dtype, self.weight.dtype))
        count = x.new_tensor(float(x.numel() // x.shape[1]), dtype=torch.float64)
        (count,) = all_reduce(group, count)
        (mean,) = all_reduce(group, x.double().sum(axis) / count)
        centred = x - mean.to(x.dtype)[:, None, None]
        (variance,) = all_reduce(group, centred.double().square().sum(axis) / count)
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt().to(x.dtype)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            assert self.momentum is not None
            running.lerp_(now.to(running), self.momentum)


def synchronize(network: nn.Module) -> nn.Module:
    """The network with every `nn.BatchNorm2d` replaced; the weights stay."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                norm = BatchNorm2d(child.num_features, child.eps, child.momentum)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)
    return network
