"""The native CPU backend: loading the library puts its kernels under the operators' CPU dispatch key.

The library holds every instruction set; the CPU chooses, or the environment variable STREAMMIX_ISA (avx512, avx2,
baseline).
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch

LARGEST_N = 64  # larger matrices are left to the eager backend

_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Library:
    """Whether the native library is loaded; `reason` names its instruction set, or says why it is not."""

    loaded: bool
    reason: str


def load() -> Library:
    """Load the library where it was built.

    Raises:
        RuntimeError: STREAMMIX_ISA names an instruction set that is unknown or cannot run here.
    """
    path = next(_PACKAGE.glob("_C*.so"), None)
    if path is None:
        return Library(False, "not built: installing streammix found no torch or no GCC-compatible C++ compiler")
    try:
        torch.ops.load_library(str(path))
        native = ctypes.CDLL(str(path))
    except OSError as error:
        return Library(False, f"{path.name} does not load: {error}")
    native.streammix_isa.restype = ctypes.c_char_p
    why = ctypes.c_char_p()
    isa = native.streammix_isa(ctypes.byref(why))
    if isa is None:
        raise RuntimeError(f"streammix: {(why.value or b'').decode()}")
    return Library(True, f"C++ kernels, {isa.decode()}, n <= {LARGEST_N}")


library = load()
