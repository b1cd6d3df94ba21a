"""Training in Keras, through `fit`. `prepare` comes before Keras is imported."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.cats_vs_dogs.data import Split
from examples.cats_vs_dogs.measures import MEASURES, row
from examples.cats_vs_dogs.network import build
from examples.cats_vs_dogs.options import Options
from examples.cats_vs_dogs.training import Splits
from examples.common.batches import as_input, batches, dropout_seed, in_batches
from examples.common.heads import KerasHead
from examples.common.runs import Recorder, Run, RunError, stopped
from parity import weights
from parity.inputs import Array

CHECKPOINT = "last.weights.h5"
"""Of a compiled model this holds the state of the optimizer, too."""
RHO, EPSILON = 0.9, 1e-7
"""Of RMSprop: Keras's defaults, and the seed's."""
_POLICIES = {"64": "float64", "16-mixed": "mixed_float16", "bf16-mixed": "mixed_bfloat16"}
_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")


def prepare(options: Options) -> None:
    """Choose the backend and the device, before Keras is imported; raises `RunError`."""
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.device == "cpu" and "keras" not in sys.modules:
        os.environ["KERAS_TORCH_DEVICE"] = "cpu"
        if options.backend == "jax":
            os.environ["JAX_PLATFORMS"] = "cpu"
    if options.precision == "64":
        os.environ["JAX_ENABLE_X64"] = "1"
    import keras

    if keras.backend.backend() != options.backend:
        raise RunError(
            f"--backend {options.backend}: Keras runs on {keras.backend.backend()} in this process"
        )
    {"tensorflow": _settle_tensorflow, "jax": _settle_jax, "torch": _settle_torch}[options.backend](
        options.device
    )
    if options.devices > 1:
        _distribute(options)
    keras.utils.set_random_seed(options.seed)
    keras.config.set_floatx("float64" if options.precision == "64" else "float32")
    keras.config.set_dtype_policy(_POLICIES.get(options.precision, "float32"))


def _settle_tensorflow(device: str) -> None:
    """Deterministic; on a GPU float32 is to be float32."""
    import tensorflow as tf

    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if device == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise RunError("--device cuda: TensorFlow finds no GPU here")
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)


def _settle_jax(device: str) -> None:
    """The same on JAX."""
    import jax

    if device == "cuda" and jax.default_backend() != "gpu":
        raise RunError("--device cuda: JAX finds no GPU here")
    jax.config.update("jax_default_matmul_precision", "highest")


def _settle_torch(device: str) -> None:
    """The same on torch."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: PyTorch finds no CUDA device here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False


def _distribute(options: Options) -> None:
    """Each batch over several devices; of the backends, JAX does that with `keras.distribution`."""
    import keras

    if options.backend != "jax":
        raise RunError(
            f"--devices {options.devices}: keras.distribution runs on JAX, not on "
            f"{options.backend}; wanted --backend jax, or --framework torch"
        )
    found = keras.distribution.list_devices()
    if len(found) < options.devices:
        raise RunError(f"--devices {options.devices}: found {len(found)}")
    devices = found[: options.devices]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def _device() -> str:
    """Where Keras computes."""
    import keras

    if keras.backend.backend() == "torch":
        from keras.src.backend.torch.core import get_device

        return str(get_device()).partition(":")[0]
    if keras.backend.backend() == "jax":
        import jax

        return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    import tensorflow as tf

    return "cuda" if tf.config.get_visible_devices("GPU") else "cpu"


def _dataset(split: Split, options: Options, seed: int | None) -> Any:
    """Batches of images (N, H, W, 3) and labels (N, 1); without a seed in the samples' order."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.set_epoch(0)

        def set_epoch(self, epoch: int) -> None:
            """Before each epoch."""
            count = len(split.names)
            if seed is None:
                self.batches = in_batches(np.arange(count), options.batch_size)
            else:
                self.batches = batches(count, options.batch_size, seed, epoch)

        def __len__(self) -> int:
            return len(self.batches)

        def __getitem__(self, index: int) -> tuple[Array, Array]:
            at = self.batches[index]
            return as_input(split.images[at]), split.labels[at].astype(np.float32)[:, None]

    return Batches()


def raw_outputs(network: Any, images: Array, batch_size: int) -> Array:
    """The raw outputs (N,) of a network in inference mode."""
    parts = in_batches(np.arange(len(images)), batch_size)
    found = [network.predict_on_batch(as_input(images[at]))[:, 0] for at in parts]
    return np.concatenate(found).astype(np.float32)


def _metrics(head: KerasHead) -> list[Any]:
    """What `measures` counts, the accuracy, and the loss of the last batch."""
    import keras
    from keras import ops

    start = {"sum": 0.0, "min": math.inf, "max": -math.inf, "last": 0.0}
    join = {
        "sum": ops.add,
        "min": ops.minimum,
        "max": ops.maximum,
        "last": lambda before, now: now,
    }

    class Gathered(keras.metrics.Metric):  # type: ignore[misc]
        def __init__(self, name: str, how: str, measure: Any) -> None:
            super().__init__(name=name)
            self.how, self.measure = how, measure
            self.state = self.add_variable((), "zeros", name="state")
            self.reset_state()

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            now = ops.cast(self.measure(head, y_pred, y_true), self.dtype)
            self.state.assign(join[self.how](self.state.value, now))

        def reset_state(self) -> None:
            self.state.assign(start[self.how])

        def result(self) -> Any:
            return self.state + 0.0  # a number of now: the variable goes on

    def right(y_true: Any, y_pred: Any) -> Any:
        return 1 - ops.cast(head.wrong(y_pred, y_true), keras.config.floatx())

    return [
        keras.metrics.MeanMetricWrapper(right, name="accuracy"),
        *(Gathered(name, how, measure) for name, (how, measure) in MEASURES.items()),
        Gathered("step_loss", "last", lambda head, raw, labels: head.loss(labels, raw)),
    ]


def _optimizer(options: Options) -> Any:
    import keras

    if options.optimizer == "sgd":
        return keras.optimizers.SGD(options.learning_rate)
    return keras.optimizers.RMSprop(options.learning_rate, rho=RHO, epsilon=EPSILON)


def _callbacks(trainer: "KerasTrainer", recorder: Recorder, dataset: Any) -> list[Any]:
    """The libraries' own, and one that does what belongs to an epoch."""
    import keras

    early = keras.callbacks.EarlyStopping("loss", patience=trainer.options.patience, mode="min")

    class Keeper(keras.callbacks.Callback):  # type: ignore[misc]
        """Writes the run's files, then the checkpoint; Keras keeps no state of early stopping."""

        def on_train_begin(self, logs: Any = None) -> None:
            for epoch, loss in enumerate(recorder.losses):
                early.on_epoch_end(epoch, {"loss": loss})

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """The epoch's order and dropout depend on seed and epoch alone."""
            dataset.set_epoch(epoch)
            self.epoch, self.started = epoch, time.monotonic()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 0:  # not before: on torch, the start of a loader takes a number
                trainer.seed_dropout(self.epoch)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if recorder.wants_steps:
                recorder.steps.append(float(logs["step_loss"]))

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
            seconds = time.monotonic() - self.started
            recorder.end_of_epoch(row(epoch + 1, logs, seconds))
            trainer.save_checkpoint(recorder.run.path(CHECKPOINT), epoch + 1)

    class Bar(keras.callbacks.ProgbarLogger):  # type: ignore[misc]
        """Keras's own, with the four numbers that one looks at."""

        def _update_progbar(self, batch: int, logs: Any = None) -> None:
            super()._update_progbar(batch, _shown(logs))

        def _finalize_progbar(self, logs: Any) -> None:
            super()._finalize_progbar(_shown(logs))

    return [
        early,
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.TensorBoard(str(recorder.run.path("tensorboard")), write_graph=False),
        Bar(),
        Keeper(),
    ]


def _shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (logs or {}).items() if name in _SHOWN}


class KerasTrainer:
    """Trains a run; raises `RunError` before anything is written."""

    def __init__(self, options: Options, splits: Splits) -> None:
        self.options, self.splits = options, splits
        self.device = _device()
        head = KerasHead(options.activation, options.loss, options.convention)
        self.network = build(options)
        self.network.compile(_optimizer(options), head.keras_loss(), metrics=_metrics(head))
        self.network.optimizer.build(self.network.trainable_variables)

    def seed_dropout(self, epoch: int) -> None:
        """As Keras's `SeedGenerator` starts from a seed."""
        if not self.options.dropout:
            return
        seed = dropout_seed(self.options.seed, epoch)
        generator = self.network.get_layer("dropout").seed_generator
        generator.state.assign(np.array([seed, 0], dtype="uint32"))
        if self.options.backend == "torch":  # where Keras's dropout goes by the global generator
            import torch

            torch.manual_seed(seed)

    def save_checkpoint(self, path: Path, epochs: int) -> None:
        """The weights, the optimizer's state, and how many epochs they have behind them."""
        import h5py

        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".last.") as folder:
            beside = Path(folder) / path.name  # Keras wants this very suffix
            self.network.save_weights(beside)
            with h5py.File(beside, "a") as file:
                file.attrs["epochs"] = epochs
            os.replace(beside, path)

    def train(self, run: Run) -> None:
        """From the run's checkpoint, or from the beginning where there is none."""
        path, options = run.path(CHECKPOINT), self.options
        done = _epochs_of(path)
        if done:
            self.network.load_weights(path)
        dataset = _dataset(self.splits["train"], options, options.seed)
        recorder = Recorder(
            run,
            self.splits,
            options.checkpoint_epoch,
            save=lambda target: weights.save(self.network, target),
            predict=lambda images: raw_outputs(self.network, images, options.batch_size),
            done=done,
            steps_an_epoch=len(dataset),
        )
        if not done:
            recorder.save(run.path("initial.safetensors"))
        reason = stopped(recorder.losses, options.patience)
        if not reason and done < options.epochs:
            self._fit(recorder, dataset)
            reason = stopped(recorder.losses, options.patience)
        recorder.end(reason or f"the cap of {len(recorder.rows)} epochs")

    def _fit(self, recorder: Recorder, dataset: Any) -> None:
        self.network.fit(
            dataset,
            validation_data=_dataset(self.splits["validation"], self.options, None),
            epochs=self.options.epochs,
            initial_epoch=recorder.done,
            callbacks=_callbacks(self, recorder, dataset),
            shuffle=False,
        )


def _epochs_of(path: Path) -> int:
    """How many epochs a checkpoint has behind it; 0 where there is none."""
    import h5py

    if not path.is_file():
        return 0
    try:
        with h5py.File(path) as file:
            return int(file.attrs["epochs"])
    except (OSError, KeyError) as error:
        raise RunError(f"{path}: damaged ({error})") from error
