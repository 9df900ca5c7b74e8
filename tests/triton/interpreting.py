"""Puts right what Triton's interpreter does to bfloat16, which it keeps as uint16: it cuts digits off where it should
round, and tl.dot multiplies the bits as integers. Arithmetic on bfloat16 tensors stays wrong: kernels convert first.

Seen in Triton 3.6 and 3.9; TRITON_INTERPRET must be set before Triton is imported.
"""

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def to_float32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(x):
    """To the nearest, ties to even; NaN stays one."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, nearest).astype(np.uint16)


def mend():
    if hasattr(InterpreterBuilder, "mended"):
        return
    InterpreterBuilder.mended = True
    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast_rounding(self, source, kind):
        pair = source.dtype.scalar, kind.scalar
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(to_float32(source.data), tl.float32)
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(to_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, kind)

    def dot_of_numbers(self, a, b, *others):
        a, b = (TensorHandle(to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, a, b, *others)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast_rounding, dot_of_numbers
