"""Builds the CPU kernels into streammix/_C.abi3.so by LibTorch's stable ABI: one binary for all Pythons and torches.

Without torch or a GCC-compatible compiler the package still installs, runs the eager backend and says so in
`streammix.backends()`. STREAMMIX_REQUIRE_NATIVE=1 makes a failed build an error.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

CSRC = Path("src/streammix/csrc")
OLDEST_TORCH = "0x020a000000000000"  # 2.10
COMMON = [
    "-O3",
    "-std=c++20",
    "-fvisibility=hidden",
    "-g0",
    "-Wno-maybe-uninitialized",
    f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}",
]
X86 = platform.machine().lower() in ("x86_64", "amd64")
#: Every instruction set is its own translation unit of the same headers; the CPU chooses at run time.
ISA_FLAGS = {
    "kernels_avx512.cpp": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"],
    "kernels_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"],
}
PARALLEL = min(4, os.cpu_count() or 1)
OBJECTS = Path("build/objects")  # kept between builds: an object newer than its sources is not compiled again


class BuildNative(build_ext):
    """build_ext with flags for each source, and several sources at a time."""

    def build_extension(self, ext: Extension) -> None:
        torch = find_spec("torch")
        if torch is None or torch.origin is None:
            raise RuntimeError("building the CPU kernels needs torch: install it, then use --no-build-isolation")
        home = Path(torch.origin).parent
        include = [str(home / "include")]

        def compile_one(source: str) -> str:
            made = self.compiler.object_filenames([source], output_dir=str(OBJECTS))[0]
            if newer_group([source, *ext.depends, __file__], made):
                flags = COMMON + (ISA_FLAGS.get(Path(source).name, []) if X86 else [])
                self.compiler.compile([source], output_dir=str(OBJECTS), include_dirs=include, extra_postargs=flags)
            return made

        longest_first = sorted(ext.sources, key=lambda source: not Path(source).name.startswith("kernels_"))
        with ThreadPoolExecutor(PARALLEL) as pool:
            objects = list(pool.map(compile_one, longest_first))
        link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            library_dirs=[str(home / "lib")],
            libraries=["torch_cpu", "torch", "c10"],
            extra_postargs=link,
            target_lang="c++",
        )


native = Extension(
    "streammix._C",
    sources=sorted(str(path) for path in CSRC.glob("*.cpp")),
    depends=sorted(str(path) for path in CSRC.glob("*.h")),
    py_limited_api=True,
    optional=os.environ.get("STREAMMIX_REQUIRE_NATIVE") != "1",
)

setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
