"""Every kernel with the constants it is launched with."""

import re

import torch

from streammix.ops.triton import (
    birkhoff,
    birkhoff_tile,
    launch,
    launch_sites,
    launch_streams,
    sinkhorn,
    site,
    site_backward,
)


def kernels(target):
    """(name, kernel, constants, kinds of arguments, warps, stages, further options)"""
    for made in _kernels(target):
        name = made[0]
        if target != "sm_90" and "tile" not in name and re.search("[2356]$", name):
            continue  # elsewhere the same kernels for n = 4 must do: each takes seconds
        limit = launch.REGISTERS if name in ("birkhoff 3", "birkhoff 4") else {}
        limit = launch_sites.REGISTERS if (name, target) == ("write + read backward", "sm_90") else limit
        yield *made, {} if target.startswith("gfx") else limit


def _kernels(target):
    hip = target.startswith("gfx")
    thread = {"BLOCK": 64 if hip else 32, "FAST": not hip}
    kinds = {"hard_ptr": "*i8", "small": "fp32", "eps": "fp32"}
    floats = (
        "tile_small",
        "mix_gate",
        "norm_eps",
        "read_eps",
        "write_multiplier",
        "write_eps",
        "small",
        "sinkhorn_eps",
    )
    streams = ("x", "y", "out", "state", "u", "dstate", "du", "dx", "dy", "g")
    for n in (2, 3, 4, 5, 6):
        yield f"birkhoff {n}", birkhoff.forward_kernel, {"n": n, **thread}, kinds, 1, 1
        yield f"birkhoff_backward {n}", birkhoff.backward_kernel, {"n": n, **thread}, kinds, 1, 1
    for n, B in ((16, 1),):
        yield f"birkhoff tile {n}", birkhoff_tile.forward_kernel, {"n": n, "P": n, "B": B}, kinds, 1, 1
        yield f"birkhoff_backward tile {n}", birkhoff_tile.backward_kernel, {"n": n, "P": n, "B": B}, kinds, 1, 1
    left = {"n": 4, "P": 4, "B": 8, "BLOCK": thread["BLOCK"], "SPAN": 32}
    yield "birkhoff left 4", birkhoff_tile.forward_left_kernel, left, kinds, 1, 1
    left = {"n": 6, "P": 8, "B": 4, "BLOCK": thread["BLOCK"], "SPAN": 32}
    yield "birkhoff left 6", birkhoff_tile.forward_left_kernel, left, kinds, 1, 1
    yield "birkhoff_backward left 6", birkhoff_tile.backward_left_kernel, left, kinds, 1, 1
    for start, name in enumerate(("log", "exp", "softmax")):
        rule = {"START": start, "ROWS": True, "n": 4}
        yield f"sinkhorn {name} 4", sinkhorn.forward_kernel, rule | thread, kinds, 1, 1
        yield f"sinkhorn_backward {name} 4", sinkhorn.backward_kernel, rule | thread, kinds, 1, 1
    rule = {"START": 2, "ROWS": True, "n": 6}
    yield "sinkhorn softmax 6", sinkhorn.forward_kernel, rule | thread, kinds, 1, 1
    tile = {"START": 2, "ROWS": True, "n": 16, "P": 16, "B": 1}
    yield "sinkhorn tile 16", sinkhorn.forward_tile_kernel, tile, kinds, 1, 1
    yield "sinkhorn_backward tile 16", sinkhorn.backward_tile_kernel, tile, kinds, 1, 1

    kinds = (
        kinds | dict.fromkeys(floats, "fp32") | {f"{name}_ptr": "*bf16" for name in streams} | {"counters_ptr": "*i32"}
    )
    precision = "ieee" if hip else "tf32x3"
    shape = {"n": 4, "ROWS": 24, "WIDE": 32}
    split = {"SPLIT": True, "PRECISION": precision}
    stages = 3 if target in ("sm_90", "sm_100") else 2
    for name, write, project, read in (
        ("write + coefficients", True, True, False),
        ("coefficients", False, True, False),
        ("write", True, False, False),
        ("write + coefficients + carried read", True, True, True),
    ):
        flags = {"WRITE": write, "PROJECT": project, "READ": read, "TT": 32, "BC": 32}
        yield name, site.write_project_kernel, shape | split | flags, kinds, 4, stages
    made = launch_streams.tile_of_pass1(torch.empty(32, 8, 4096, dtype=torch.bfloat16, device="meta"), 128)
    warps, pipelined, _ = (made.pop(option) for option in ("num_warps", "num_stages", "enable_fp_fusion"))
    flags = {"n": 8, "ROWS": 80, "WIDE": 128, "WRITE": True, "PROJECT": True, "READ": False} | split | made
    yield "write + coefficients 8", site.write_project_kernel, flags, kinds, warps, pipelined
    for kind, short in (("*fp32", "float32"), ("*fp16", "float16")):
        other = kinds | {key: kind for key, value in kinds.items() if value == "*bf16"}
        flags = {"WRITE": True, "PROJECT": True, "READ": False, "TT": 16, "BC": 32, "SPLIT": False}
        flags = shape | flags | {"PRECISION": precision}
        yield f"write + coefficients, {short}", site.write_project_kernel, flags, other, 4, 2
    codes = {"GATES": 3, "READ_CODE": 1, "WRITE_CODE": 2, "FAST": not hip}
    tile = codes | {"TT": 16, "BC": 128, "READ": True}
    epilogue = tile | {"START": 2, "COLUMNS_LAST": True, "TRANSPOSED": True, "LOGITS": True}
    for name, mixing in (("", 0), (" + projection", 1), (" + sinkhorn", 2)):
        yield f"read{name}", site.read_kernel, shape | epilogue | {"MIXING": mixing}, kinds, 4, 1
    for name, projected in (("", False), (" + projection", True)):
        flags = shape | tile | {"PROJECTED": projected}
        yield f"read backward{name}", site_backward.logits_backward_kernel, flags, kinds, 4, 1
    flags = shape | codes | split | {"TT": 16, "BC": 32, "READ_BC": 128}
    yield "next site", site.next_site_kernel, flags, kinds, 8, 2
    flags = {"READ": True, "TT": 32, "BC": 64, "PRECISION": precision}
    yield "state gradient", site_backward.state_gradient_kernel, shape | flags, kinds, 4, 1
    flags = {"n": 4, "WIDE": 32, "TT": 16, "BC": 64}
    yield "write backward", site_backward.write_backward_kernel, flags, kinds, 4, 1
    flags = flags | {"DSTATE": True, "CARRIED": False, "ROWS": 24, "PHI": 32, "PRECISION": "ieee" if hip else "tf32"}
    yield "write + read backward", site_backward.write_read_backward_kernel, flags, kinds, 4, 1
    flags = {"ROWS": 24, "WIDE": 32, "TT": 64, "BC": 64} | split
    yield "weight gradient", site_backward.weight_backward_kernel, flags, kinds, 4, stages
