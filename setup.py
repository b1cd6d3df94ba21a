"""The one thing that pyproject.toml cannot say: the loops of segact_torch, where they compile."""

import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# GCC and Clang; everywhere else, and where there is no compiler, the formulas serve alone.
FLAGS = ["-O3", "-g0", "-std=gnu11", "-fvisibility=hidden", "-fopenmp-simd"]
# What vectorising sqrt, choices and signs takes; infinities, NaN and the order of sums stay.
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]

FOLDER = Path("segact_torch/_backends/loops")
FILES = sorted(FOLDER.glob("*.[ch]"))
LOOPS = Extension(
    "segact_torch._backends._cpu",
    [str(path) for path in FILES if path.suffix == ".c"],
    depends=[str(path) for path in FILES],
    # so that a clone whose source has changed since does not run what was compiled before
    define_macros=[("SEGACT_SOURCE", f"{zlib.crc32(b''.join(p.read_bytes() for p in FILES))}u")],
    extra_compile_args=FLAGS,
    optional=True,
)


class Build(build_ext):
    """The loops know nothing of Python: one library for all its versions, by one name."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"


class Wheel(bdist_wheel):
    """So one wheel of a platform is for every Python, too."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(
    ext_modules=[] if sys.platform == "win32" else [LOOPS],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
