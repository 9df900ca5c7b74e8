"""How much memory a site moves: counted from the accesses of the kernels themselves, in numbers of the streams' type.

An address that a launch reads again, or reads after it wrote there, is taken to be still in the cache.
"""

import numpy as np
import pytest
import torch
from test_stream_kernels import CODES, SETTINGS, Case
from triton.runtime import interpreter

from streammix.ops.triton import launch_sites as ours

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counted in the interpreter")


class Traffic:
    """Bytes read and written by the launches made within."""

    def __init__(self, monkeypatch):
        self.total = 0
        load, store = interpreter._interpreter.load, interpreter._interpreter.store
        launch = interpreter.GridExecutor.__call__

        def counting_load(places, mask, other, dtype):
            self.loads.append((places[np.broadcast_to(mask, places.shape)], np.dtype(dtype).itemsize))
            return load(places, mask, other, dtype)

        def counting_store(places, value, mask):
            self.stores.append((places[np.broadcast_to(mask, places.shape)], value.dtype.itemsize))
            return store(places, value, mask)

        def counting_launch(executor, *args, **kwargs):
            self.loads, self.stores = [], []
            launch(executor, *args, **kwargs)
            for size in (1, 2, 4):
                written, read = (
                    np.unique(np.concatenate([at for at, s in accesses if s == size] or [np.empty(0, np.uint64)]))
                    for accesses in (self.stores, self.loads)
                )
                self.total += size * (len(written) + np.count_nonzero(~np.isin(read, written)))

        monkeypatch.setattr(interpreter._interpreter, "load", counting_load)
        monkeypatch.setattr(interpreter._interpreter, "store", counting_store)
        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counting_launch)


def test_traffic_of_a_site(monkeypatch, seed):
    tokens, n, C = 64, 4, 512
    c = Case(torch.bfloat16, tokens, n, C)
    P, r = c.rows_of(c.state)
    one = 2 * tokens * C  # bytes: C numbers of the streams' type a token
    # phi is read from memory once for all tokens, and a token's small numbers do not grow with C
    small = 4 * (len(c.weight) * n * C) + 4 * 260 * tokens

    traffic = Traffic(monkeypatch)
    ours.write_site_read(c.x, c.y, c.post, c.res, c.weight, c.gate, c.bias, *SETTINGS)
    assert 14 * one < traffic.total <= 14 * one + small, (traffic.total - small) / one

    traffic.total = 0
    ours.write_site_read_backward(
        *(
            c.dstate,
            c.du,
            c.dpost,
            c.dmix,
            c.x,
            c.y,
            c.post,
            c.res,
            c.state,
            c.weight,
            c.gate,
            c.bias,
            P,
            r,
            0.3,
            *CODES,
        )
    )
    assert 24 * one < traffic.total <= 24 * one + 3 * small, (traffic.total - small) / one

    rule = (0, 0, False, False, 0.0)
    traffic.total = 0
    ours.write_carried_site(c.x, c.y, c.post, c.res, c.pre, c.weight, c.gate, c.bias, *SETTINGS, *rule)
    assert 10 * one < traffic.total <= 10 * one + small, (traffic.total - small) / one
