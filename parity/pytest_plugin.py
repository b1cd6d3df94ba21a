"""The pytest plugin: the fixture `parity`, and `--parity-report DIR`.

The report holds every `assert_parity` and `assert_model_parity` of the run, called through the
fixture or not, also if pytest-xdist distributes the tests over processes. Everything is imported
when it is first used, since every run of pytest loads this module.
"""

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.common.extras import advice


class Parity:
    """The value of the fixture: `parity(f, g, inputs=...)` is `assert_parity`, and so on."""

    def __call__(self, *functions: Any, **options: Any) -> Any:
        """`parity.assert_parity`."""
        __tracebackhide__ = True
        from parity import assert_parity

        return assert_parity(*functions, **options)

    def model(self, keras_model: Any, torch_model: Any, x: Any, **options: Any) -> Any:
        """`parity.assert_model_parity`."""
        __tracebackhide__ = True
        from parity import assert_model_parity

        return assert_model_parity(keras_model, torch_model, x, **options)

    def run_in_backend(self, backend: str, target: Any, **keywords: Any) -> Any:
        """`parity.run_in_backend`."""
        from parity import run_in_backend

        return run_in_backend(backend, target, **keywords)


@pytest.fixture
def parity() -> Parity:
    """Checks that functions or models agree: `parity(keras_loss, torch_loss, inputs=(x, y))`.

    `parity.model(keras_model, torch_model, x)`; `parity.run_in_backend("jax", "mypkg:loss")`.
    """
    words = ""
    try:
        importlib.import_module("parity.functions.assertions")
    except ModuleNotFoundError as error:
        words = advice(error, "parity")
        if not words:
            raise
    if words:
        pytest.fail(f"the fixture parity: {words}", pytrace=False)
    return Parity()


def _plain(value: float) -> float | str:
    """A number that JSON can hold."""
    return float(value) if math.isfinite(value) else str(value)


def _passed_parity(call: Any) -> bool:
    """Whether an error was raised in this package, such as by `parity.weights.copy`."""
    if not call.excinfo:
        return False
    modules = [entry.frame.f_globals.get("__name__") for entry in call.excinfo.traceback]
    error = call.excinfo.value
    while error is not None:
        modules += [kind.__module__ for kind in type(error).__mro__]
        error = error.__cause__ or error.__context__
    return "parity" in {str(name).partition(".")[0] for name in modules}


class Report:
    """Collects the findings of the assertions in the tests, and writes them when the run ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.test = ""
        self.findings: list[dict[str, Any]] = []

    def observe(self, finding: Any) -> None:
        """Keep one finding, as plain values that can be sent to another process."""
        worst = finding.worst
        self.findings.append(
            {
                "name": self.test,
                "what": str(finding.what),
                "passed": bool(finding.passed),
                "share": _plain(worst.share) if worst else None,
                "needed_rtol": _plain(worst.needed_rtol) if worst else None,
                "rtol": _plain(worst.rtol) if worst else None,
                "atol": _plain(worst.atol) if worst else None,
                "message": "" if finding.passed else str(finding.message),
            }
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        """A difference that a test expects is no failure; an error that ends a test is one."""
        from parity.common.findings import Finding

        report = yield
        mine = [finding for finding in self.findings if finding["name"] == item.nodeid]
        expected = report.when == "call" and (report.passed or hasattr(report, "wasxfail"))
        for finding in mine:
            if expected and not finding["passed"]:
                finding |= {"passed": True, "what": f"{finding['what']}, as expected"}
        uses = mine or "parity" in getattr(item, "fixturenames", ()) or _passed_parity(call)
        if report.failed and uses and all(finding["passed"] for finding in mine):
            words = call.excinfo.exconly() if call.excinfo else "failed"
            self.observe(Finding(f"error in {report.when}", False, None, words))
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Remember which test runs, and collect its findings."""
        from parity.common.findings import observers

        self.test = item.nodeid
        observers.append(self.observe)
        try:
            return (yield)
        finally:
            observers.remove(self.observe)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the findings of a process of pytest-xdist."""
        self.findings += getattr(node, "workeroutput", {}).get("segact_parity", [])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report, or send it to the process that writes it."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["segact_parity"] = self.findings
            return
        from parity.report import page

        page.write(self.folder, checks=self.findings)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the path of the report."""
        terminalreporter.write_line(
            f"parity report: {self.folder / 'index.html'} ({len(self.findings)} checks)"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--parity-report DIR`."""
    group = parser.getgroup("parity", "segact's judge")
    group.addoption(
        "--parity-report",
        metavar="DIR",
        type=Path,
        help="write what every assert_parity found there: a page, JSON and JUnit",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the report, if the option is given."""
    folder = config.getoption("--parity-report")
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"--parity-report {folder}: wanted a folder, it is a file")
    try:
        for module in ("parity.report.page", "jinja2", "junitparser"):
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        words = advice(error, "parity")
        if not words:
            raise
        raise pytest.UsageError(f"--parity-report: {words}") from error
    config.pluginmanager.register(Report(folder.resolve()), "segact-parity-report")
