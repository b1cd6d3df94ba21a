"""The one thing that pyproject.toml cannot say: the kernels of segact_torch, where they compile."""

import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup

# GCC and Clang; everywhere else, and where there is no compiler, the formulas serve alone.
FLAGS = ["-O3", "-std=gnu11", "-fvisibility=hidden"]
# What vectorising sqrt, choices and signs takes; infinities, NaN and the order of sums stay.
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
# torch brings the very libgomp that this names, and so the two share their threads
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []
# elsewhere one thread, but vectors all the same
FLAGS += OPENMP or ["-fopenmp-simd"]

SOURCE = Path("segact_torch/_backends/cpu.c")
KERNELS = Extension(
    "segact_torch._backends._cpu",
    [str(SOURCE)],
    # so that a clone whose source has changed since does not run what was compiled before
    define_macros=[("SEGACT_SOURCE", f"{zlib.crc32(SOURCE.read_bytes())}u")],
    extra_compile_args=FLAGS,
    extra_link_args=OPENMP,
    optional=True,
)

setup(ext_modules=[] if sys.platform == "win32" else [KERNELS])
