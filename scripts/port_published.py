"""Ports of published nets: weights of keras.applications into torchvision's or timm's counterparts.

    KERAS_BACKEND=torch python scripts/port_published.py [NAME ...]

Needs keras, torch, torchvision and timm; not part of the tests. Every net has random weights.
They are copied with `parity.weights.copy(settings="copy")`, without a map or with the map that
`parity.weights.suggest` prints, and both nets are compared by `assert_model_parity`. Each runs in
its own process; prints a table of the results, with time and memory.

The sizes of the input are odd at every stride if the counterpart can only pad by one at both ends:
then that equals Keras's "same". Other differences of the counterparts are set here: the strides of
the first version of ResNet, padding and momentum of TensorFlow in timm.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np

SAMPLES = 2


@dataclass
class Net:
    """A net of keras.applications, how to build its counterpart, and the side of the images."""

    counterpart: str
    build: Callable[[], Any]
    size: int
    options: dict[str, Any] = field(default_factory=dict)
    scaled: bool = False


def timm_net(name: str, **options: Any) -> Callable[[], Any]:
    """A net of timm without weights."""

    def build() -> Any:
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


def torchvision_net(name: str, **options: Any) -> Callable[[], Any]:
    """A net of torchvision without weights."""

    def build() -> Any:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, **options)

    return build


def resnet50() -> Any:
    """With the stride in the first convolution of a block, as first published and in Keras, and
    with biases in its convolutions, as in Keras."""
    import torch
    import torchvision

    model = torchvision.models.resnet50(weights=None)
    for name, module in model.named_modules():
        if name.endswith(".0.conv1") and not name.startswith("layer1"):
            module.stride = (2, 2)
        if name.endswith(".0.conv2"):
            module.stride = (1, 1)
        if isinstance(module, torch.nn.Conv2d):
            module.bias = torch.nn.Parameter(torch.zeros(module.out_channels))
    return model


NO_PREPROCESSING = {"include_preprocessing": False}
NETS = {
    "MobileNetV2": Net(
        "timm mobilenetv2_100",
        timm_net("mobilenetv2_100", pad_type="same", bn_eps=1e-3, bn_momentum=0.001),
        96,
    ),
    "EfficientNetB0": Net(
        "timm tf_efficientnet_b0", timm_net("tf_efficientnet_b0"), 96, scaled=True
    ),
    "EfficientNetV2B0": Net(
        "timm tf_efficientnetv2_b0", timm_net("tf_efficientnetv2_b0"), 96, NO_PREPROCESSING
    ),
    "ResNet50": Net("torchvision resnet50", resnet50, 97),
    "ResNet50V2": Net("timm resnetv2_50", timm_net("resnetv2_50"), 97),
    "InceptionV3": Net(
        "torchvision inception_v3",
        torchvision_net(
            "inception_v3", aux_logits=False, init_weights=False, transform_input=False
        ),
        139,
    ),
    "DenseNet121": Net("torchvision densenet121", torchvision_net("densenet121"), 96),
    "VGG16": Net("torchvision vgg16", torchvision_net("vgg16"), 224),
    "Xception": Net("timm legacy_xception", timm_net("legacy_xception"), 135),
    "ConvNeXtTiny": Net(
        "torchvision convnext_tiny", torchvision_net("convnext_tiny"), 96, NO_PREPROCESSING
    ),
    "MobileNet": Net(
        "timm mobilenetv1_100", timm_net("mobilenetv1_100", pad_type="same", bn_eps=1e-3), 96
    ),
    "MobileNetV3Small": Net(
        "timm tf_mobilenetv3_small_100",
        timm_net("tf_mobilenetv3_small_100"),
        96,
        NO_PREPROCESSING,
    ),
}


def keras_net(name: str) -> Any:
    """The net with random weights and statistics, and logits."""
    import keras

    net = NETS[name]
    keras.utils.set_random_seed(7)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(net.size, net.size, 3),
        classifier_activation=None,
        **net.options,
    )
    rng = np.random.default_rng(7)
    for variable in model.weights:
        kind = variable.path.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.8, 1.2, variable.shape))
        elif kind in ("beta", "moving_mean"):
            variable.assign(rng.normal(size=variable.shape) / 10)
    return model


def scaled(model: Any) -> Any:
    """The net preceded by the division by 255 that is a part of Keras's net."""
    import torch

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Any) -> Any:
            return self.net(x / 255)

    return Scaled()


def copied(keras_model: Any, torch_model: Any) -> tuple[dict[str, str] | None, str]:
    """Copies the weights; returns the map that was needed, and the result."""
    from parity import weights

    try:
        weights.copy(keras_model, torch_model, settings="copy")
        return None, "unchanged"
    except weights.WeightsError as error:
        if error.layers is None:
            raise
    layers = weights.suggest(keras_model, torch_model)
    weights.copy(keras_model, torch_model, layers=layers, settings="copy")
    return layers, "with the printed map"


def run(name: str) -> dict[str, Any]:
    """The result of one net."""
    from parity import ParityError, assert_model_parity, weights

    net = NETS[name]
    keras_model, torch_model = keras_net(name), net.build()
    torch_model = scaled(torch_model) if net.scaled else torch_model
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (SAMPLES, net.size, net.size, 3)).astype(np.float32)
    found: dict[str, Any] = {"copied": "", "passed": False, "why": ""}
    start = time.perf_counter()
    try:
        layers, found["copied"] = copied(keras_model, torch_model)
        difference = assert_model_parity(keras_model, torch_model, x, layers=layers)
        found["passed"], found["why"] = True, f"{difference.share:.1%} of the tolerance"
    except (weights.WeightsError, ParityError) as error:
        found["why"] = " / ".join(str(error).splitlines()[:2])
    found["seconds"] = time.perf_counter() - start
    found["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def row(name: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    outcome = "passed" if found["passed"] else "no"
    numbers = f"{found['seconds']:.0f} s | {found['gigabytes']:.1f} GB"
    why = found["why"].replace("|", "\\|")
    copied_how = found["copied"] or "no"
    return f"| {name} | {NETS[name].counterpart} | {copied_how} | {outcome} | {numbers} | {why} |"


def main() -> None:
    """One process for each net, and the table."""
    parser = argparse.ArgumentParser(description="Ports of published nets, copied and compared.")
    parser.add_argument("names", nargs="*", default=list(NETS), help="nets of keras.applications")
    parser.add_argument("--one", action="store_true", help="in this process; prints JSON")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NETS]
    if unknown:
        parser.error(f"unknown net {unknown[0]}; wanted one of {', '.join(NETS)}")
    if options.one:
        print(json.dumps(run(options.names[0])))
        return
    print("| Keras | PyTorch | copied | passed | time | memory | error, or why not |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.names:
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            found = {"copied": "", "passed": False, "why": why, "seconds": 0, "gigabytes": 0}
        else:
            found = json.loads(done.stdout.splitlines()[-1])
        print(row(name, found), flush=True)


if __name__ == "__main__":
    main()
