"""The checks of `keras.distribution.DataParallel` on two devices of JAX, for test_distributed.py.

    python data_parallel.py FILE

FILE gets, for each loss, the error of a training against that on one device.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
from fitting import FITTED, fit


@contextlib.contextmanager
def two_devices() -> Any:
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    yield


def main() -> None:
    keras.config.set_floatx("float64")
    # every device gets the same number of samples
    found = fit(two_devices(), (*FITTED, "Lovasz of the batch"), samples=8)
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
