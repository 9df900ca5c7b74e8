"""The levels of the homotopy on tiles: T of logits R / 2^k, and the potentials that lead from one level to the next; as
eager/levels.py, where the reasons are."""

import triton
import triton.language as tl

from .tiles import column, connected, lane, picked

UNIT = tl.constexpr(256.0)  # potentials enter sums in these units, so that none overflows
MANY = tl.constexpr(65536.0)
LEAST = tl.constexpr(-3.4028234663852886e38)
LOG2E = tl.constexpr(1.4426950408889634)
LN2_HIGH = tl.constexpr(0.693359375)  # 9 bits: its products with |k| < 2^15 are exact
LN2_LOW = tl.constexpr(-2.1219444005469057e-4)


@triton.jit
def two_sum(a, b):
    """a + b, rounded, and the error (Knuth, TAOCP 2, 4.2.2)."""
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)


@triton.jit
def add(a0, a1, a2, b):
    """Threefold a + b."""
    s0, e0 = two_sum(a0, b)
    s1, e1 = two_sum(a1, e0)
    s1, e2 = two_sum(s1, a2 + e1)
    s0, s1 = two_sum(s0, s1)
    s1, e2 = two_sum(s1, e2)
    return s0, s1, e2


@triton.jit
def power_of_two(e):
    """2^e, -126 <= e <= 127."""
    return ((e + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exp_of_units(x, error):
    """e^(UNIT (x + error)), x <= 0, and zero where that is not normal: by 2^k e^r, so that no digit of a large x is
    lost."""
    nothing = x < -87.0 / UNIT
    scaled = tl.where(nothing, 0.0, x) * UNIT
    k = tl.floor(scaled * LOG2E + 0.5)
    r = ((scaled - k * LN2_HIGH) - k * LN2_LOW) + tl.where(nothing, 0.0, error) * UNIT
    return tl.where(nothing, 0.0, tl.exp2(r * LOG2E) * power_of_two(tl.maximum(k, -126.0).to(tl.int32)))


@triton.jit
def matrix(R, k, b0, b1, b2, inside):
    """row-softmax(R / 2^k + UNIT b). R (B, P, P), k (B,), b of (B, P). Only differences are rounded."""
    masked = (-float("inf") == R) | (inside == 0)
    # in two steps, because 2^-k may be below the normal range
    half = k // 2
    scaled = tl.where(masked, 0.0, R) * (1.0 / UNIT) * power_of_two(-half)[:, None, None]
    scaled *= power_of_two(half - k)[:, None, None]
    x0, x1, x2 = add(
        b0[:, None, :] + scaled * 0.0, b1[:, None, :] + scaled * 0.0, b2[:, None, :] + scaled * 0.0, scaled
    )
    x0 = tl.where(masked, LEAST, x0)
    # the greatest by the first part, of those equal in it by the second, and so on
    top = tl.max(x0, 2)[:, :, None]
    second = tl.max(tl.where(x0 < top, LEAST, x1), 2)[:, :, None]
    third = tl.max(tl.where((x0 < top) | (x1 < second), LEAST, x2), 2)[:, :, None]
    x0, x1, x2 = add(x0, x1, x2, -top)
    x0, x1, x2 = add(x0, x1, x2, -second)
    x0, x1, x2 = add(x0, x1, x2, -third)
    below, error = two_sum(x0, x1)
    T = tl.where(masked, 0.0, exp_of_units(below, error))
    total = tl.sum(T, 2)
    return T * tl.where(total > 0.0, 1.0 / total, 0.0)[:, :, None]


@triton.jit
def doubled(b0, b1, b2, coupled, n: tl.constexpr):
    """The potentials for the level below. coupled (B, P, P) of 0 and 1: columns that T couples."""
    P: tl.constexpr = b0.shape[1]
    reach = connected(coupled, n)
    first = tl.min(tl.where(reach != 0, column(P), P - 1), 2)
    first = tl.where(lane(P) < n, first, lane(P))
    large = tl.abs(picked(b0, first)) > MANY
    rest1, rest2 = tl.where(large, picked(b1, first), 0.0), tl.where(large, picked(b2, first), 0.0)
    b0, b1, b2 = add(b0, b1, b2, -rest1)
    b0, b1, b2 = add(b0, b1, b2, -rest2)
    return 2.0 * b0, 2.0 * b1, 2.0 * b2
