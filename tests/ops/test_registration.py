"""Operators as PyTorch sees them: opcheck, torch.func, vmap, torch.compile, torch.export, backends."""

import threading

import pytest
import torch
from operator_samples import samples

import streammix as sm
from streammix.ops.registry import DISPATCHED, EAGER

NAMESPACES = [DISPATCHED, EAGER]


@pytest.mark.parametrize(("dtype", "namespace"), [(torch.float32, DISPATCHED), (torch.float64, EAGER)])
@pytest.mark.parametrize("name", samples())
def test_opcheck(name, dtype, namespace, seed):
    torch.library.opcheck(getattr(getattr(torch.ops, namespace), name).default, samples(dtype)[name])


def test_every_operator_is_checked():
    assert set(vars(sm.ops.registry.operators[DISPATCHED])) == set(samples())


def loss(R):
    return (sm.birkhoff(R) * sm.sinkhorn(R, rounds=3)).square().sum()


def plain_loss(R):
    """The same with many Sinkhorn rounds and nothing but torch."""
    M = T = R.exp()
    for k in range(400):
        T = T / T.sum(-2, keepdim=True)
        T = T / T.sum(-1, keepdim=True)
        if k == 2:
            M = T
    return (T * M).square().sum()


@pytest.mark.filterwarnings("ignore")  # deprecated by torch, and used all the same
def test_a_trace_holds_operators(seed, tmp_path):
    R = torch.randn(2, 4, 4, requires_grad=True)
    traced = torch.jit.trace(lambda r: 2 * sm.birkhoff(r), (R,))
    assert "streammix::birkhoff" in str(traced.graph)
    torch.jit.save(traced, str(tmp_path / "traced.pt"))


@pytest.mark.parametrize("name", ["auto", "eager"])
def test_functional_transforms(name, seed):
    R = torch.randn(3, 3, dtype=torch.float64)
    batch = torch.randn(4, 3, 3, dtype=torch.float64)
    with sm.backend(name):
        torch.testing.assert_close(torch.func.grad(loss)(R), torch.func.grad(plain_loss)(R))
        torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(batch), torch.func.grad(lambda b: loss(b))(batch))
        jacobian = torch.func.jacrev(sm.birkhoff)(R).reshape(9, 9)
        torch.testing.assert_close(jacobian, jacobian.mT)
        hessian = torch.func.jacrev(torch.func.jacrev(loss))(R)
        torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(plain_loss))(R))


def test_vmap(seed):
    R = torch.randn(4, 6, 4)
    torch.testing.assert_close(torch.vmap(sm.birkhoff, in_dims=1)(R), sm.birkhoff(R.movedim(1, 0)))
    x, pre = torch.randn(5, 4, 7), torch.randn(3, 5, 4)
    torch.testing.assert_close(torch.vmap(sm.read, in_dims=(None, 0))(x, pre), sm.read(x.expand(3, 5, 4, 7), pre))
    y, post, res = torch.randn(3, 5, 7), torch.randn(5, 4), torch.randn(5, 4, 4, 3)
    torch.testing.assert_close(
        torch.vmap(sm.write, in_dims=(None, 0, None, -1))(x, y, post, res),
        sm.write(x.expand(3, 5, 4, 7), y, post, res.movedim(-1, 0)),
    )


class Everything(torch.nn.Module):
    def forward(self, x, y, logits):
        H = sm.birkhoff(logits) + sm.sinkhorn(logits, recipe="megatron")
        return sm.read(sm.write(x, y, H[..., 0], H), H[..., 1])


@pytest.mark.parametrize("name", ["auto", "eager"])
def test_compile_and_export(name, seed):
    torch._dynamo.reset()
    model = Everything()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with sm.backend(name):
        for batch in (3, 6, 11):
            inputs = [torch.randn(batch, *s, requires_grad=True) for s in ((4, 8), (8,), (4, 4))]
            grads = torch.autograd.grad(model(*inputs).square().sum(), inputs)
            torch.testing.assert_close(compiled(*inputs), model(*inputs))
            torch.testing.assert_close(torch.autograd.grad(compiled(*inputs).square().sum(), inputs), grads)
        exported = torch.export.export(model, tuple(inputs), dynamic_shapes=[{0: torch.export.Dim.DYNAMIC}] * 3)
        others = [torch.randn(5, *t.shape[1:]) for t in inputs]
        torch.testing.assert_close(exported.module()(*others), model(*others))


def test_backend_choice_is_traced(seed):
    torch._dynamo.reset()
    graphs = []

    def record(graph, inputs):
        graphs.append(str(graph.graph))
        return graph

    compiled = torch.compile(sm.birkhoff, backend=record)
    R = torch.randn(2, 3, 3)
    compiled(R)
    with sm.backend("eager"):
        compiled(R)
    assert f"{EAGER}.birkhoff" in graphs[1]
    assert f"{EAGER}.birkhoff" not in graphs[0]


def test_backward_stays_in_the_backend_of_its_forward(seed, monkeypatch):
    R = torch.randn(2, 3, 3, requires_grad=True)
    with sm.backend("eager"):
        T = sm.birkhoff(R)
    monkeypatch.setattr(sm.ops.registry.operators[DISPATCHED], "birkhoff_backward", None)
    T.square().sum().backward()
    assert R.grad is not None


def test_backend_is_the_threads_own():
    seen = []
    with sm.backend("eager"):
        thread = threading.Thread(target=lambda: seen.append(sm.ops.current() is sm.ops.registry.operators[EAGER]))
        thread.start()
        thread.join()
        assert sm.ops.current() is sm.ops.registry.operators[EAGER]
    assert seen == [False]
    assert sm.ops.current() is sm.ops.registry.operators[DISPATCHED]


def test_unknown_backend_names_those_there_are():
    with pytest.raises(ValueError, match=r"'warp'.*accepted: auto, .*eager"), sm.backend("warp"):
        pass


def test_backends_say_why():
    by_name = {b.name: b for b in sm.backends()}
    assert by_name["eager"].available
    assert all(b.reason for b in by_name.values())
