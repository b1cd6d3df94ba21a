"""The resources of the Triton kernels, without a device: registers, spills, instructions.

    python scripts/triton_resources.py [sm_80 sm_90 gfx942]

Compiles the kernels for every activation, and prints a Markdown table for each target, as in
docs/performance.md; exit code 1 if a register is spilled. Triton contains all that is needed: the
compilers, and NVIDIA's `cuobjdump`. Instructions are counted in the text of the program, for each
element of a thread, including branches that are rarely taken.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.common.extras import needs

with needs("triton_resources", "dev"):
    import triton
    import triton.backends.nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from segact_torch._backends.triton import kernels
    from segact_torch._backends.triton import launch as backend

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{loss: ("losses", {"LOSS": loss}) for loss in ("cross_entropy", "squared_error", "focal")},
    **{name: (name, {}) for name in ("overlap", "overlap_gradient")},
    "overlap and entropy": ("overlap", {"ENTROPY": True}),
    "gradient of both": ("overlap_gradient", {"ENTROPY": True}),
}
"""The columns of the tables: the kernel, and its constants."""


@dataclass(frozen=True)
class Resources:
    """One kernel on one target: registers per thread, bytes or registers spilled, instructions."""

    registers: int
    spilled: int
    per_element: float


def compiled(kernel: str, activation: str, target: str, **constants: Any) -> Any:
    """The kernel for float32 x and y without weights, or with other constants."""
    name, of_column = KERNELS.get(kernel, (kernel, {}))
    function = getattr(kernels, name)
    names = function.arg_names
    known: dict[str, Any] = {
        **{"ACTIVATION": activation, "BLOCK": backend.BLOCK, "SINGLE": True, "ENTROPY": False},
        **{"CHUNK": backend.CHUNK},
        **{"WEIGHTED": False, "GUARDED": True, "SMOOTHED": False, "POSITIVE": False},
        **{"EACH_POSITIVE": False, "SQUEEZED": activation == "hardtanh", "RATIO": True},
        **{"ALPHA": kernel == "focal", "WHOLE": 2 * (kernel == "focal"), "FRACTION": False},
        **{"EACH": False, "GRADIENT": True, **of_column, **constants},
    }
    known = {name: value for name, value in known.items() if name in names}
    types = dict.fromkeys(("x", "y", "w", "gradient", "slopes", "upstream"), "*fp32")
    types |= dict.fromkeys(("factors", "value"), "*fp32") | {"out": "*fp64", "sums": "*fp64"}
    types |= dict.fromkeys(("length", "blocks", "chunks", "rows"), "i32")
    signature = {n: "constexpr" if n in known else types.get(n, "fp32") for n in names}
    aligned = [i for i, n in enumerate(names) if signature[n].startswith("*") or n == "length"]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in known.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": backend.NUM_WARPS}
    return triton.compile(source, target=TARGETS[target], options=options)


def resources(kernel: str, activation: str, target: str, **constants: Any) -> Resources:
    """The resources of a kernel for an activation on a target."""
    program = compiled(kernel, activation, target, **constants)
    lanes = TARGETS[target].warp_size * backend.NUM_WARPS
    if target.startswith("gfx"):
        text = program.asm["amdgcn"]
        count, spilled = (
            int(re.search(rf"\.vgpr_{what}:\s+(\d+)", text)[1]) for what in ("count", "spill_count")
        )
        instructions = re.findall(r"^\s+[a-z]+_\w+", text, re.MULTILINE)
        return Resources(count, spilled, len(instructions) * lanes / backend.BLOCK)
    tool = Path(triton.backends.nvidia.__file__).with_name("bin") / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()

        def dump(what: str) -> str:
            command = [str(tool), what, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage, text = dump("--dump-resource-usage"), dump("-sass")
    found = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", text, re.MULTILINE)
    spilled = found["STACK"] + found["LOCAL"]
    return Resources(found["REG"], spilled, len(instructions) * lanes / backend.BLOCK)


def main(targets: list[str]) -> None:
    spilled = []
    for target in targets:
        print(f"| {target}: registers / instructions per element | {' | '.join(KERNELS)} |")
        print("| --- " * (1 + len(KERNELS)) + "|")
        for activation in backend.NAMES:
            cells = []
            for kernel in KERNELS:
                r = resources(kernel, activation, target)
                cells.append(f"{r.registers} / {r.per_element:.0f}")
                spilled += [(target, kernel, activation)] if r.spilled else []
            print(f"| {activation} | {' | '.join(cells)} |", flush=True)
        print()
    if spilled:
        raise SystemExit(f"registers are spilled: {spilled}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(TARGETS))
