"""Training in PyTorch, through Lightning."""

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, Sampler

from examples.cats_vs_dogs.data import Split
from examples.cats_vs_dogs.measures import COLUMNS, MEASURES, row
from examples.cats_vs_dogs.network import build
from examples.cats_vs_dogs.options import Options
from examples.cats_vs_dogs.training import Splits
from examples.common.batches import as_input, batches, dropout_seed, in_batches
from examples.common.files import written_beside
from examples.common.heads import TorchHead
from examples.common.runs import Recorder, Run, RunError, stopped
from parity import weights
from parity.inputs import Array

CHECKPOINT = "last.ckpt"
RHO, EPSILON = 0.9, math.sqrt(1e-7)
"""Of RMSprop: Keras's rho is `alpha` here. Its epsilon, 1e-7, stands inside of the root, PyTorch's
outside, so this is the same for a gradient of 0."""
_PRECISIONS = {"32": "32-true", "64": "64-true", "16-mixed": "16-mixed", "bf16-mixed": "bf16-mixed"}
_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")


def images_in(images: Array) -> torch.Tensor:
    """uint8 (N, H, W, 3) as PyTorch takes it: float32 (N, 3, H, W), in [0, 1]."""
    return torch.from_numpy(as_input(images).transpose(0, 3, 1, 2))


class Samples(Dataset[Any]):
    """Batches by their indices: images (N, 3, H, W) and labels (N, 1)."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, indices: Array) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self.split.labels[indices].astype(np.float32)[:, None]
        return images_in(self.split.images[indices]), torch.from_numpy(labels)


class Batches(Sampler[Array]):
    """The batches of an epoch, which Lightning sets; one of several devices gets its part of each.

    Without a seed they come in the order of the samples.
    """

    def __init__(self, count: int, options: Options, rank: int, seed: int | None) -> None:
        self.count, self.size, self.seed = count, options.batch_size, seed
        self.rank, self.devices, self.epoch = rank, options.devices, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.count / self.size)

    def __iter__(self) -> Iterator[Array]:
        if self.seed is None:
            whole = in_batches(np.arange(self.count), self.size)
        else:
            whole = batches(self.count, self.size, self.seed, self.epoch)
        for batch in whole:
            part = batch[self.rank :: self.devices]
            yield part if len(part) else batch[:1]  # each device needs one to take part


@torch.inference_mode()
def raw_outputs(network: torch.nn.Module, images: Array, batch_size: int) -> Array:
    """The raw outputs (N,) of a network in inference mode, which it leaves as it was."""
    kind = next(network.parameters())
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        found = [
            network(images_in(images[at]).to(kind)).float().cpu().numpy()[:, 0]
            for at in in_batches(np.arange(len(images)), batch_size)
        ]
    finally:
        for module, mode in modes:
            module.training = mode
    return np.concatenate(found)


class Classifier(pl.LightningModule):
    """The network with its head, as Lightning trains it."""

    def __init__(self, network: torch.nn.Module, head: TorchHead, options: Options) -> None:
        super().__init__()
        self.network, self.head, self.options = network, head, options
        self.recorder: Recorder | None = None

    def _step(self, batch: Any, prefix: str) -> torch.Tensor:
        images, labels = batch
        raw = self.network(images)
        raw = raw.float() if raw.dtype.itemsize < 4 else raw  # of mixed precision
        loss: torch.Tensor = self.head.loss(raw, labels)
        with torch.no_grad():
            right = 1 - self.head.wrong(raw, labels).float()
            found = {"loss": ("mean", loss.detach()), "accuracy": ("mean", right.mean())}
            for name, (how, measure) in MEASURES.items():
                found[name] = (how, measure(self.head, raw, labels).float())
        for name, (how, value) in found.items():
            self.log(
                prefix + name,
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=prefix + name in _SHOWN,
                reduce_fx=how,
                batch_size=len(labels),
                sync_dist=self.options.devices > 1,
            )
        return loss

    def on_train_epoch_start(self) -> None:
        """A frozen base does not train."""
        if self.options.model != "convnet":
            self.network.get_submodule("base").eval()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """The loss of a batch; an epoch's dropout depends on seed and epoch alone."""
        if index == 0:  # not before: where a loader starts, it takes a number from the generator
            seed = dropout_seed(self.options.seed, self.current_epoch)
            torch.manual_seed(seed + self.global_rank)
        loss = self._step(batch, "")
        if self.recorder and self.recorder.wants_steps and self.options.devices == 1:
            self.recorder.steps.append(loss.item())
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        """The same of validation samples."""
        self._step(batch, "val_")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Of what is not frozen."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        rate = self.options.learning_rate
        if self.options.optimizer == "sgd":
            return torch.optim.SGD(trained, lr=rate)
        return torch.optim.RMSprop(trained, lr=rate, alpha=RHO, eps=EPSILON)


class Keeper(Checkpoint):
    """Writes the run's files, then the checkpoint.

    Lightning runs callbacks of this kind after all others, so that the checkpoint holds the state
    of the early stopping.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.started = recorder, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is over, too."""
        seconds = time.monotonic() - self.started
        logs = {name: trainer.callback_metrics[name] for name in COLUMNS}
        path = self.recorder.run.path(CHECKPOINT)
        if trainer.is_global_zero:
            self.recorder.end_of_epoch(row(trainer.current_epoch + 1, logs, seconds))
            with written_beside(path) as beside:
                trainer.save_checkpoint(beside)
        else:
            trainer.save_checkpoint(path)  # writes nothing, but all must take part


class Bar(RichProgressBar):
    """Lightning's own, without the number of a version."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The four numbers that one looks at."""
        found = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in found.items() if name in _SHOWN}


def _accelerator(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: PyTorch finds no CUDA device here")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


class TorchTrainer:
    """Trains a run; raises `RunError` before anything is written."""

    def __init__(self, options: Options, splits: Splits) -> None:
        self.options, self.splits = options, splits
        self.device = _accelerator(options.device)
        if self.device == "cuda" and options.devices > torch.cuda.device_count():
            raise RunError(f"--devices {options.devices}: found {torch.cuda.device_count()}")
        head = TorchHead(options.activation, options.loss, options.convention)
        self.module = Classifier(build(options), head, options)

    def train(self, run: Run) -> None:
        """From the run's checkpoint, or from the beginning where there is none."""
        _settle()
        path, network = run.path(CHECKPOINT), self.module.network
        done = _epochs_of(path)
        recorder = Recorder(
            run,
            self.splits,
            self.options.checkpoint_epoch,
            save=lambda target: weights.save(network, target),
            predict=lambda images: raw_outputs(network, images, self.options.batch_size),
            done=done,
            steps_an_epoch=math.ceil(len(self.splits["train"].names) / self.options.batch_size),
        )
        self.module.recorder = recorder
        if done:
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            self.module.load_state_dict(state)
        else:
            recorder.save(run.path("initial.safetensors"))
        reason = stopped(recorder.losses, self.options.patience)
        if not reason and done < self.options.epochs:
            self._fit(run, recorder, path if done else None)
            reason = stopped(recorder.losses, self.options.patience)
        if self.module.global_rank == 0:
            recorder.end(reason or f"the cap of {len(recorder.rows)} epochs")

    def _fit(self, run: Run, recorder: Recorder, checkpoint: Path | None) -> None:
        trainer = self._lightning(run, recorder)
        loaders = [self._loader("train", self.options.seed), self._loader("validation", None)]
        trainer.fit(self.module, *loaders, ckpt_path=checkpoint and str(checkpoint))
        if trainer.interrupted:
            raise KeyboardInterrupt

    def _loader(self, name: str, seed: int | None) -> Any:
        split = self.splits[name]
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        order = Batches(len(split.names), self.options, rank, seed)
        return DataLoader(Samples(split), sampler=order, batch_size=None)

    def _lightning(self, run: Run, recorder: Recorder) -> pl.Trainer:
        patience = self.options.patience
        callbacks: list[Callback] = [
            Bar(),
            EarlyStopping("loss", patience=patience, check_on_train_epoch_end=True),
            Keeper(recorder),
        ]
        return pl.Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            devices=self.options.devices,
            precision=_PRECISIONS[self.options.precision],
            max_epochs=self.options.epochs,
            callbacks=callbacks,
            logger=TensorBoardLogger(run.folder, name="", version="tensorboard"),
            default_root_dir=run.folder,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            deterministic="warn",
        )


def _epochs_of(path: Path) -> int:
    """How many epochs a checkpoint has behind it; 0 where there is none."""
    if not path.is_file():
        return 0
    try:
        found: int = torch.load(path, map_location="cpu", weights_only=True)["epoch"]
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise RunError(f"{path}: damaged ({type(error).__name__})") from error
    return found + 1


def _settle() -> None:
    """float32 on a GPU is to be float32, and Lightning is to say what matters alone."""
    # tensorboard looks for this module to know that it is to do without TensorFlow
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*The number of training batches.*")
