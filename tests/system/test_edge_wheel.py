"""The wheel as a device gets it: what `[edge]` brings, and that it works on Python 3.10 too."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FORBIDDEN = {
    "torch",
    "torch-geometric",
    "flwr",
    "litestar",
    "starlette",
    "fastapi",
    "flask",
    "django",
    "sqlalchemy",
    "onnx",
}
PACKAGES = {"aimass_cloud", "aimass_edge", "aimass_shared"}

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def _run(*command: object) -> str:
    line = [str(word) for word in command]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{line}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    out = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out)
    return next(out.glob("aimass-*.whl"))


def _environment(python: str, wheel: Path, extras: str) -> Path:
    """An empty virtual environment with the wheel and some extras; returns its interpreter."""
    home = wheel.parent / f"venv-{Path(python).name}-{extras.replace(',', '-')}"
    if python == sys.executable:
        venv.create(home, with_pip=True)
    else:
        _run(python, "-m", "venv", home)
    interpreter = home / "bin" / "python"
    _run(interpreter, "-m", "pip", "install", "-q", f"{wheel}[{extras}]")
    return interpreter


def _python_3_10() -> str | None:
    """A Python 3.10 that starts: on PATH, or where pyenv keeps its versions."""
    pyenv = Path.home() / ".pyenv" / "versions"
    found = [shutil.which("python3.10"), *map(str, pyenv.glob("3.10.*/bin/python3.10"))]
    for candidate in filter(None, found):
        if not subprocess.run(
            [candidate, "--version"], capture_output=True, check=False
        ).returncode:
            return candidate
    return None


def test_the_wheel_holds_three_packages_and_the_licence_of_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == PACKAGES
    assert "aimass_cloud/recipes/tep/LICENSE.txt" in names
    assert not [name for name in names if name.startswith("tests") or name.endswith(".db")]


def test_edge_extra_brings_no_torch_no_flwr_no_server_framework(wheel: Path) -> None:
    interpreter = _environment(sys.executable, wheel, "edge")
    listed = _run(
        interpreter, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"
    )
    installed = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert "onnxruntime" in installed
    assert installed & FORBIDDEN == set()
    _run(interpreter.parent / "aimass-edge", "--help")


def test_shared_and_edge_pass_their_tests_on_python_3_10(wheel: Path) -> None:
    python = _python_3_10()
    if python is None:
        pytest.skip("no Python 3.10 on this machine")
    interpreter = _environment(python, wheel, "edge,test")
    tail = _run(interpreter, "-m", "pytest", "-q", "tests/shared", "tests/edge").splitlines()[-1]
    assert "passed" in tail
    assert "failed" not in tail
