"""Operators as PyTorch sees them: opcheck, torch.func, vmap, torch.compile, torch.export, backends."""

import functools
import os
import subprocess
import sys
import threading

import pytest
import torch
from operator_samples import samples
from torch.autograd import forward_ad

import streammix as sm
from streammix.ops.registry import DISPATCHED, EAGER

backend_choice = sys.modules["streammix.ops.backend"]  # the package has a function of that name

NAMESPACES = [DISPATCHED, EAGER]


@pytest.mark.parametrize(("dtype", "namespace"), [(torch.float32, DISPATCHED), (torch.float64, EAGER)])
@pytest.mark.parametrize("name", samples())
def test_opcheck(name, dtype, namespace, seed):
    torch.library.opcheck(getattr(getattr(torch.ops, namespace), name).default, samples(dtype)[name])


def test_every_operator_is_checked():
    assert set(vars(sm.ops.registry.operators[DISPATCHED])) == set(samples()) == set(sm.ops.Operators.__annotations__)


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
    seen, x = [], torch.zeros(4, 8)
    in_force = lambda: sm.ops.operators_for(x, 4) is sm.ops.registry.operators[EAGER]  # noqa: E731
    with sm.backend("eager"):
        thread = threading.Thread(target=lambda: seen.append(in_force()))
        thread.start()
        thread.join()
        assert in_force()
    assert seen == [False]
    assert not in_force()


def test_unknown_backend_names_those_there_are():
    with pytest.raises(ValueError, match=r"'warp'.*accepted: auto, .*eager"), sm.backend("warp"):
        pass


def test_backends_say_why():
    by_name = {b.name: b for b in sm.backends()}
    assert by_name["eager"].available
    assert all(b.reason for b in by_name.values())


# --- a backend is one folder and one name ---------------------------------------------------------------------------


class Toy:
    """Serves three streams in float64 on CPUs."""

    NAME, DEVICES, ACCEPTS = "toy", ("cpu",), "n = 3 in float64"
    available = True

    def status(self):
        return sm.ops.status.Status(self.available, "three streams only")

    def serves(self, device, n, dtype):
        return n == 3 and dtype == torch.float64


@pytest.fixture
def toy(monkeypatch):
    made = Toy()
    monkeypatch.setattr(backend_choice, "BACKENDS", (made, sm.ops.eager))
    return made


def test_a_toy_backend_is_found_chosen_and_refused(toy):
    served, declined = torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 5)
    dispatched, eager = (sm.ops.registry.operators[name] for name in (DISPATCHED, EAGER))
    assert sm.ops.operators_for(served, 3) is dispatched
    assert sm.ops.operators_for(declined, 3) is eager
    assert sm.ops.operators_for(served, 4) is eager
    assert sm.ops.operators_for(torch.zeros(3, 5, device="meta"), 3) is dispatched  # whatever is registered there
    assert [b.name for b in sm.backends()] == ["toy", "eager"]
    with sm.backend("toy"):
        assert sm.ops.operators_for(served, 3) is dispatched
        with pytest.raises(RuntimeError, match=r"backend 'toy': got n = 3, torch\.float32 on cpu; accepted: n = 3 in"):
            sm.read(declined, torch.ones(3))
    toy.available = False
    with (
        pytest.raises(RuntimeError, match=r"backend: backend 'toy' cannot run here: three streams only"),
        sm.backend("toy"),
    ):
        pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("eager", "True ('eager',)"),
        ("auto", "False ('cpu', 'eager')"),
        ("", "False ('cpu', 'eager')"),
        ("warp", "ValueError: STREAMMIX_BACKEND: no backend is called 'warp'; accepted: auto, cpu, triton, eager"),
    ],
)
def test_the_environment_sets_the_backend_of_a_process(value, said):
    script = (
        "import torch, streammix as sm; from streammix.ops.registry import EAGER, operators; "
        "print(sm.ops.operators_for(torch.zeros(4, 4), 4) is operators[EAGER], "
        "tuple(b.name for b in sm.backends() if b.chosen))"
    )
    environment = os.environ | {"STREAMMIX_BACKEND": value}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert said in done.stdout + done.stderr


# --- forward mode ---------------------------------------------------------------------------------------------------

WITHOUT = {"next_site", *(name for name in samples() if name.endswith("_backward"))} - {
    "read_backward",
    "write_backward",
}


def differentiable(argument):
    return isinstance(argument, torch.Tensor) and argument.is_floating_point()


def differences(op, arguments, along, step=1e-5):
    """The derivative along tangents, by central differences."""

    def at(scale):
        moved = [a if t is None else a + scale * t for a, t in zip(arguments, along)]
        out = op(*moved)
        return out if isinstance(out, tuple) else (out,)

    return [(plus - minus) / (2 * step) for plus, minus in zip(at(step), at(-step))]


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("name", sorted(set(samples()) - WITHOUT))
def test_forward_mode(name, namespace, seed):
    op = getattr(sm.ops.registry.operators[namespace], name)
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in samples()[name]]
    along = [torch.randn_like(a) if differentiable(a) else None for a in arguments]
    if name == "implicit_sinkhorn":  # whose derivative is that of the limit
        arguments[1] = 2000
    expected = differences(op, arguments, along)
    with forward_ad.dual_level():
        duals = [a if t is None else forward_ad.make_dual(a, t) for a, t in zip(arguments, along)]
        out = op(*duals)
        tangents = [forward_ad.unpack_dual(o).tangent for o in (out if isinstance(out, tuple) else (out,))]
    for tangent, near in zip(tangents, expected):
        torch.testing.assert_close(tangent, near, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_forward_mode_of_torch_func(backend, seed):
    R, x, pre = (torch.randn(*s, dtype=torch.float64) for s in ((3, 3), (3, 5), (3,)))
    with sm.backend(backend):
        torch.testing.assert_close(torch.func.jacfwd(sm.birkhoff)(R), torch.func.jacrev(sm.birkhoff)(R))
        rotate = functools.partial(sm.ops.cayley, n=3)
        torch.testing.assert_close(torch.func.jacfwd(rotate)(pre), torch.func.jacrev(rotate)(pre))
        mixed = torch.func.jacrev(torch.func.jacfwd(sm.birkhoff))(R)
        torch.testing.assert_close(mixed, torch.func.jacrev(torch.func.jacrev(sm.birkhoff))(R))
        with pytest.raises(NotImplementedError, match="forward mode is not implemented here"):
            torch.func.jacfwd(sm.sinkhorn)(R)
        torch.testing.assert_close(torch.func.jacfwd(sm.read)(x, pre), torch.func.jacrev(sm.read)(x, pre))
        with pytest.raises(NotImplementedError, match="forward mode is not implemented here"):
            torch.func.hessian(loss)(R)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_forward_mode_is_refused_aloud(name):
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in samples()[name]]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, a) if differentiable(a) else a for a in arguments]
        with pytest.raises(NotImplementedError, match="forward mode is not implemented here"):
            getattr(sm.ops.registry.operators[DISPATCHED], name)(*duals)


def test_forward_mode_leaves_others_alone(seed):
    """Without a tangent nothing changes, and a graph for the backward pass is still recorded."""
    R = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    with forward_ad.dual_level():
        T = sm.birkhoff(R)
        assert forward_ad.unpack_dual(T).tangent is None
        T.square().sum().backward()
    assert R.grad is not None
