"""No path on a device tensor makes the host wait: what would is refused here, on the CPU, through a dispatch mode."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from streammix.ops.triton import launch, launch_sites, launch_streams

WAITING = {
    "_local_scalar_dense": ".item() or bool()",
    "nonzero": "nonzero",
    "masked_select": "a mask",
    "_unique2": "unique",
    "is_nonzero": "bool()",
    "equal": "torch.equal",
}


class NoWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            raise AssertionError(f"{func} waits for the device: {WAITING[name]}")
        if name in ("index", "index_put", "index_put_"):
            for index in args[1]:
                assert index is None or index.dtype not in (torch.bool, torch.uint8), f"{func} waits: a boolean index"
        return func(*args, **(kwargs or {}))


def test_the_mode_sees_them():
    x = torch.randn(3)
    for waits in (
        lambda: x[0].item(),
        lambda: bool(x[0] > 0),
        lambda: x[x > 0],
        lambda: x.nonzero(),
    ):
        with pytest.raises(AssertionError, match="waits"), NoWaits():
            waits()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asked on the CPU")
def test_nothing_waits(seed):
    n, C, tokens = 4, 16, 9
    R, G = torch.randn(tokens, n, n), torch.randn(tokens, n, n)
    R[0] *= 1e4  # a matrix for the tile, too
    x, y, pre, post = torch.randn(tokens, n, C), torch.randn(tokens, C), torch.rand(tokens, n), torch.rand(tokens, n)
    weight, gate, bias = torch.randn(24, n * C), torch.ones(3), torch.randn(24)
    settings, rule = (0.0, 1e-6, 1, 2, 0.0, 1.0, 0.0), (0, 0, False, False, 0.0)
    parameters = weight, gate, bias
    with NoWaits():
        T = launch.birkhoff(R)
        launch.birkhoff_backward(G, T)
        launch.sinkhorn(R, 3, 2, True, 1e-6)
        launch.sinkhorn_backward(G, R, 3, 2, True, 1e-6)
        for five in (torch.randn(3, 5, 5), torch.randn(2, 9, 9)):
            launch.birkhoff_backward(five, launch.birkhoff(five))
        launch_streams.read_backward(y, x, pre)
        launch_streams.read(x, pre)
        launch_streams.write_backward(x, launch_streams.write(x, y, post, T), y, post, T)
        P, r = launch_streams.coefficients(x, weight, 1e-6)
        launch_streams.coefficients_backward(P, x, weight, P, r)
        u, post, mix, P, r = launch_sites.site_read(x, *parameters, *settings)
        launch_sites.site_read_backward(u, post, mix, x, *parameters, P, r, 0.0, *settings[2:])
        state, u, post, H, P, r = launch_sites.write_mixed_site_read(x, y, post, T, *parameters, *settings, *rule)
        gradients = state, u, post, H
        before = x, y, post, T, state, *parameters, H, P, r, 0.0, *settings[2:], *rule
        launch_sites.write_mixed_site_read_backward(*gradients, *before)
        launch_sites.next_site(x, y, post, T, *parameters, *settings, None)
