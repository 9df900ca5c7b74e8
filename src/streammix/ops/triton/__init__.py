"""The Triton backend: kernels for NVIDIA and AMD GPUs, under the operators' CUDA dispatch key, which ROCm shares.

    registers.py, birkhoff.py               the projection, n <= 6: a matrix a thread
    tiles.py, levels.py, birkhoff_tile.py   the same for n <= 16, and for what is too rare for registers
    sinkhorn.py                             truncated Sinkhorn, by all rules
    channels.py, site.py, site_backward.py  what lies between two branches
    launch*.py                              from the operators' arguments to grids

Importing this registers the kernels and imports no Triton: that happens when the first one runs. Triton comes with
PyTorch's builds for CUDA and ROCm.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from ..status import Status

NAME = "triton"
DEVICES = ("cuda",)
LARGEST_N = 16
ACCEPTS = f"n <= {LARGEST_N} (more than 8 streams by plain formulas), float32, float16 and bfloat16, sm_80 or later"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Operator -> the file with its launch function.
KERNELS = {
    "birkhoff": "launch",
    "birkhoff_backward": "launch",
    "sinkhorn": "launch",
    "sinkhorn_backward": "launch",
    "implicit_sinkhorn": "launch",
    "read": "launch_streams",
    "read_backward": "launch_streams",
    "write": "launch_streams",
    "write_backward": "launch_streams",
    "coefficients": "launch_streams",
    "coefficients_backward": "launch_streams",
    "site_read": "launch_sites",
    "site_read_backward": "launch_sites",
    "write_site_read": "launch_sites",
    "write_site_read_backward": "launch_sites",
    "mixed_site_read": "launch_sites",
    "mixed_site_read_backward": "launch_sites",
    "write_mixed_site_read": "launch_sites",
    "write_mixed_site_read_backward": "launch_sites",
    "write_carried_site": "launch_sites",
    "write_carried_site_backward": "launch_sites",
    "next_site": "launch_sites",
    "rows_site_read": "launch_rows",
    "rows_site_read_backward": "launch_rows",
}
_installed = find_spec("triton") is not None


def status() -> Status:
    """Whether there is a device for it, and Triton; the reason names the device, or says what is missing."""
    if not torch.cuda.is_available():
        return Status(False, "no CUDA or ROCm device is available")
    if not _installed:
        return Status(False, "Triton is not installed: pip install triton")
    if not _recent(torch.cuda.current_device()):
        major, minor = torch.cuda.get_device_capability()
        return Status(False, f"the device is sm_{major}{minor}; kernels are for sm_80 and later")
    return Status(True, f"Triton kernels on {torch.cuda.get_device_name()}, {ACCEPTS}")


@cache
def _recent(index: int) -> bool:
    """Whether tensor cores of the device know bfloat16: NVIDIA's since sm_80, and AMD's."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(index) >= (8, 0)


def serves(device: str, n: int, dtype: torch.dtype) -> bool:
    """Whether it takes matrices of n rows, or n streams, of this dtype on this type of device."""
    fits = _installed and device == "cuda" and n <= LARGEST_N and dtype in DTYPES
    return fits and (not torch.cuda.is_available() or _recent(torch.cuda.current_device()))


def mixes(n: int) -> bool:
    """Whether a site's matrix of n rows is made in the kernel of its logits."""
    return 2 <= n <= 4


def _launched(name: str, file: str) -> Callable[..., Any]:
    function: Callable[..., Any] | None = None

    def kernel(*args: Any) -> Any:
        nonlocal function
        if function is None:
            from importlib import import_module

            function = getattr(import_module(f".{file}", __name__), name)
        with torch._C._DisableAutocast():  # it would reach into what plain formulas do
            return function(*args)

    return kernel


if _installed:
    _library = torch.library.Library("streammix", "IMPL")
    for _name, _file in KERNELS.items():
        _library.impl(_name, _launched(_name, _file), "CUDA")
