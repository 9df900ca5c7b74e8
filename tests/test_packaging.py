"""The wheel: one for every Python and torch, complete, and working in an environment that has nothing else of ours."""

import os
import shutil
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
assert (here / "py.typed").exists() and (here / "lab" / "report" / "page.html.j2").exists()
print("works")
"""


def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    words = [str(part) for part in command]
    environment = {**os.environ, "PYTHONPATH": "", **environment}
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
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


# --- light and honest -------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path) -> Path:
    """The sources, in a path with a space."""
    target = tmp_path / "a path with spaces"
    target.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, target)  # with its time, so that what is compiled counts as newer
    left_out = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "no_native.txt")
    shutil.copytree(ROOT / "src", target / "src", ignore=left_out)
    return target


def test_building_needs_no_torch(copy, tmp_path):
    """With setuptools and nothing else to import; what is compiled already is taken from this tree's own build."""
    assert "torch" not in (ROOT / "pyproject.toml").read_text().split("[project]")[0]
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("setuptools", "_distutils_hack", "pkg_resources"):
        if (there := Path(sysconfig.get_path("purelib")) / name).exists():
            (alone / name).symlink_to(there)
    if (ROOT / "build" / "objects").exists():
        shutil.copytree(ROOT / "build" / "objects", copy / "build" / "objects")
    environment = {"PYTHONPATH": str(alone), "STREAMMIX_REQUIRE_NATIVE": "1"}
    find = "import importlib.util as u; raise SystemExit(u.find_spec('torch') is not None)"
    run(sys.executable, "-S", "-c", find, **environment)
    run(sys.executable, "-S", "setup.py", "build_ext", "--build-lib", "built", cwd=copy, **environment)
    assert list((copy / "built").rglob("_C*.so"))


IMPORT_IT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import streammix as sm
    import streammix.layers
said = [str(w.message) for w in caught if w.category is RuntimeWarning]
assert len(said) == 1 and "native library is not built (the compiler said: " in said[0], said
assert "no such compiler here" in said[0], said
native = {b.name: b for b in sm.backends()}["cpu"]
assert not native.available and "no such compiler here" in native.reason
import torch
assert (sm.birkhoff(torch.randn(3, 4, 4)).sum(-1) - 1).abs().max() < 1e-5
print("works")
"""


def test_without_a_compiler_it_installs_and_says_why(copy, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: no such compiler here' >&2\nexit 1\n")
    compiler.chmod(0o755)
    none = {"CC": str(compiler), "CXX": str(compiler)}
    folder = tmp_path / "wheel"
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, copy, **none)
    (made,) = folder.glob("*.whl")
    assert made.name.endswith("-py3-none-any.whl")
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", made)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run(python, "-c", IMPORT_IT).strip() == "works"
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "built"]
    environment = {**os.environ, **none, "STREAMMIX_REQUIRE_NATIVE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy, env=environment)
    assert done.returncode != 0
    assert "no such compiler here" in done.stderr
