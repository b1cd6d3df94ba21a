"""Training in Keras, with `fit`. Call `prepare` before Keras is imported."""

import io
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from examples.common.batches import batches, dropout_seed, in_batches
from examples.common.heads import KerasHead
from examples.common.options import EPSILON, RHO, TrainingOptions
from examples.common.runs import Recorder, Run, RunError
from examples.common.task import TRAIN, VALIDATION, Task
from parity import weights
from parity.common.arrays import Array
from parity.common.files import write_atomically

CHECKPOINT = "last.npz"
"""All variables of the network and of its optimizer, in their order."""
_POLICIES = {"64": "float64", "16-mixed": "mixed_float16", "bf16-mixed": "mixed_bfloat16"}


def prepare(options: TrainingOptions) -> None:
    """Choose the backend and the device, before Keras is imported; raises `RunError`."""
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.device == "cpu" and "keras" not in sys.modules:
        os.environ["KERAS_TORCH_DEVICE"] = "cpu"
        if options.backend == "jax":
            os.environ["JAX_PLATFORMS"] = "cpu"
    if options.precision == "64":
        os.environ["JAX_ENABLE_X64"] = "1"
    if "tensorboard.compat.notf" in sys.modules:  # after a training in PyTorch in this process
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
            del sys.modules[name]
    with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what TensorFlow prints on standard error during its import."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _settle_tensorflow(device: str) -> None:
    """Deterministic operations; full float32 precision on a GPU, no TF32."""
    import tensorflow as tf

    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if device == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise RunError("--device cuda: TensorFlow finds no GPU here")
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)


def _settle_jax(device: str) -> None:
    """The same settings on JAX."""
    import jax

    if device == "cuda" and jax.default_backend() != "gpu":
        raise RunError("--device cuda: JAX finds no GPU here")
    jax.config.update("jax_default_matmul_precision", "highest")


def _settle_torch(device: str) -> None:
    """The same settings on torch."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: PyTorch finds no CUDA device here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False


def _distribute(options: TrainingOptions) -> None:
    """Each batch over several devices: TensorFlow by a strategy, JAX by `keras.distribution`."""
    import keras

    if options.backend == "torch":
        raise RunError(
            f"--devices {options.devices}: Keras trains on one device on --backend torch; wanted "
            "--backend tensorflow or jax, or --framework torch"
        )
    if options.backend == "tensorflow":
        _several_of_tensorflow(options.devices)
        return
    import jax

    with suppress(RuntimeError):  # if JAX is already initialized
        jax.config.update("jax_num_cpu_devices", options.devices)
    found = keras.distribution.list_devices()
    if len(found) < options.devices:
        raise RunError(f"--devices {options.devices}: JAX finds {len(found)}")
    devices = found[: options.devices]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def _several_of_tensorflow(count: int) -> list[str]:
    """The names of as many GPUs; without GPUs, of logical devices of the CPU."""
    import tensorflow as tf

    kind = "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
    if kind == "CPU":
        with suppress(RuntimeError):  # if TensorFlow is already initialized
            parts = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(
                tf.config.list_physical_devices(kind)[0], parts
            )
    found = [device.name for device in tf.config.list_logical_devices(kind)]
    if len(found) < count:
        raise RunError(f"--devices {count}: TensorFlow finds {len(found)} of kind {kind}")
    return found[:count]


def _strategy(options: TrainingOptions) -> Any:
    """TensorFlow's strategy for several devices; None otherwise."""
    if options.devices == 1 or options.backend != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(_several_of_tensorflow(options.devices))


def _of_all_replicas(value: Any, how: str) -> Any:
    """The minimum, the maximum or the sum over the replicas of TensorFlow."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:  # this is already the whole batch
        return value
    join = {"min": tf.reduce_min, "max": tf.reduce_max, "last": tf.reduce_sum}[how]
    return join(context.all_gather(value[None], axis=0))


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


def _dataset(task: Task) -> Any:
    """The batches of the training samples of an epoch: inputs and targets."""
    import keras

    options = task.options

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.set_epoch(0)

        def set_epoch(self, epoch: int) -> None:
            """Set the epoch; called before each epoch."""
            self.epoch = epoch
            self.batches = batches(task.counts[TRAIN], options.batch_size, options.seed, epoch)

        def __len__(self) -> int:
            return len(self.batches)

        def __getitem__(self, index: int) -> tuple[Array, Array]:
            return task.batch(TRAIN, self.batches[index], self.epoch)

    return Batches()


def raw_outputs(network: Any, batches: Iterable[Array]) -> Array:
    """The raw outputs of a network in inference mode, float32."""
    strategy = getattr(network, "distribute_strategy", None)  # a tensor of TensorFlow
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        # with Keras every replica would predict the same batch
        found = [np.asarray(network(batch, training=False)) for batch in batches]
        return np.concatenate(found).astype(np.float32)
    return np.concatenate([network.predict_on_batch(batch) for batch in batches]).astype(np.float32)


def _metrics(task: Task, head: KerasHead, strategy: Any) -> list[Any]:
    """The metrics of the task, and the loss of the last batch."""
    import keras
    from keras import ops

    start = {"sum": 0.0, "min": math.inf, "max": -math.inf, "last": 0.0}
    join = {
        "sum": ops.add,
        "min": ops.minimum,
        "max": ops.maximum,
        "last": lambda before, now: now,
    }

    class Gathered(keras.metrics.Metric):
        def __init__(self, name: str, how: str, measure: Any) -> None:
            super().__init__(name=name)
            self.how, self.measure = how, measure
            # sums differ by replica, everything else is the same
            aggregation = "sum" if how == "sum" else "mean"
            self.state = self.add_variable((), "zeros", aggregation=aggregation, name="state")
            self.reset_state()

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            now = ops.cast(self.measure(head, y_pred, y_true), self.dtype)
            if strategy is not None and self.how != "sum":
                now = _of_all_replicas(now, self.how)
            self.state.assign(join[self.how](self.state.value, now))

        def reset_state(self) -> None:
            self.state.assign(start[self.how])

        def result(self) -> Any:
            return self.state + 0.0  # the value now: the variable changes later

    def gathered(name: str, how: str, measure: Any) -> Any:
        if how != "mean":
            return Gathered(name, how, measure)
        return keras.metrics.MeanMetricWrapper(
            lambda y_true, y_pred: measure(head, y_pred, y_true), name=name
        )

    return [
        *(gathered(name, how, measure) for name, (how, measure) in task.measures.items()),
        Gathered("step_loss", "last", lambda head, raw, targets: head.loss(targets, raw)),
    ]


def _optimizer(options: TrainingOptions) -> Any:
    import keras

    if options.optimizer == "sgd":
        return keras.optimizers.SGD(options.learning_rate)
    if options.optimizer == "adam":
        return keras.optimizers.Adam(options.learning_rate, epsilon=EPSILON)
    return keras.optimizers.RMSprop(options.learning_rate, rho=RHO, epsilon=EPSILON)


def _callbacks(trainer: "KerasTrainer", recorder: Recorder, dataset: Any) -> list[Any]:
    """Keras's own callbacks, and ours for the start and the end of an epoch."""
    import keras

    task = trainer.task
    early = keras.callbacks.EarlyStopping(
        task.monitor, patience=trainer.options.patience, mode=task.mode
    )

    class Evaluator(keras.callbacks.Callback):
        """Sets the learning rate before an epoch, and evaluates the validation samples after it."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """Order, dropout and learning rate of the epoch depend only on seed and history."""
            dataset.set_epoch(epoch)
            self.model.optimizer.learning_rate = task.learning_rate(recorder.rows)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 0:  # not earlier: on torch, the start of a loader draws a random number
                trainer.seed_dropout(len(recorder.rows))

        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            """Runs before all other callbacks, which find the results in the logs."""
            logs |= task.evaluate(trainer.head, recorder.predict(VALIDATION))
            logs["learning_rate"] = task.learning_rate(recorder.rows)

    class Keeper(keras.callbacks.Callback):
        """Writes the run's files, then the checkpoint; Keras keeps no state of early stopping."""

        def on_train_begin(self, logs: Any = None) -> None:
            for epoch, value in enumerate(recorder.watched):
                early.on_epoch_end(epoch, {task.monitor: value})

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """Start the clock."""
            self.started = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if recorder.wants_steps:
                recorder.steps.append(float(logs["step_loss"]))

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
            """Called after validation."""
            seconds = time.monotonic() - self.started
            recorder.end_of_epoch(task.row(epoch + 1, logs, seconds))
            trainer.save_checkpoint(recorder.run.path(CHECKPOINT), epoch + 1)

    class Bar(keras.callbacks.ProgbarLogger):
        """Keras's progress bar, with the columns of the task."""

        def _update_progbar(self, batch: int, logs: Any = None) -> None:
            super()._update_progbar(batch, shown(logs))

        def _finalize_progbar(self, logs: Any) -> None:
            super()._finalize_progbar(shown(logs))

    def shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: value for name, value in (logs or {}).items() if name in task.shown}

    logs = str(recorder.run.path("tensorboard"))
    # it writes with TensorFlow, on every backend
    written = find_spec("tensorflow") is not None
    return [
        Evaluator(),
        early,
        keras.callbacks.TerminateOnNaN(),
        *([keras.callbacks.TensorBoard(logs, write_graph=False)] if written else []),
        Bar(),
        Keeper(),
    ]


class KerasTrainer:
    """Trains a run; raises `RunError` before anything is written."""

    def __init__(self, task: Task) -> None:
        self.task, self.options = task, task.options
        self.device = _device()
        options = self.options
        self.head = KerasHead(
            options.activation, options.loss, options.convention, **task.loss_options
        )
        self.strategy = _strategy(options)
        if options.devices > 1:
            task.check_devices(even=True)
        with self.strategy.scope() if self.strategy else nullcontext():
            self.network = task.network()
            metrics = _metrics(task, self.head, self.strategy)
            self.network.compile(_optimizer(options), self.head.keras_loss(), metrics=metrics)
            self.network.optimizer.build(self.network.trainable_variables)

    def predict(self, split: str) -> Array:
        """The raw outputs of a split."""
        parts = in_batches(np.arange(self.task.counts[split]), self.options.batch_size)
        inputs = (self.task.batch(split, at, None)[0] for at in parts)
        return raw_outputs(self.network, inputs)

    def seed_dropout(self, epoch: int) -> None:
        """Set the seed, as Keras's `SeedGenerator` does."""
        import keras

        seed = dropout_seed(self.options.seed, epoch)
        for layer in self.network.layers:
            if isinstance(layer, keras.layers.Dropout) and layer.rate:
                layer.seed_generator.state.assign(np.array([seed, 0], dtype="uint32"))
        if self.options.backend == "torch":  # where Keras's dropout uses the global generator
            import torch

            torch.manual_seed(seed)

    def _variables(self) -> dict[str, Any]:
        every = [*self.network.variables, *self.network.optimizer.variables]
        return {str(number): variable for number, variable in enumerate(every)}

    def save_checkpoint(self, path: Path, epochs: int) -> None:
        """Save the weights, the optimizer's state, and the number of finished epochs."""
        import keras

        content = io.BytesIO()
        arrays = {n: keras.ops.convert_to_numpy(v) for n, v in self._variables().items()}
        np.savez(content, epochs=epochs, **arrays)
        write_atomically(path, content.getvalue())

    def load_checkpoint(self, path: Path) -> int:
        """Load a checkpoint; returns its epochs, 0 if there is none. Raises `RunError`."""
        if not path.is_file():
            return 0
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                for name, variable in self._variables().items():
                    variable.assign(file[name])
                return int(file["epochs"])
        except Exception as error:  # a damaged file makes numpy raise many kinds of errors
            raise RunError(f"{path}: damaged ({error})") from error

    def train(self, run: Run) -> None:
        """Train from the run's checkpoint, or from the beginning if there is none."""
        done = self.load_checkpoint(run.path(CHECKPOINT))
        dataset = _dataset(self.task)
        recorder = Recorder(
            run,
            self.task,
            save=lambda target: weights.save(self.network, target),
            predict=self.predict,
            done=done,
            steps_an_epoch=len(dataset),
        )
        if not done:
            recorder.save(run.path("initial.safetensors"))
        if not recorder.reason:
            self._fit(recorder, dataset)
        recorder.end()

    def _fit(self, recorder: Recorder, dataset: Any) -> None:
        self.network.fit(
            dataset,
            epochs=self.options.epochs,
            initial_epoch=recorder.done,
            callbacks=_callbacks(self, recorder, dataset),
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )
