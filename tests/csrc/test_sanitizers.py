"""The native kernels, each instruction set that runs here, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "streammix" / "csrc"
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
FLAGS = ["-std=c++20", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-psabi", "-w"]
SIZES = "-DSM_PROJECTION_SIZES=4"  # the rest run through the path for any n
# AddressSanitizer's checks as calls: half the time to compile
KERNELS_BY_GCC = ["--param", "asan-instrumentation-with-call-threshold=0"]

# One worker builds the program; building it takes minutes on a busy machine.
pytestmark = [pytest.mark.xdist_group("solver_test"), pytest.mark.timeout(2400)]


@pytest.fixture(scope="session")
def solver_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: set CXX, or install g++ or clang++")
    by_gcc = [] if "clang" in Path(compiler).name else KERNELS_BY_GCC
    build = tmp_path_factory.mktemp("solver_test")
    x86 = platform.machine() in ("x86_64", "AMD64")
    units = {
        SOURCES / "kernels_avx512.cpp": [*by_gcc, *(AVX512 if x86 else [])],
        SOURCES / "kernels_avx2.cpp": [*by_gcc, *(AVX2 if x86 else [])],
        SOURCES / "kernels_baseline.cpp": by_gcc,
        SOURCES / "dispatch.cpp": [],
        ROOT / "tests" / "csrc" / "solver_test.cpp": ["-O2"],
    }

    def compile_unit(source: Path) -> Path:
        target = build / (source.stem + ".o")
        run(compiler, *FLAGS, SIZES, *units[source], "-I", SOURCES, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_unit, units))
    program = build / "solver_test"
    run(compiler, *FLAGS, *objects, "-o", program)
    return program


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, f"{Path(command[0]).name} failed:\n{done.stdout}\n{done.stderr}"
    return done


def test_fuzzed_corpus(solver_test: Path) -> None:
    report = run(solver_test, ASAN_OPTIONS="detect_leaks=1", UBSAN_OPTIONS="print_stacktrace=1").stdout
    assert "baseline: passed" in report, report


def test_unknown_instruction_set_is_refused(solver_test: Path) -> None:
    done = subprocess.run([solver_test, "avx1024"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "accepted: avx512, avx2, baseline" in done.stdout
