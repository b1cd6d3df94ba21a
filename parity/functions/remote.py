"""Functions that run in another process: on another Keras backend, or from the shell.

Keras fixes its backend when it is imported, so a process has only one. `run_in_backend` returns a
function that is evaluated in a process with the named backend; one process per backend is shared by
all functions and ends with this one.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.naming import unknown
from parity.common.signatures import KNOWN, Order
from parity.frameworks.autodiff import Evaluation
from parity.frameworks.environment import environment
from parity.functions.function import Function, as_function
from parity.functions.target import load_target, target_of

BACKENDS = ("tensorflow", "jax", "torch")


class RemoteError(RuntimeError):
    """A function failed in its process; the message ends with its error there."""


class TargetError(ValueError):
    """There is no function of that name, or its framework is not clear."""


def _search_path(ahead: str) -> str:
    """PYTHONPATH for the process, which finds the same modules as this one."""
    folders = [folder or os.getcwd() for folder in sys.path if not folder.endswith(".zip")]
    return os.pathsep.join(dict.fromkeys([ahead, *folders] if ahead else folders))


class Server:
    """The parent's end of a process that evaluates functions, one request after the other.

    `backend`: Keras's; empty for that of the environment. `ahead`: a folder that is searched first
    for modules. The process starts at the first request, and again at the next one if it has ended,
    or if a request was interrupted.
    """

    def __init__(self, backend: str = "", device: str = "cpu", ahead: str = "") -> None:
        self.backend, self.device, self.ahead = backend, device, ahead
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="segact-parity-")
        self._stderr = Path(self._folder.name, "stderr")

    def _start(self) -> subprocess.Popen[str]:
        found = environment(f"keras-{self.backend}" if self.backend else "", self.device)
        with self._stderr.open("w") as stderr:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "parity.functions.remote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **found, "PYTHONPATH": _search_path(self.ahead)},
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises `TargetError` if the function is not there, `RemoteError` if it failed.
        """
        with self._lock:
            self._process = self._process or self._start()
            try:
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
            except BaseException:  # interrupted: the next request must not get its answer
                self._end()
                raise
            if not line:
                code = self._exit_code()
                self._end()
        if not line:
            words = self._stderr.read_text(errors="replace").splitlines()[-8:]
            where = f" with Keras on {self.backend}" if self.backend else ""
            first = f"{request.get('target', '')}: the process{where} ended{code}"
            raise RemoteError("\n".join([first, *words]))
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise TargetError(answer["missing"])
        if "error" in answer:
            raise RemoteError(answer["error"])
        return answer

    def _exit_code(self) -> str:
        """How the process ended, if it did: `, exit code 7`, or a negative number for a signal."""
        with suppress(subprocess.TimeoutExpired):
            return f", exit code {self._process.wait(2)}" if self._process else ""
        return ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def close(self) -> None:
        """End the process, if this process started it; a fork does not."""
        if os.getpid() == self._owner:
            self._end()
            self._folder.cleanup()

    def evaluate(
        self, target: str, keywords: dict[str, Any], arrays: Sequence[Array], wanted: Sequence[int]
    ) -> Evaluation:
        """The value and the gradients of the function at `target`, on the server's device."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            given, made = Path(folder, "given.npz"), Path(folder, "made.npz")
            np.savez(given, *arrays)
            paths = {"inputs": str(given), "output": str(made)}
            request = {"target": target, "keywords": keywords, "device": self.device, **paths}
            self.ask(**request, wanted=list(wanted))
            with np.load(made, allow_pickle=False) as file:
                gradients = [file.get(f"gradient_{i}") for i in range(len(wanted))]
                return file["value"], gradients

    def describe(self, target: str, keywords: dict[str, Any]) -> dict[str, Any]:
        """`framework`, `name` and `order` of the function at `target`, and Keras's `backend`."""
        found = self.ask(target=target, keywords=keywords)
        return found | {"order": Order(**found["order"])}


@dataclass(frozen=True)
class RemoteFunction:
    """A function in another process, with the methods of `parity.Function`."""

    target: str
    server: Server
    framework: str
    name: str
    keywords: dict[str, Any] = field(default_factory=dict)
    order: Order = KNOWN

    def evaluate(
        self, arrays: Sequence[Array], wanted: Sequence[int] = (), device: str = "cpu"
    ) -> Evaluation:
        """The value and the gradients in the arrays at the positions `wanted`."""
        return self.server.evaluate(self.target, self.keywords, arrays, wanted)


@cache
def _server(backend: str, process: int) -> Server:
    """The server of a backend; a fork starts its own."""
    server = Server(backend)
    atexit.register(server.close)
    return server


def run_in_backend(
    backend: str, target: str | Callable[..., Any], name: str = "", **keywords: Any
) -> RemoteFunction:
    """A function that runs in another process, with Keras on another backend.

    `target`: a function or class at the top level of a module, or its path, `mypkg.losses:focal` or
    `path/to/file.py:focal`. A class, such as a loss, is constructed there with the keyword
    arguments (numbers, strings, booleans); a function gets them at every call. The process imports
    it; one process per backend is started at the first use and reused.

    `assert_parity(run_in_backend("jax", "mypkg.losses:focal"), port, inputs="segmentation")`

    Raises `ValueError` for an unknown or missing backend, a target that is not there, and keywords
    that are no plain values.
    """
    __tracebackhide__ = True
    if backend not in BACKENDS:
        raise ValueError(unknown("backend", backend, BACKENDS))
    for package in ("keras", backend):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ValueError(f"backend {backend}: {package} is not installed") from None
    path = target if isinstance(target, str) else target_of(target)
    file, python, attribute = path.partition(".py:")
    path = os.path.abspath(file) + python + attribute if python else path
    try:
        json.dumps(keywords)
    except TypeError as error:
        raise ValueError(
            f"keywords of {path}: {error}; wanted numbers, text, truth values"
        ) from None
    server = _server(backend, os.getpid())
    try:
        found = server.describe(path, keywords)
    except (RemoteError, TargetError) as error:
        raise ValueError(f"with Keras on {backend}: {error}") from None
    name = name or f"{found['name']} on {backend}"
    return RemoteFunction(path, server, found["framework"], name, keywords, found["order"])


def _load(request: dict[str, Any], functions: dict[str, Function]) -> Function:
    """The requested function, loaded once."""
    key = json.dumps([request["target"], request["keywords"]])
    if key not in functions:
        functions[key] = as_function(load_target(request["target"], request["keywords"]))
    return functions[key]


def _answer(request: dict[str, Any], functions: dict[str, Function]) -> dict[str, Any]:
    """In the child process: load the function, evaluate it, write the arrays."""
    try:
        function = _load(request, functions)
    except (TypeError, ValueError) as error:
        return {"missing": str(error)}
    except Exception as error:
        error.add_note(f"in the import of {request['target']}")
        raise
    if "inputs" in request:
        with np.load(request["inputs"], allow_pickle=False) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
        device = request["device"]
        if device != "cpu" and hasattr(function.call, "to"):  # a PyTorch module
            function.call.to(device)
        value, gradients = function.evaluate(arrays, request["wanted"], device)
        made: dict[str, Any] = {"value": value}
        made |= {f"gradient_{i}": g for i, g in enumerate(gradients) if g is not None}
        np.savez(request["output"], **made)
    found = {"framework": function.framework, "name": function.name, "backend": function.backend}
    return found | {"order": asdict(function.order)}


def main() -> None:
    """Answer requests on standard input, line by line, until it is closed."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # all other output goes to standard error
    functions: dict[str, Function] = {}
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), functions)
        except (Exception, SystemExit) as error:
            last = traceback.format_exception_only(error)
            answer = {"error": "".join(last).strip()}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
