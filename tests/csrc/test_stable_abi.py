"""csrc/torch/stable.h against the headers of the torch that is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "streammix" / "csrc"
INCLUDE = Path(torch.__file__).parent / "include"


@pytest.fixture
def check(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not (INCLUDE / "torch" / "csrc" / "stable" / "c" / "shim.h").exists():
        pytest.skip("no C++ compiler, or no headers of torch")

    def run(header: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "torch").mkdir(exist_ok=True)
        (tmp_path / "torch" / "stable.h").write_text(header)
        command = [compiler, "-std=c++20", "-fsyntax-only", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
        command += ["-I", str(tmp_path), "-I", str(INCLUDE), str(ROOT / "tests" / "csrc" / "stable_test.cpp")]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


def test_every_declaration_is_torchs_own(check):
    done = check((SOURCES / "torch" / "stable.h").read_text())
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("wrong", [("int64_t*);", "int32_t*);"), ("uint32_t line", "uint64_t line")])
def test_another_declaration_is_found(wrong, check):
    header = (SOURCES / "torch" / "stable.h").read_text()
    changed = header.replace(*wrong, 1)
    assert changed != header
    assert check(changed).returncode != 0


def test_every_function_is_in_torchs_headers():
    """A name that torch lacks would compile, and fail to load."""
    declared = set(re.findall(r"\b((?:aoti_)?torch_\w+)\(", (SOURCES / "torch" / "stable.h").read_text()))
    shims = (INCLUDE / "torch" / "csrc" / name for name in ("inductor/aoti_torch/c/shim.h", "stable/c/shim.h"))
    there = "\n".join(path.read_text() for path in shims)
    assert len(declared) > 20
    assert {name for name in declared if f"{name}(" not in there} == set()
