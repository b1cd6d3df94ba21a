"""The process of one implementation: train the network with every setting, write the losses.

In PyTorch with `torch.nn`, `torch.optim` and the losses of `segact_torch`; in Keras with
`keras.layers`, `compile`, `train_on_batch` and the losses of `segact_tf`, with Keras's default
compilation. The parent (`parity.training.run`) sets the environment and reads standard output, one
line per step.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from parity.common.files import write_atomically
from parity.common.naming import class_name
from parity.common.processes import Steps
from parity.training.problem import KINDS, LAYERS, SIZE, Problem, Setting
from parity.weights.read import assign, read

Losses = Iterator[float]


def _put_weights(problem: Problem, model: Any) -> None:
    """Set the weights of the layers of a model, in order, in either framework."""
    for name, layer in zip(LAYERS, read(model), strict=True):
        assign(layer, {kind: problem.weights[f"{name}/{kind}"] for kind in KINDS}, {})


def _torch_model(problem: Problem, dtype: str) -> Any:
    """The network; with a stride of 2 `same` pads, and crops, only at the end."""
    import torch
    from torch import nn

    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ELU()),
        *(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 16, 3, stride=2), nn.ELU()),
        *(nn.ConvTranspose2d(16, 8, 3, stride=2), nn.ZeroPad2d((0, -1, 0, -1)), nn.ELU()),
        nn.Conv2d(8, 1, 1),
    ).to(getattr(torch, dtype))
    _put_weights(problem, model)
    return model


def train_torch(problem: Problem, setting: Setting) -> Losses:
    """The loss before each step, in PyTorch."""
    import torch

    import segact_torch

    model = _torch_model(problem, setting.dtype)
    loss_of = getattr(segact_torch, class_name(problem.loss) + "Loss")(problem.activation)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
    optimizer = kinds[setting.optimizer](model.parameters(), **setting.options)
    for step, arrays in enumerate(problem.batches(setting.dtype), 1):
        image, mask = (torch.tensor(array.transpose(0, 3, 1, 2)) for array in arrays)
        if setting.optimizer == "adam" and setting.keras_epsilon:
            (group,) = optimizer.param_groups
            group["eps"] = setting.options["eps"] / math.sqrt(1 - group["betas"][1] ** step)
        optimizer.zero_grad()
        loss = loss_of(model(image), mask)
        loss.backward()
        optimizer.step()
        yield loss.item()


def _keras_model(problem: Problem) -> Any:
    import keras
    from keras import layers

    same: dict[str, Any] = {"padding": "same", "activation": "elu"}
    model = keras.Sequential(
        [
            layers.Input((SIZE, SIZE, 1)),
            layers.Conv2D(8, 3, **same),
            layers.Conv2D(16, 3, strides=2, **same),
            layers.Conv2DTranspose(8, 3, strides=2, **same),
            layers.Conv2D(1, 1),
        ]
    )
    _put_weights(problem, model)
    return model


def train_keras(problem: Problem, setting: Setting) -> Losses:
    """The loss before each step, in Keras on the backend it runs on."""
    import keras
    from keras import ops

    import segact_tf

    keras.config.set_floatx(setting.dtype)
    keras.config.set_dtype_policy(setting.dtype)
    name = class_name(problem.loss).replace("CrossEntropy", "Crossentropy")
    kinds = {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSprop"}
    optimizer = getattr(keras.optimizers, kinds[setting.optimizer])(**setting.options)
    model = _keras_model(problem)
    model.compile(optimizer=optimizer, loss=getattr(segact_tf.losses, name)(problem.activation))
    for image, mask in problem.batches(setting.dtype):
        model.train_on_batch(image, mask)
        # train_on_batch returns this ratio, but rounded to float32 on the torch backend.
        (mean,) = model.metrics
        yield float(ops.convert_to_numpy(mean.total)) / float(ops.convert_to_numpy(mean.count))


def _train_all(
    problem: Problem, train: Callable[[Problem, Setting], Losses]
) -> dict[str, list[float]]:
    """The losses, by the label of the setting."""
    found: dict[str, list[float]] = {}
    steps = Steps(len(problem.settings) * problem.steps)
    for number, setting in enumerate(problem.settings):
        losses = found[setting.label] = []
        for loss in train(problem, setting):
            losses.append(loss)
            steps.say(setting.label, number * problem.steps + len(losses))
    return found


def main() -> None:
    """Train one implementation; see the options."""
    parser = argparse.ArgumentParser(prog="python -m parity.training.worker", description=__doc__)
    parser.add_argument("implementation")
    parser.add_argument("--problem", type=Path, required=True, help="what to train")
    parser.add_argument("--output", type=Path, required=True, help="the JSON to write")
    arguments = parser.parse_args()
    Steps(1).say("importing", 0)
    problem = Problem.read(arguments.problem)
    train = train_torch if arguments.implementation == "torch" else train_keras
    found = _train_all(problem, train)
    write_atomically(arguments.output, json.dumps(found).encode())


if __name__ == "__main__":
    main()
