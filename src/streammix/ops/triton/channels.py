"""What the kernels on streams share: tiles of TT tokens by BC channels, and small numbers of a token taken out of
tiles.

Small numbers come as columns of a tile that was loaded whole, never by loads of their own: Triton would carry out all
that is made of loads alone a second time, in the layout of tl.dot's operand, and spill.
"""

import triton
import triton.language as tl


@triton.jit
def column(x, c: tl.constexpr):
    """(TT, W) -> (TT,)"""
    return tl.sum(tl.where(tl.arange(0, x.shape[1])[None, :] == c, x, 0.0), 1)


@triton.jit
def columns(ptr, t, there, count: tl.constexpr, WIDE: tl.constexpr):
    """`count` float32 tensors (TT, 1) of ptr (tokens, count); WIDE: the power of two from count on."""
    k = tl.arange(0, WIDE)
    mask = there[:, None] & (k < count)[None, :]
    tile = tl.load(ptr + t[:, None] * count + k[None, :], mask=mask, other=0.0).to(tl.float32)
    out = ()
    for c in tl.static_range(count):
        out = out + (column(tile, c)[:, None],)
    return out


@triton.jit
def by_eights(x):
    """(TT, BC) -> (TT, BC / 8): a thread's own numbers, where it loads 16 bytes at a time; the rest is added up
    last."""
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // 8, 8)), 2)


@triton.jit
def zeros(count: tl.constexpr, TT: tl.constexpr, W: tl.constexpr):
    out = ()
    for _ in tl.static_range(count):
        out = out + (tl.zeros((TT, W), tl.float32),)
    return out


@triton.jit
def slice_of(C, BC: tl.constexpr):
    """The first and the last but one block of BC channels of this program's slice, axis 1 of the grid."""
    blocks = tl.cdiv(C, BC)
    each = tl.cdiv(blocks, tl.num_programs(1))
    first = tl.program_id(1) * each
    return first, tl.minimum(first + each, blocks)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b in float32."""
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def product(v, w, acc, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + v w in float32. SPLIT: v is bfloat16, which is exact, and w becomes two such numbers side by side, good to
    2^-18; acc is then twice as wide."""
    if SPLIT:
        high = w.to(tl.bfloat16)
        low = (w - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(v, tl.reshape(tl.join(high, low), (w.shape[0], 2 * w.shape[1])), acc)
    else:
        return tl.dot(v.to(tl.float32), w, acc, input_precision=PRECISION)


@triton.jit
def joined(acc, SPLIT: tl.constexpr):
    """The sum of `product`'s two halves."""
    if SPLIT:
        high, low = tl.split(tl.reshape(acc, (acc.shape[0], acc.shape[1] // 2, 2)))
        return high + low
    else:
        return acc


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def activated(x, CODE: tl.constexpr):
    """CODE: 0 linear, 1 sigmoid, 2 twice the sigmoid."""
    if CODE == 0:
        return x
    else:
        return sigmoid(x) * CODE


@triton.jit
def slope(x, CODE: tl.constexpr):
    """The derivative of `activated`."""
    if CODE == 0:
        return x * 0.0 + 1.0
    else:
        s = sigmoid(x)
        return s * (1.0 - s) * CODE


@triton.jit
def gates(gate_ptr, mix_gate, k, n: tl.constexpr, GATES: tl.constexpr):
    """The gate of each logit k: of the reads, the writes and the mix; the last is `mix_gate` where only two are
    learned."""
    group = tl.minimum(k // n, 2)
    gate = tl.load(gate_ptr + tl.minimum(group, GATES - 1)).to(tl.float32)
    return tl.where(group < GATES, gate, mix_gate)
