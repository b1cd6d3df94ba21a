"""Training in PyTorch, with Lightning."""

import io
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, Sampler

from examples.common.batches import batches, dropout_seed, in_batches
from examples.common.heads import TorchHead
from examples.common.optimizers import RMSprop
from examples.common.options import EPSILON, RHO
from examples.common.runs import Recorder, Run, RunError
from examples.common.synchronized import synchronize
from examples.common.task import TRAIN, VALIDATION, Task
from parity import weights
from parity.common.arrays import Array
from parity.common.files import write_atomically

CHECKPOINT = "last.ckpt"
_PRECISIONS: dict[str, Any] = {
    "32": "32-true",
    "64": "64-true",
    "16-mixed": "16-mixed",
    "bf16-mixed": "bf16-mixed",
}


def channels_first(array: Array) -> torch.Tensor:
    """(N, H, W, C) as (N, C, H, W) for PyTorch; other ranks unchanged."""
    return torch.from_numpy(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array)


def channels_last(tensor: torch.Tensor) -> Array:
    """(N, C, H, W) as (N, H, W, C), float32; other ranks unchanged."""
    array: Array = tensor.float().cpu().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


class Samples(Dataset[Any]):
    """The batches of training samples of an epoch, from their indices."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, at: tuple[Array, int]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = self.task.batch(TRAIN, *at)
        return channels_first(inputs), channels_first(targets)


class Batches(Sampler[Any]):
    """The batches of the epoch that Lightning sets; each of several devices gets its part."""

    def __init__(self, count: int, options: Any, rank: int) -> None:
        self.count, self.options, self.rank, self.epoch = count, options, rank, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.count / self.options.batch_size)

    def __iter__(self) -> Iterator[tuple[Array, int]]:
        options = self.options
        for batch in batches(self.count, options.batch_size, options.seed, self.epoch):
            yield batch[self.rank :: options.devices], self.epoch


@torch.inference_mode()
def raw_outputs(network: torch.nn.Module, batches: Iterable[Array]) -> Array:
    """The raw outputs, channels last, in inference mode; the mode of the network is restored."""
    kind = next(network.parameters())
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        found = [channels_last(network(channels_first(batch).to(kind))) for batch in batches]
    finally:
        for module, mode in modes:
            module.training = mode
    return np.concatenate(found)


class Learner(pl.LightningModule):
    """The network with its head, as a Lightning module."""

    def __init__(self, task: Task, head: TorchHead) -> None:
        super().__init__()
        self.task, self.head, self.options = task, head, task.options
        self.network = task.network()
        if self.options.devices > 1:
            synchronize(self.network)
        self.recorder: Recorder | None = None

    def on_train_epoch_start(self) -> None:
        """Frozen parts stay in inference mode."""
        for name in self.task.frozen:
            self.network.get_submodule(name).eval()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """The loss of a batch; the dropout of an epoch depends only on seed and epoch."""
        if index == 0:  # not earlier: the start of a loader draws a number from the generator
            seed = dropout_seed(self.options.seed, self.current_epoch)
            torch.manual_seed(seed + self.global_rank)
        inputs, targets = batch
        raw = self.network(inputs)
        raw = raw.float() if raw.dtype.itemsize < 4 else raw  # in mixed precision
        loss: torch.Tensor = self.head.loss(raw, targets)
        self._log_all(loss, raw, targets)
        if self.recorder and self.recorder.wants_steps:
            self.recorder.steps.append(loss.item())
        return loss

    @torch.no_grad()
    def _log_all(self, loss: torch.Tensor, raw: torch.Tensor, targets: torch.Tensor) -> None:
        found = {"loss": ("mean", loss.detach())}
        for name, (how, measure) in self.task.measures.items():
            value = measure(self.head, raw, targets).float()
            found[name] = (how, value.mean() if how == "mean" else value)
        for name, (how, value) in found.items():
            self.log(
                name,
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=name in self.task.shown,
                reduce_fx=how,
                batch_size=len(targets),
                sync_dist=self.options.devices > 1,
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of the parameters that are not frozen."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        rate = self.options.learning_rate
        if self.options.optimizer == "sgd":
            return torch.optim.SGD(trained, lr=rate)
        if self.options.optimizer == "adam":
            return torch.optim.Adam(trained, lr=rate, eps=EPSILON)
        return RMSprop(trained, rate, RHO, EPSILON)


class Evaluator(Callback):
    """Sets the learning rate before an epoch, and evaluates the validation samples after it."""

    def __init__(self, recorder: Recorder, head: TorchHead) -> None:
        self.recorder, self.head, self.task = recorder, head, recorder.task

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the learning rate, from the history."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.task.learning_rate(self.recorder.rows)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate; each device does it, with the same weights."""
        found = self.task.evaluate(self.head, self.recorder.predict(VALIDATION))
        found["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        for name, value in found.items():
            pl_module.log(
                name, torch.tensor(value, dtype=torch.float64), prog_bar=name in self.task.shown
            )


class Keeper(Checkpoint):
    """Writes the run's files, then the checkpoint.

    Lightning runs callbacks of this kind after all others, so that the checkpoint holds the state
    of the early stopping.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.started = recorder, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after validation."""
        seconds, recorder = time.monotonic() - self.started, self.recorder
        row = recorder.task.row(trainer.current_epoch + 1, trainer.callback_metrics, seconds)
        if trainer.is_global_zero:
            recorder.end_of_epoch(row)
        else:
            recorder.rows.append(row)
        trainer.save_checkpoint(recorder.run.path(CHECKPOINT))  # all ranks must take part


class WholeFile(TorchCheckpointIO):
    """Writes checkpoints whole or not at all; Lightning's own writes them on another disk first."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())


class Bar(RichProgressBar):
    """Lightning's progress bar, with epochs from 1 and without the version number."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The columns of the task."""
        found = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in found.items() if name != "v_num"}


def _accelerator(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: PyTorch finds no CUDA device here")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


class TorchTrainer:
    """Trains a run; raises `RunError` before anything is written."""

    def __init__(self, task: Task) -> None:
        self.task, self.options = task, task.options
        self.device = _accelerator(self.options.device)
        if self.device == "cuda" and self.options.devices > torch.cuda.device_count():
            raise RunError(
                f"--devices {self.options.devices}: PyTorch finds {torch.cuda.device_count()}"
            )
        options = self.options
        self.head = TorchHead(
            options.activation, options.loss, options.convention, **task.loss_options
        )
        in_training = self.head
        if options.devices > 1:  # the loss is that of the whole batch
            task.check_devices()
            in_training = TorchHead(
                *(options.activation, options.loss, options.convention),
                **task.loss_options,
                process_group="world",
            )
        self.learner = Learner(task, in_training)

    def predict(self, split: str) -> Array:
        """The raw outputs of a split, channels last."""
        parts = in_batches(np.arange(self.task.counts[split]), self.options.batch_size)
        inputs = (self.task.batch(split, at, None)[0] for at in parts)
        return raw_outputs(self.learner.network, inputs)

    def train(self, run: Run) -> None:
        """Train from the run's checkpoint, or from the beginning if there is none."""
        _settle()
        path, network = run.path(CHECKPOINT), self.learner.network
        done = _epochs_of(path)
        recorder = Recorder(
            run,
            self.task,
            save=lambda target: weights.save(network, target),
            predict=self.predict,
            done=done,
            steps_an_epoch=math.ceil(self.task.counts[TRAIN] / self.options.batch_size),
        )
        self.learner.recorder = recorder
        if done:
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            self.learner.load_state_dict(state)
        else:
            recorder.save(run.path("initial.safetensors"))
        if not recorder.reason:
            self._fit(run, recorder, path if done else None)
        if self.learner.global_rank == 0:
            recorder.end()

    def _fit(self, run: Run, recorder: Recorder, checkpoint: Path | None) -> None:
        trainer = self._lightning(run, recorder)
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        order = Batches(self.task.counts[TRAIN], self.options, rank)
        loader = DataLoader(Samples(self.task), sampler=order, batch_size=None)
        try:
            trainer.fit(self.learner, loader, ckpt_path=checkpoint and str(checkpoint))
        except SystemExit:
            if trainer.interrupted:  # Lightning ends the program with 1
                raise KeyboardInterrupt from None
            raise

    def _lightning(self, run: Run, recorder: Recorder) -> pl.Trainer:
        task, patience = self.task, self.options.patience
        callbacks: list[Callback] = [
            Evaluator(recorder, self.head),
            Bar(),
            EarlyStopping(
                task.monitor, patience=patience, mode=task.mode, check_on_train_epoch_end=True
            ),
            Keeper(recorder),
        ]
        return pl.Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            devices=self.options.devices,
            precision=_PRECISIONS[self.options.precision],
            max_epochs=self.options.epochs,
            callbacks=callbacks,
            plugins=[WholeFile()],
            logger=TensorBoardLogger(run.folder, name="", version="tensorboard"),
            default_root_dir=run.folder,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            deterministic="warn",
        )


def _epochs_of(path: Path) -> int:
    """The number of epochs of a checkpoint; 0 if there is none."""
    if not path.is_file():
        return 0
    try:
        found: int = torch.load(path, map_location="cpu", weights_only=True)["epoch"]
    except Exception as error:  # a damaged file makes torch raise many kinds of errors
        raise RunError(f"{path}: damaged ({type(error).__name__})") from error
    return found + 1


def _settle() -> None:
    """Full float32 precision on a GPU, no TF32; and fewer messages of Lightning."""
    # with this module tensorboard does not import TensorFlow
    if "tensorflow" not in sys.modules:
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*The number of training batches.*")
