"""Trains a small network with Lightning, on one device and on two, for test_distributed.py.

    python lightning_ranks.py FOLDER

FOLDER gets the weights of one process, of two with the group's loss and of two with their own.
Lightning starts this program again as the second process.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import segact_torch

VOID = 255
SAMPLES, BATCH, EPOCHS = 12, 4, 3


def data() -> TensorDataset:
    """Every image has a different share of ignored pixels."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn((SAMPLES, 1, 6, 6), generator=generator, dtype=torch.float64)
    masks = (images > 0.5).double()
    ignored = torch.rand(images.shape, generator=generator) < torch.linspace(0, 1, SAMPLES).reshape(
        -1, 1, 1, 1
    )
    return TensorDataset(images, torch.where(ignored, VOID, masks))


def train(devices: int, process_group: str | None) -> dict[str, torch.Tensor]:
    import lightning  # imported here, since the search for doctests imports this file

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            layers = nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1)
            self.network = nn.Sequential(*layers)
            self.loss = segact_torch.DiceCrossEntropyLoss(
                "arctan", ignore_index=VOID, process_group=process_group
            )

        def train_dataloader(self) -> DataLoader:
            # distributed in turn, so that a batch of two processes equals that of one
            dealt = DistributedSampler(data(), devices, self.global_rank, shuffle=False)
            return DataLoader(data(), batch_size=BATCH // devices, sampler=dealt)

        def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
            image, mask = batch
            result: torch.Tensor = self.loss(self.network(image), mask)
            return result

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    task = Task()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task)
    return {name: value.detach().cpu().clone() for name, value in task.state_dict().items()}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for name, group in (("world", "world"), ("local", None)):
        weights = train(2, group)
        if torch.distributed.get_rank() == 0:
            torch.save(weights, folder / f"{name}.pt")
    first = torch.distributed.get_rank() == 0
    torch.distributed.destroy_process_group()
    if first:
        torch.save(train(1, None), folder / "one.pt")


if __name__ == "__main__":
    main()
