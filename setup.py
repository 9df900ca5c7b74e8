"""Builds the CPU kernels into streammix/_C.abi3.so by LibTorch's stable ABI: one binary for all Pythons and torches.

Building needs a C++20 compiler (GCC 10, Clang 14 or later) and no torch, because csrc/torch/stable.h declares what is
called of it. Without a compiler the package still installs, runs the eager backend, and says so with the compiler's own
words: when it is imported, and in `streammix.backends()`. STREAMMIX_REQUIRE_NATIVE=1 makes a failed build an error.
"""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

CSRC = Path("src/streammix/csrc")
COMMON = ["-O3", "-std=c++20", "-fvisibility=hidden", "-g0", "-w"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
#: Every instruction set is its own translation unit of the same headers; the CPU chooses at run time.
ISA_FLAGS = {
    "kernels_avx512.cpp": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"],
    "kernels_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"],
}
PARALLEL = min(4, os.cpu_count() or 1)
OBJECTS = Path("build/objects")  # kept between builds: an object newer than its sources is not compiled again
REASON = "no_native.txt"  # beside the package: why there is no native library
REQUIRED = os.environ.get("STREAMMIX_REQUIRE_NATIVE") == "1"


class BuildNative(build_ext):
    """build_ext with flags for each source, several sources at a time, and a reason where it fails."""

    def build_extension(self, ext: Extension) -> None:
        reason = Path(self.get_ext_fullpath(ext.name)).with_name(REASON)
        reason.unlink(missing_ok=True)
        with captured_errors() as said:
            try:
                self.build_native(ext)
                return
            except Exception as error:  # compilers fail in many ways, and setuptools has a class for each
                failure = error
        if REQUIRED:
            sys.stderr.write(said[0])
            raise failure
        lines = [line for line in said[0].splitlines() if "error" in line.lower()] or [str(failure)]
        words = lines[0].strip()
        print(f"warning: streammix is built without its C++ kernels: {words}", file=sys.stderr)
        reason.parent.mkdir(parents=True, exist_ok=True)
        reason.write_text(words + "\n")

    def build_native(self, ext: Extension) -> None:
        def compile_one(source: str) -> str:
            made = self.compiler.object_filenames([source], output_dir=str(OBJECTS))[0]
            if newer_group([source, *ext.depends, __file__], made):
                flags = COMMON + (ISA_FLAGS.get(Path(source).name, []) if X86 else [])
                self.compiler.compile([source], output_dir=str(OBJECTS), include_dirs=[str(CSRC)], extra_postargs=flags)
            return made

        longest_first = sorted(ext.sources, key=lambda source: not Path(source).name.startswith("kernels_"))
        with ThreadPoolExecutor(PARALLEL) as pool:
            objects = list(pool.map(compile_one, longest_first))
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=self.find_torch_when_loaded(), target_lang="c++"
        )

    def find_torch_when_loaded(self) -> list[str]:
        """How to link so that torch's functions are found in the torch that the process has loaded.

        ELF looks for a function in the libraries that the file names. An empty library stands in for torch's here: what
        counts is its name, by which the loader finds the one that is there.
        """
        if sys.platform == "darwin":
            return ["-undefined", "dynamic_lookup"]
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        empty, library = folder / "empty.c", folder / "libtorch_cpu.so"
        empty.write_text("")
        made = self.compiler.compile([str(empty)], output_dir=str(folder), extra_postargs=["-fPIC"])
        self.compiler.link_shared_object(made, str(library), extra_postargs=["-Wl,-soname,libtorch_cpu.so"])
        return [f"-L{folder}", "-Wl,--no-as-needed", "-ltorch_cpu"]

    def copy_extensions_to_source(self) -> None:
        """For editable installations: the library, or the reason why there is none."""
        package = Path("src/streammix")
        (package / REASON).unlink(missing_ok=True)
        for ext in self.extensions:
            built = Path(self.get_ext_fullpath(ext.name) if not self.inplace else package)
            if not self.inplace and (built.with_name(REASON)).exists():
                (package / REASON).write_text(built.with_name(REASON).read_text())
                return
        super().copy_extensions_to_source()


class Wheel(bdist_wheel):
    """A wheel without kernels is for every machine, and is tagged so."""

    def get_tag(self) -> tuple[str, str, str]:
        built = any(Path(self.bdist_dir or "").rglob("_C*.so")) or any(Path("build").glob("lib*/streammix/_C*.so"))
        return super().get_tag() if built else ("py3", "none", "any")


@contextlib.contextmanager
def captured_errors() -> Iterator[list[str]]:
    """What compilers write to stderr within the block, in the yielded list afterwards."""
    said: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read())


native = Extension(
    "streammix._C",
    sources=sorted(str(path) for path in CSRC.rglob("*.cpp")),
    depends=sorted(str(path) for path in CSRC.rglob("*.h")),
    py_limited_api=True,
)

setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
