"""The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`, which CI runs.

Short by default: the best instruction set that runs here and the baseline, with few sizes compiled as constants.
STREAMMIX_SANITIZE=long: every instruction set, more sizes, the test program itself instrumented, a larger corpus;
minutes.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "streammix" / "csrc"
OBJECTS = ROOT / "build" / "sanitizers"  # by the hash of all that made them: what has not changed is not compiled again
CORPUS = os.environ.get("STREAMMIX_SANITIZE", "short")
if CORPUS not in ("short", "long"):
    raise ValueError(f"STREAMMIX_SANITIZE: got {CORPUS!r}; accepted: short, long")
LONG = CORPUS == "long"

INSTRUMENTED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++20", "-Wno-psabi", "-w", "-I", str(SOURCES)]
X86 = platform.machine().lower() in ("x86_64", "amd64")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
ISA_FLAGS = {
    "avx512": [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"] if X86 else [],
    "avx2": AVX2 if X86 else [],
    "baseline": [],
}
# Sizes that are compiled as constants; all others run through the path for any n.
ALL_SIZES = ["-DSM_PROJECTION_SIZES=4", "-DSM_TRANSPORT_SIZES=4"]
FEW_SIZES = ["-DSM_PROJECTION_SIZES=4", "-DSM_TRANSPORT_SIZES=4", "-DSM_SINKHORN_SIZES="]
NO_SIZES = ["-DSM_PROJECTION_SIZES=", "-DSM_TRANSPORT_SIZES=", "-DSM_SINKHORN_SIZES=", "-DSM_STREAMS_SIZES="]
# AddressSanitizer's checks as calls: half the time to compile
KERNELS_BY_GCC = ["--param", "asan-instrumentation-with-call-threshold=0"]

pytestmark = pytest.mark.timeout(2400)  # most of it to compile, on a busy machine


def instruction_sets() -> dict[str, list[str]]:
    """name -> flags of those to compile."""
    if LONG:
        return {isa: [*flags, *ALL_SIZES] for isa, flags in ISA_FLAGS.items()}
    best = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    return {"baseline": NO_SIZES, best: [*ISA_FLAGS[best], *FEW_SIZES]}


@pytest.fixture(scope="session")
def solver_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: set CXX, or install g++ or clang++")
    by_gcc = [] if "clang" in Path(compiler).name else KERNELS_BY_GCC
    kernels = [*INSTRUMENTED, "-O1", *by_gcc]
    units = {SOURCES / f"kernels_{isa}.cpp": [*kernels, *flags] for isa, flags in instruction_sets().items()}
    for name in ("dispatch.cpp", "charts.cpp"):
        units[SOURCES / name] = [*INSTRUMENTED, "-O1"]
    # Buffers come from the sanitizer's allocator either way; uninstrumented, the references are several times faster.
    units[ROOT / "tests" / "csrc" / "solver_test.cpp"] = [*INSTRUMENTED, "-O2"] if LONG else ["-O1"]

    OBJECTS.mkdir(parents=True, exist_ok=True)
    with FileLock(OBJECTS / ".lock"), ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda unit: compiled(compiler, *unit), units.items()))
        program = tmp_path_factory.mktemp("sanitizers") / "solver_test"
        run(compiler, *INSTRUMENTED, *objects, "-o", program)
    return program


def compiled(compiler: str, source: Path, flags: list[str]) -> Path:
    version = run(compiler, "--version").stdout
    headers = sorted([*SOURCES.rglob("*.h"), *Path(__file__).parent.glob("*.h")])
    texts = [source.read_text(), *(header.read_text() for header in headers)]
    digest = hashlib.sha256("\0".join([version, *FLAGS, *flags, *texts]).encode()).hexdigest()[:16]
    target = OBJECTS / f"{source.stem}-{digest}.o"
    if not target.exists():
        unfinished = target.with_suffix(f".{os.getpid()}")
        run(compiler, *FLAGS, *flags, "-c", source, "-o", unfinished)
        unfinished.replace(target)
    return target


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, f"{Path(command[0]).name} failed:\n{done.stdout}\n{done.stderr}"
    return done


def test_fuzzed_corpus(solver_test: Path) -> None:
    corpus = [] if LONG else ["--short"]
    report = run(solver_test, *corpus, ASAN_OPTIONS="detect_leaks=1", UBSAN_OPTIONS="print_stacktrace=1").stdout
    for isa in instruction_sets():
        assert f"{isa}: passed" in report or f"{isa}: instruction set" in report, report
    assert "baseline: passed" in report, report


def test_unknown_instruction_set_is_refused(solver_test: Path) -> None:
    done = subprocess.run([solver_test, "avx1024"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "accepted: avx512, avx2, baseline" in done.stdout
