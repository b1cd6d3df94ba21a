"""A description of the machine, as a JSON object in a file: `python -m scripts.gpu.machine FILE`.

Versions, the processor, the GPU with its driver, the devices that each framework sees, the speed of
copying a large tensor on the device, and whether PyTorch's losses have their kernels there.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measure import processor
from parity.common.files import write_atomically
from parity.common.versions import versions

_MORE = ("triton", "jaxlib", "lightning", "monai", "safetensors", "scipy")
GIBIBYTE = 1 << 30


def _versions() -> dict[str, str]:
    found = versions()
    for package in _MORE:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _driver() -> str:
    """The version of the driver, from its own tool; empty if there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.split("\n")[0].strip()


def copy_bandwidth(device: str, size: int, rounds: int = 20) -> float:
    """Bytes a second, read and written, of a copy of `size` bytes; the median of the rounds."""
    import torch

    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size / statistics.median(seconds)


def _torch(device: str) -> dict[str, Any]:
    import torch

    import segact_torch

    found: dict[str, Any] = {
        "copy_bandwidth": copy_bandwidth(device, GIBIBYTE if device == "cuda" else GIBIBYTE // 16),
        "kernels": segact_torch.backends()["triton"],
    }
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "device": card.name,
            "devices": torch.cuda.device_count(),
            "memory": card.total_memory,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return found


def _jax_devices() -> list[str]:
    if find_spec("jax") is None:
        return []
    import jax

    return [f"{device.platform}: {device.device_kind}" for device in jax.devices()]


def main() -> None:
    """Raises if torch does not see the device, or Triton is installed and its kernels fail."""
    path, device = Path(sys.argv[1]), sys.argv[2]
    found: dict[str, Any] = {
        "device": processor(),
        "devices": 0,
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "versions": _versions(),
    }
    found |= _torch(device)
    try:
        found["jax"] = _jax_devices()
    except Exception as error:  # it may be installed for another driver
        found["jax"] = [f"{type(error).__name__}: {error}"]
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found))
    if found["kernels"] != "yes" and find_spec("triton") is not None:
        raise SystemExit(f"the losses have no kernels: {found['kernels']}")


if __name__ == "__main__":
    main()
