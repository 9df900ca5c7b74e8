"""The native CPU backend: loading the library puts its kernels under the operators' CPU dispatch key.

The library holds every instruction set; the CPU chooses, or the environment variable STREAMMIX_ISA (avx512, avx2,
baseline).
"""

import ctypes
import warnings
from pathlib import Path

import torch

from ..status import Status

LARGEST_N = 64  # larger matrices are left to the eager backend

_PACKAGE = Path(__file__).parents[2]


NAME = "cpu"
DEVICES = ("cpu",)
ACCEPTS = f"n <= {LARGEST_N}"


def status() -> Status:
    """Whether the native library is loaded; the reason names its instruction set, or says why it is not."""
    return library


def serves(device: str, n: int, dtype: torch.dtype) -> bool:
    """Whether it takes matrices of n rows, or n streams, of this dtype on this type of device."""
    return device == "cpu" and n <= LARGEST_N


def load() -> Status:
    """Load the library where it was built.

    Raises:
        RuntimeError: STREAMMIX_ISA names an instruction set that is unknown or cannot run here.
    """
    path = next(_PACKAGE.glob("_C*.so"), None)
    if path is None:
        said = _PACKAGE / "no_native.txt"
        words = f"the compiler said: {said.read_text().strip()}" if said.exists() else "this copy came without it"
        reason = f"the native library is not built ({words}); eager formulas run instead, many times slower"
        warnings.warn(
            f"streammix: {reason}. With a C++20 compiler (GCC 10, Clang 14 or later) install it again;"
            " STREAMMIX_REQUIRE_NATIVE=1 makes an installation without the library fail",
            RuntimeWarning,
            stacklevel=2,
        )
        return Status(False, reason)
    try:
        torch.ops.load_library(str(path))
        native = ctypes.CDLL(str(path))
    except OSError as error:
        return Status(False, f"{path.name} does not load: {error}")
    native.streammix_isa.restype = ctypes.c_char_p
    why = ctypes.c_char_p()
    isa = native.streammix_isa(ctypes.byref(why))
    if isa is None:
        raise RuntimeError(f"streammix: {(why.value or b'').decode()}")
    return Status(True, f"C++ kernels, {isa.decode()}, n <= {LARGEST_N}")


library = load()
