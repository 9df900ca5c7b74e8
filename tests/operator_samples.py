"""Arguments for every operator."""

import torch

import streammix as sm
from streammix.ops.sinkhorn_rules import RECIPES, rule_of

EXACT = (
    0,
    0,
    False,
    False,
    0.0,
)  # the mix as mixed operators take it: rounds, start, columns_last, transposed, tol or eps
SINKHORN = (3, *RECIPES["deepseek-v4"].numbers[:2], True, 1e-6)


def samples(dtype=torch.float64):
    """Operator name -> arguments, every tensor requiring grad where the operator has a derivative."""
    make = lambda *shape: torch.randn(*shape, dtype=dtype, requires_grad=True)  # noqa: E731
    T = sm.birkhoff(torch.randn(2, 3, 4, 4, dtype=dtype)).requires_grad_()
    marginals = [torch.rand(2, 3, k, dtype=dtype).add(0.1) for k in (5, 4)]
    marginals = [30 * t / t.sum(-1, keepdim=True) for t in marginals]
    plan = sm.transport(torch.randn(2, 3, 5, 4, dtype=dtype), *marginals).requires_grad_()
    x, y, pre, post, res = make(5, 4, 3), make(5, 3), make(5, 4), make(5, 4), make(5, 4, 4)
    weight, gate, bias, P, r = make(24, 12), make(3), make(24), make(5, 24), make(5)
    mix, of_rows = make(5, 16), (make(6, 3), make(6), make(4, 6))
    sparse = (make(5, 2, 3), make(5, 2, 2), make(5, 2, 2))
    index = torch.tensor([[0, 3], [1, 2], [0, 1], [2, 3], [0, 2]])
    codes = (1, 2, 1e-3, 1.5, 1e-2)  # sigmoid, twice sigmoid, eps of the reads, multiplier and eps of the writes
    settings = (0.0, 1e-6, *codes)  # frozen gate, norm eps
    return {
        "birkhoff": (make(2, 3, 4, 4), None),
        "birkhoff_backward": (make(2, 3, 4, 4), T),
        "sinkhorn": (make(2, 3, 4, 4), 5, *RECIPES["deepseek-v4"].numbers),
        "sinkhorn_backward": (make(2, 3, 4, 4), make(2, 3, 4, 4), 5, *rule_of("megatron", 1e-3).numbers),
        "implicit_sinkhorn": (make(2, 3, 4, 4), 5),
        "cayley": (make(2, 3, 6), 4),
        "cayley_backward": (make(2, 3, 4, 4), make(2, 3, 4, 4)),
        "chart": (make(2, 3, 9), 4, False, True),
        "chart_backward": (make(2, 3, 4, 4), make(2, 3, 9), 4, True, False),
        "transport": (make(2, 3, 5, 4), *(t.requires_grad_() for t in marginals)),
        "transport_backward": (make(2, 3, 5, 4), plan),
        "read": (x, pre, -2),
        "read_backward": (y, x, pre, -2),
        "write": (x, y, post, res, -2),
        "write_backward": (make(5, 4, 3), x, y, post, res, -2),
        "sparse_read": (x, pre, index),
        "sparse_read_backward": (y, make(5, 2, 3), x, pre, index),
        "sparse_write": (x, *sparse, index),
        "sparse_write_backward": (make(5, 4, 3), x, *sparse, index),
        "temporal_basis": (make(2, 7, 5), make(2, 3, 5), 6),
        "temporal_basis_backward": (make(2, 6, 3, 5), make(2, 7, 5), make(2, 3, 5), 6),
        "coefficients": (x, weight, 1e-6),
        "coefficients_backward": (make(5, 24), x, weight, P, r),
        "site_read": (x, weight, gate, bias, *settings),
        "site_read_backward": (y, post, mix, x, weight, gate, bias, P, r, 0.0, *codes),
        "write_site_read": (x, y, post, res, weight, gate, bias, *settings),
        "write_site_read_backward": (
            *(make(5, 4, 3), y, post, mix, x, y, post, res, make(5, 4, 3)),
            *(weight, gate, bias, P, r, 0.0, *codes),
        ),
        "mixed_site_read": (x, weight, gate, bias, *settings, *EXACT),
        "mixed_site_read_backward": (
            y,
            post,
            res,
            x,
            weight,
            gate,
            bias,
            T[0, :1].expand(5, 4, 4).clone().detach().requires_grad_(),
            P,
            r,
            0.0,
            *codes,
            *EXACT,
        ),
        "write_mixed_site_read": (x, y, post, res, weight, gate, bias, *settings, *SINKHORN),
        "write_mixed_site_read_backward": (
            *(make(5, 4, 3), y, post, res, x, y, post, res, make(5, 4, 3)),
            *(weight, gate, bias, make(5, 4, 4), P, r, 0.0, *codes, *SINKHORN),
        ),
        "write_carried_site": (x, y, post, res, pre, weight, gate, bias, *settings, *SINKHORN),
        "write_carried_site_backward": (
            *(make(5, 4, 3), y, pre, post, res, x, y, post, res, pre, make(5, 4, 3)),
            *(weight, gate, bias, make(5, 4, 4), P, r, 0.0, *codes, *SINKHORN),
        ),
        "rows_site_read": (x, *of_rows, 1e-6, True, *codes, -2),
        "rows_site_read_backward": (y, post, res, x, *of_rows, make(5, 4, 6), make(5, 4), True, *codes, -2),
        "next_site": (
            *(t.detach() for t in (x, y, post, T[0, :1].expand(5, 4, 4), weight, gate, bias)),
            *(*settings, None),
        ),
    }
