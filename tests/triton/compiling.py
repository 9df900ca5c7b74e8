"""Compiles kernels without a device and reads what the machine code says; run as a program, without TRITON_INTERPRET:

    python tests/triton/compiling.py sm_90        # one JSON line a kernel

Loops are instructions from a label to the branch back to it, nested ones counted in the outer.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)")


@dataclass
class Compiled:
    """What became of a kernel. Everything from `instructions` on is read on NVIDIA alone.

    straight: instructions outside of loops and of branches that are skipped; loops: of each, those inside it included;
    fused: how many of each loop's are a multiplication and an addition in one.
    """

    name: str
    target: str
    registers: int
    spills: int
    shared: int
    instructions: int = 0
    straight: int = 0
    loops: tuple[int, ...] = ()
    fused: tuple[int, ...] = ()
    shuffles: int = 0
    local: int = 0
    wide_loads: int = 0
    loads: int = 0


def compiled(name, kernel, constants, kinds, target, warps=1, stages=1, **further):
    """kinds: argument name -> Triton's type, where it is not int32 or, for names in _ptr, float32."""
    names = kernel.arg_names

    def kind(argument):
        if argument in constants:
            return "constexpr"
        return kinds.get(argument, "*fp32" if argument.endswith("_ptr") else "i32")

    signature = {argument: kind(argument) for argument in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(names)
        if argument.endswith("_ptr") or argument in ("C", "width")
    }
    constexprs = {(names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True, **further}
    made = triton.compile(source, target=TARGETS[target], options=options)
    if target.startswith("gfx"):
        text = made.asm["amdgcn"]
        value = lambda key: int(re.search(rf"\.{key}:\s+(\d+)", text)[1])  # noqa: E731
        return Compiled(name, target, value("vgpr_count"), value("vgpr_spill_count"), made.metadata.shared)
    assembly, usage = tool("nvdisasm", "-c", made.asm["cubin"]), tool("cuobjdump", "-res-usage", made.asm["cubin"])
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    operations, straight, loops = parts_of(assembly)
    count = lambda *starts: sum(operation.startswith(starts) for operation in operations)  # noqa: E731
    return Compiled(
        name,
        target,
        registers,
        stack,
        made.metadata.shared,
        sum(operation != "NOP" for operation in operations),
        straight,
        tuple(length for length, _ in loops),
        tuple(fused for _, fused in loops),
        count("SHFL"),
        count("LDL", "STL"),
        count("LDG.E.128"),
        count("LDG."),
    )


def tool(name, option, binary):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([TOOLS / name, option, file.name], capture_output=True, text=True, check=True).stdout


def parts_of(assembly):
    """Operations, how many lie outside of every loop and skipped branch, and of each loop its length and how many are
    fused."""
    labels, operations, jumps = {}, [], []
    for line in assembly.splitlines():
        if label := re.match(r"^(\.L_x?_?\w+):", line.strip()):
            labels[label[1]] = len(operations)
        elif operation := INSTRUCTION.search(line):
            operations.append(operation[1])
            if operation[1].startswith("BRA") and (to := re.search(r"`\((\.L_x?_?\w+)\)", line)):
                jumps.append((len(operations), to[1]))
    loops, elsewhere = [], set()
    for after, label in jumps:
        to = labels[label]
        if to < after - 2:
            loops.append((after - to, operations[to:after].count("FFMA")))
            elsewhere |= set(range(to, after))
        elif to > after:
            elsewhere |= set(range(after, to))
    straight = sum(operation != "NOP" for i, operation in enumerate(operations) if i not in elsewhere)
    return operations, straight, sorted(loops)


if __name__ == "__main__":
    from kernels import kernels

    for name, kernel, constants, kinds, warps, stages, options in kernels(sys.argv[1]):
        if len(sys.argv) < 3 or re.search(sys.argv[2], name):
            print(
                json.dumps(asdict(compiled(name, kernel, constants, kinds, sys.argv[1], warps, stages, **options))),
                flush=True,
            )
