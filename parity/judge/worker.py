"""The process of one implementation: evaluate cases, write a record, sweep.

Keras fixes its backend when it is imported, so every implementation runs in its own process. The
parent (`parity.judge.run`) sets the environment and reads standard output: one line for each step,
or one line that says that there is no such device.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from parity.accuracy import sweep
from parity.common.processes import Steps
from parity.frameworks.autodiff import NoDevice
from parity.judge.adapters import Evaluate, load
from parity.judge.curves import ErrorCurves
from parity.judge.user_logits import load_file
from parity.suite.case import ACTIVATIONS, Case
from parity.suite.cases import baseline_cases, file_cases, judged_cases
from parity.suite.inputs import Inputs, input_sets
from parity.suite.records import RecordWriter

NO_DEVICE = "no device: "
"""The start of the line that says that the framework is installed, but has no such device."""


def _evaluate_all(
    name: str, device: str, evaluate: Evaluate, cases: list[Case], sets: dict[str, Inputs]
) -> RecordWriter:
    writer = RecordWriter(name, device)
    for input_set in dict.fromkeys(case.input_set for case in cases):
        writer.add_inputs(input_set, sets[input_set])
    steps = Steps(len(cases))
    # JAX compiles for longer than it computes, and can compile several programs at a time.
    with ThreadPoolExecutor(None if name == "keras-jax" else 1) as pool:
        found = pool.map(lambda case: evaluate(case, sets[case.input_set]), cases)
        for done, (case, parts) in enumerate(zip(cases, found, strict=True), 1):
            writer.add(case, parts)
            steps.say(case.name, done)
    return writer


def _sweep(name: str, evaluate: Evaluate, path: Path) -> None:
    found, curves, steps = [], ErrorCurves(), Steps(len(ACTIVATIONS))
    steps.say("dense sweep", 0)
    for done, (activation, measurements) in enumerate(sweep.sweep(name, evaluate, curves.add), 1):
        found += [m.as_dict() for m in measurements]
        steps.say(f"dense sweep, {activation}", done)
    path.write_text(json.dumps({"measurements": found, "curves": curves.as_dict()}))


def main() -> None:
    """Run one implementation; see the options."""
    parser = argparse.ArgumentParser(prog="python -m parity.judge.worker", description=__doc__)
    parser.add_argument("implementation")
    parser.add_argument("--output", type=Path, required=True, help="the record to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--inputs", type=Path, help="a user's file, instead of the standard cases")
    parser.add_argument("--sweep", type=Path, help="sweep too, and write the result here as JSON")
    arguments = parser.parse_args()
    name, device = arguments.implementation, arguments.device
    Steps(1).say("importing", 0)
    try:
        evaluate = load(name, device)
    except NoDevice as error:
        print(f"{NO_DEVICE}{error}", flush=True)
        return
    if arguments.inputs:
        inputs = load_file(arguments.inputs)
        cases = file_cases(inputs)
        sets = {cases[0].input_set: inputs}
    else:
        cases = [*judged_cases(), *baseline_cases(name)]
        sets = input_sets()
    _evaluate_all(name, device, evaluate, cases, sets).write(arguments.output)
    if arguments.sweep:
        _sweep(name, evaluate, arguments.sweep)


if __name__ == "__main__":
    main()
