"""The README's install commands, run as written in a clone: the compiled loops are there after.

Only what they depend on is not fetched again: the new environment sees what is installed here.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^ {4}(pip install .*?)\s*(?:#.*)?$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")


def commands(page: Path) -> list[str]:
    """Those that install from the clone."""
    found = COMMAND.findall(page.read_text()) if page.is_file() else []
    return [one for one in found if '"."' in one or '".[' in one]


def test_recipes_for_a_clone_are_editable():
    """Else Python in the clone finds its folders, without the loops, before what is installed."""
    found = [one for page in PAGES for one in commands(page)]
    assert len(found) >= 5
    assert [one for one in found if " -e " not in one] == []


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new virtual environment on top of this one, but without its segact."""
    folder = tmp_path_factory.mktemp("install") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    here = sysconfig.get_paths()
    there = sysconfig.get_path("purelib", vars={"base": str(folder)})
    folders = dict.fromkeys((here["purelib"], here["platlib"]))
    (Path(there) / "here.pth").write_text("\n".join(folders))
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SEGACT_KERNELS")}
    return {**variables, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def clone(folder: Path) -> Path:
    """What a clone of the working tree would hold: what is tracked, and nothing that was built."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no loops for Windows")
@pytest.mark.parametrize("command", commands(ROOT / "README.md"))
def test_the_loops_are_there_after(command, environment, tmp_path):
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("keras") is None:
        pytest.skip("torch or keras is not installed: the command would fetch it")
    folder = clone(tmp_path / "segact")

    def run(line):
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(command)
    told = run("python -m segact_torch")
    assert f"in {folder / 'segact_torch'}\n" in told
    assert "compiled loops for a CPU: yes" in told
