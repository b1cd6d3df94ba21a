"""A driver of Triton that launches nothing: the host's part of a launch, without a GPU."""

from contextlib import contextmanager
from types import SimpleNamespace

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Driver:
    """Of one device; `launched` has the name and the arguments of each kernel."""

    def __init__(self):
        self.launched = []
        self.utils = SimpleNamespace(
            load_binary=lambda *of_kernel: (1, 1, 32, 0, 1024),  # as a module, its function, ...
            get_device_properties=lambda device: {"max_shared_mem": 1 << 16},
            unload_module=lambda module: None,
        )

    def launcher_cls(self, source, metadata):
        # before the kernel's own arguments: the grid, stream, function, metadata, hooks
        return lambda *arguments: self.launched.append((source.fn.__name__, arguments[9:]))

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@contextmanager
def launches(*kernels):
    """The driver in use; what it compiled of these kernels is forgotten at the end."""
    found, before = Driver(), driver._active
    driver.set_active(found)
    for kernel in kernels:
        kernel.device_caches.clear()
    try:
        yield found
    finally:
        for kernel in kernels:
            kernel.device_caches.clear()
        driver._active = before  # where there is no GPU, there is no driver to find again
