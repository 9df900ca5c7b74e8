"""The wheel: one for every Python and torch, complete, and working in an environment that has nothing else of ours."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from filelock import FileLock

import streammix as sm

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(900)

USE_IT = """
import streammix as sm, torch, pathlib
here = pathlib.Path(sm.__file__).parent
assert "site-packages" in str(here), here
native = {b.name: b for b in sm.backends()}["cpu"]
assert native.available, native.reason
T = sm.birkhoff(10 * torch.randn(100, 4, 4, requires_grad=True))
T.sum().backward()
assert (T.sum(-2) - 1).abs().max() < 1e-6
assert (here / "py.typed").exists() and (here / "lab" / "report" / "page.html").exists()
print("works")
"""


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with FileLock(ROOT / "build" / "wheel.lock"):  # processes that test side by side share the folder of its parts
        run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ROOT)
    (made,) = folder.glob("*.whl")
    return made


def test_native_library_is_built():
    """The suite is meant to test it; a machine without a compiler fails here rather than pass on half of it."""
    native = {b.name: b for b in sm.backends()}["cpu"]
    assert native.available, native.reason


def test_wheel_is_for_every_python_and_torch(wheel):
    assert "-cp310-abi3-" in wheel.name


def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # Its dependencies come from this environment: a path file does not bring our own editable install along.
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run(python, "-c", USE_IT).strip() == "works"
