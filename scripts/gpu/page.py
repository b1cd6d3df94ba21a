"""The page: every step with its command, its figures, and what was skipped and why."""

from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cases import STOCK
from parity.report.markdown import markdown_table
from scripts.gpu import curves
from scripts.gpu.plan import Plan
from scripts.gpu.steps import DONE, FAILED, SKIPPED, Result

FIGURE = "gpu.png"


def _plain(text: str, work: Path, data: Path | None) -> str:
    """The command line without the folders of this machine."""
    words = ["python" if Path(w).name.startswith("python") else w for w in text.split(" ")]
    line = " ".join(words).replace(f"{work}/", "")
    return line.replace(str(data), "DIR") if data else line


def _machine(found: dict[str, Any]) -> list[str]:
    rows = [[name, str(found[name])] for name in ("device", "capability", "driver", "cuda")
            if name in found]  # fmt: skip
    if "memory" in found:
        rows.append(["memory", f"{found['memory'] / 2**30:.0f} GiB"])
    rows.append(["copy bandwidth", f"{found['copy_bandwidth'] / 1e9:.0f} GB/s, read and written"])
    rows += [["processor", f"{found['processor']}, {found['cores']} cores"]]
    rows += [["Triton's kernels", found.get("kernels", "not known")]]
    rows += [["JAX sees", ", ".join(found["jax"]) or "not installed"]]
    rows += [["versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items())]]
    return markdown_table(["", ""], rows)


def _judges(results: list[Result]) -> list[str]:
    rows = []
    for r in results:
        passed = {"True": "yes", "False": "NO"}.get(str(r.figures.get("passed")), "-")
        failures = r.figures.get("failures", [])
        said = r.reason or "; ".join(str(f) for f in failures[:3])
        judged = f"{r.figures['judged']:,}" if "judged" in r.figures else "-"
        rows.append([r.step.title, passed, judged, f"{r.seconds:.0f}", said])
    lines = markdown_table(["", "within bounds", "quantities", "s", ""], rows)
    with_worst = [r for r in results if r.figures.get("worst")]
    if with_worst:
        names = list(with_worst[0].figures["worst"])
        heads = ["float32, ulp, value / gradient"]
        heads += [r.step.title.removeprefix("the judge, ") for r in with_worst]
        body = [[n, *(r.figures["worst"].get(n, "") for r in with_worst)] for n in names]
        lines += ["", *markdown_table(heads, body)]
    return lines


def _benchmarks(result: Result) -> list[str]:
    if not result.figures:
        return []
    found = report.Results.from_dict(result.figures)
    lines = report.markdown(found).splitlines()
    large = [row for row in found.rows if row.framework == "bandwidth"]
    if not large:
        return lines
    (stock,) = (row for row in large if row.name == STOCK)
    of_copy = "of the copy bandwidth"
    heads = ["64 million elements", "ms", of_copy, f"times {stock.name}", "kernels, ms", of_copy]
    rows = [
        [
            row.name,
            f"{row.milliseconds[0]:.3f}",
            f"{1 / row.ratio[1]:.0%}",
            f"{row.milliseconds[0] / stock.milliseconds[0]:.2f}",
            *_of_kernels(row),
        ]
        for row in large
    ]
    return [*markdown_table(heads, rows), "", *lines]


def _of_kernels(row: report.Row) -> list[str]:
    """The milliseconds of the kernels alone, without the host's, and their share of a copy's."""
    if row.on_device is None or not row.on_device[0]:  # the step copies
        return ["-", "-"]
    found = row.on_device[0]
    return [f"{found:.3f}", f"{row.milliseconds[1] / found:.0%}"]


def _number(found: float | None) -> str:
    return "-" if found is None else f"{found:.2g}"


def _trainings(results: list[Result], device: str) -> list[str]:
    beside = device != "cpu"
    rows = []
    for r in results:
        for where in dict.fromkeys((device, "cpu")):
            if where not in r.figures:
                continue
            history = r.figures[where]["history"]
            losses = ", ".join(f"{row['loss']:.4f}" for row in history)
            seconds = ", ".join(f"{row['seconds']:.1f}" for row in history)
            rows.append([r.step.title, where, losses, seconds])
            if beside:
                both = (curves.apart(r.figures, device, first) for first in (curves.FIRST, None))
                rows[-1] += ["", ""] if where == "cpu" else map(_number, both)
    heads = ["", "on", "loss of each epoch", "s an epoch"]
    if not beside:
        return markdown_table(heads, rows)
    heads += [f"first {curves.FIRST} steps apart", "all kept steps apart"]
    said = (
        "The same images, order and initial weights on the device and on the CPU; losses "
        "apart: the largest relative difference of the loss of a step."
    )
    return [said, "", *markdown_table(heads, rows)]


def _steps(results: list[Result]) -> list[str]:
    return markdown_table(
        ["step", "", "s", "limit", "why not"],
        [
            [r.step.title, r.status, f"{r.seconds:.0f}", f"{r.step.limit:.0f}", r.reason]
            for r in results
        ],
    )


def _commands(results: list[Result], work: Path, data: Path | None) -> list[str]:
    shown = [_plain(c.shown(), work, data) for r in results for c in r.step.commands]
    return [f"    {line}" for line in shown]


def markdown(results: list[Result], plan: Plan, work: Path, seconds: float) -> str:
    """The whole page, from the results so far."""
    device, short = plan.device, plan.short
    by_name = {r.step.name: r for r in results}
    machine = by_name.get("machine")
    card = machine.figures.get("device", device) if machine else device
    judges = [r for r in results if r.step.name.startswith("judge-")]
    drawn = curves.trained(results)
    asked = "make gpu INTERPRET=1" if short else "make gpu"
    counts = [sum(r.status == status for r in results) for status in (DONE, FAILED, SKIPPED)]
    lines = [
        f"# On {card}",
        "",
        f"`{asked}`: {counts[0]} steps done, {counts[1]} failed, {counts[2]} skipped, in "
        f"{seconds:.0f} s.",
    ]
    if short:
        lines += [
            "",
            "A short run without a GPU: it shows that everything runs; its numbers mean nothing.",
        ]
    lines += ["", *_steps(results)]
    if machine and machine.figures:
        lines += ["", "## The machine", "", *_machine(machine.figures)]
    if judges:
        lines += ["", "## The judge", "", *_judges(judges), "", *_commands(judges, work, plan.data)]
    if "benchmarks" in by_name:
        one = by_name["benchmarks"]
        lines += [
            "",
            "## Speed and memory",
            "",
            *_commands([one], work, plan.data),
            "",
            *_benchmarks(one),
        ]
    if drawn:
        lines += [
            "",
            "## The examples",
            "",
            *_trainings(drawn, device),
            "",
            f"![Loss by step]({FIGURE})",
            "",
            *_commands(drawn, work, plan.data),
        ]
    return "\n".join(lines) + "\n"
