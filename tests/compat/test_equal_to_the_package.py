"""streammix.compat.hyper_connections against the installed package: the same numbers for the same parameters."""

import copy
import inspect
import itertools

import pytest
import torch
from package_pairs import assert_equal, called, modules, pair
from torch import nn

S, D = 4, 24
V1, V2 = "manifold_constrained_hyper_connections", "mHCv2"


def branch(dim: int = D) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Tanh())


def shape(name: str, streams: int, dim: int, *middle: int) -> tuple[int, ...]:
    return (2, *middle, streams, dim) if name == V2 else (2 * streams, *middle, dim)


#: class options that the package computes rightly, of each module
PLAIN = [
    {},
    {"tanh": False},
    {"num_input_views": 2},
    {"num_input_views": 3, "tanh": False},
    {"add_branch_out_to_residual": False},
    {"layer_index": 5},
]
CONSTRAINED = [
    {},
    {"sinkhorn_iters": 3},
    {"log_domain_sinkhorn": True},
    {"num_dynamic_alpha_proposals": 3},
    {"add_branch_out_to_residual": False},
    {"residual_mix_constraint_fn": lambda logits: logits.softmax(-1)},
    {"num_dynamic_alpha_proposals": 2, "residual_mix_constraint_fn": torch.tanh},
]
SECOND = [
    *CONSTRAINED,
    {"sinkhorn_iters": 0},
    {"mix_streams_before_norm": True},
    {"use_triton_sinkhorn": True},
    {"num_fracs": 3},
    {"num_fracs": 4, "mix_streams_before_norm": True, "num_dynamic_alpha_proposals": 2},
]
CASES = [
    *(("hyper_connections", "HyperConnections", options) for options in PLAIN),
    *((V1, "mHC", options) for options in CONSTRAINED),
    *((V2, "mHC", options) for options in SECOND),
]


def case_id(value):
    return " ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in value.items()) if isinstance(value, dict) else value


@pytest.mark.parametrize("streams", [1, 2, S])
@pytest.mark.parametrize(("name", "cls", "options"), CASES, ids=case_id)
def test_as_a_pair(name, cls, options, streams, seed):
    """(input, add_residual): the branch's input, and the residuals after an output that does not depend on it."""
    theirs, ours = pair(lambda m: getattr(m, cls)(streams, dim=D, **options), name)

    def run(module, x):
        u, add_residual = module(x)
        return u, add_residual((u if u.shape[-2:] == (5, D) and u.ndim == 3 else u[0]).sin())

    assert_equal(theirs, ours, run, *shape(name, streams, D, 5))


@pytest.mark.parametrize(("name", "cls"), [("hyper_connections", "HyperConnections"), (V1, "mHC"), (V2, "mHC")])
def test_around_a_branch_and_as_a_decorator(name, cls, seed):
    theirs, ours = pair(lambda m: getattr(m, cls)(S, dim=D, branch=branch(), layer_index=1), name)
    assert_equal(theirs, ours, called, *shape(name, S, D, 5))
    theirs, ours = pair(lambda m: getattr(m, cls)(S, dim=D, layer_index=1), name)

    def decorated(module, x):
        return module.decorate_branch(lambda u, scale, shift: u.sin() * scale + shift)(x, 2.0, shift=0.5)

    assert_equal(theirs, ours, decorated, *shape(name, S, D, 5))


@pytest.mark.parametrize("middle", [(), (5,), (2, 3)])
@pytest.mark.parametrize(("name", "cls"), [("hyper_connections", "HyperConnections"), (V1, "mHC"), (V2, "mHC")])
def test_any_number_of_dimensions(name, cls, middle, seed):
    theirs, ours = pair(lambda m: getattr(m, cls)(S, dim=D, branch=branch()), name)
    assert_equal(theirs, ours, called, *shape(name, S, D, *middle))


@pytest.mark.parametrize("num_fracs", [2, 4])
@pytest.mark.parametrize("views", [1, 2])
def test_fractions_as_the_package_has_them(num_fracs, views, seed):
    """Streams and fractions together, as far as the package goes."""
    theirs_module, ours_module = modules("hyper_connections")
    options = {"dim": D, "num_fracs": num_fracs, "num_input_views": views, "layer_index": 1}
    torch.testing.assert_close(
        ours_module.HyperConnections(2, **options, package_fracs=True).static_alpha,
        theirs_module.HyperConnections(2, **options).static_alpha,
    )

    def make(m):
        return m.HyperConnections(2, **options, **({"package_fracs": True} if m is ours_module else {}))

    def run(module, x):
        u, add_residual = module(x)
        return u, add_residual((u if views == 1 else u[0]).sin())

    assert_equal(*pair(make, "hyper_connections"), run, *shape("", 2, D, 5))


@pytest.mark.parametrize("log_domain", [False, True])
@pytest.mark.parametrize("num_fracs", [2, 4])
def test_fractions_as_the_package_has_them_in_mhc(num_fracs, log_domain, seed):
    _, ours_module = modules(V1)

    def make(m):
        extra = {"package_fracs": True} if m is ours_module else {}
        return m.mHC(2, dim=D, num_fracs=num_fracs, branch=branch(), log_domain_sinkhorn=log_domain, **extra)

    assert_equal(*pair(make, V1), called, *shape(V1, 2, D, 5))


@pytest.mark.parametrize("options", [{}, {"tanh": False}, {"layer_index": 2}], ids=case_id)
def test_channel_first_by_convolutions(options, seed):
    make = lambda m: m.HyperConnections(S, dim=D, branch=nn.Conv2d(D, D, 3, padding=1), **options)  # noqa: E731
    assert_equal(*pair(make, "hyper_connections_channel_first"), called, 2 * S, D, 4, 3)


@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize(("inputs", "branches"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_several_branches(inputs, branches, channel_first, seed):
    def make(m):
        made = [nn.Conv2d(D, D, 1) if channel_first else branch() for _ in range(branches)]
        return m.HyperConnections(
            S, dim=D, branch=made, num_branch_inputs=inputs, channel_first=channel_first, layer_index=3
        )

    name = "hyper_connections_with_multi_branch_inputs"
    assert_equal(*pair(make, name), called, *((2 * S, D, 4, 3) if channel_first else (2 * S, 5, D)))
    theirs, ours = pair(lambda m: m.HyperConnections(S, dim=D, num_branch_inputs=inputs), name)
    functions = [torch.sin, torch.cos, torch.tanh, torch.relu][:branches]
    decorated = lambda module, x: module.decorate_branch(functions)(x)  # noqa: E731
    assert_equal(theirs, ours, decorated, 2 * S, 5, D)


def test_starts_of_several_inputs():
    theirs, ours = modules("hyper_connections_with_multi_branch_inputs")
    for s, i, k in itertools.product((2, 4), (1, 2, 3), range(5)):
        made = [m.HyperConnections(s, dim=8, num_branch_inputs=i, layer_index=k).static_alpha for m in (theirs, ours)]
        torch.testing.assert_close(*made)


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(D, D), nn.Linear(16, D)

    def forward(self, x, scale, context, mask=None):
        return self.q(x).sin() * scale + self.k(context).mean(-2, keepdim=True), mask


@pytest.mark.parametrize("tanh", [True, False])
@pytest.mark.parametrize("by_name", [False, True])
def test_several_input_streams(by_name, tanh, seed):
    name, path = "hyper_connections_with_multi_input_streams", "context" if by_name else 2
    context = torch.randn(2 * S, 3, 16)

    def run(module, x):
        return module(x, 2.0, context=context)[0] if by_name else module(x, 2.0, context)[0]

    def make(m):
        return m.HyperConnections(
            S, dim=D, additional_input_paths=[(path, 16)], branch=Cross(), tanh=tanh, layer_index=1
        )

    assert_equal(*pair(make, name), run, 2 * S, 5, D)


@pytest.mark.parametrize("name", ["", V1, V2])
def test_ends(name, seed):
    theirs, ours = modules(name)
    state = torch.randn(2, 5, D)
    for options in ({}, {"add_stream_embed": True, "dim": D}):
        made = [m.get_expand_reduce_stream_functions(S, **options) for m in (theirs, ours)]
        for (_, p), (_, q) in zip(made[0][0].named_parameters(), made[1][0].named_parameters(), strict=True):
            with torch.no_grad():
                q.copy_(p.normal_())
        expanded = [expand(state) for expand, _ in made]
        torch.testing.assert_close(*expanded)
        torch.testing.assert_close(*(reduce(x) for x, (_, reduce) in zip(expanded, made)))


@pytest.mark.parametrize("name", ["", V2])
def test_attention_pooling_and_embeddings(name, seed):
    size = shape(name, S, D, 5)
    args = (D,) if name == V2 else (S, D)
    assert_equal(*pair(lambda m: m.AttentionPoolReduceStream(*args), name), called, *size)
    assert_equal(*pair(lambda m: m.StreamEmbed(S, D), name), called, *size)
    if name != V2:
        images = 2 * S, D, 3, 4
        assert_equal(*pair(lambda m: m.AttentionPoolReduceStream(*args, channel_first=True), name), called, *images)


RESIDUALS = [
    ("GRUGatedResidual", (D,), {}),
    ("GatedResidual", (D,), {}),
    ("GatedResidual", (D,), {"fine_gate": True}),
    ("OrthogonalResidualUpdate", (), {"double_precision": False}),
    ("MVSplitResidualUpdate", (D,), {}),
]


@pytest.mark.parametrize(("cls", "args", "options"), RESIDUALS, ids=str)
def test_residual_functions(cls, args, options, seed):
    theirs, ours = pair(lambda m: getattr(m, cls)(*args, **options), "residuals")
    residual = torch.randn(2, 5, D)
    assert_equal(theirs, ours, lambda module, x: module(x, residual), 2, 5, D)


@pytest.mark.parametrize("name", ["hyper_connections", V1, V2])
def test_custom_residual_functions_and_transforms(name, seed):
    cls = "HyperConnections" if name == "hyper_connections" else "mHC"

    def make(m):
        transform = {} if cls == "HyperConnections" else {"residual_transform": nn.Linear(D, D)}
        fn = lambda output, residuals: output * 0.5 + residuals.tanh()  # noqa: E731
        return getattr(m, cls)(S, dim=D, branch=branch(), depth_residual_fn=fn, **transform)

    assert_equal(*pair(make, name), called, *shape(name, S, D, 5))


@pytest.mark.parametrize("name", ["hyper_connections", V1, V2])
def test_the_halves_by_themselves(name, seed):
    """width_connection and depth_connection; only beta's layout is ours."""
    cls = "HyperConnections" if name == "hyper_connections" else "mHC"
    theirs, ours = pair(lambda m: getattr(m, cls)(S, dim=D), name)

    def run(module, x):
        u, mixed, more = module.width_connection(x)
        return u, mixed, module.depth_connection(u.sin(), mixed, **more)

    assert_equal(theirs, ours, run, *shape(name, S, D, 5))


@pytest.mark.parametrize("name", ["", V1, V2])
def test_disabled(name, seed):
    theirs, ours = modules(name)
    x = torch.randn(2, 5, D)
    for arguments in ({"num_streams": 4, "disable": True}, {"num_streams": 1}):
        results = []
        for m in (theirs, ours):
            init, expand, reduce = m.get_init_and_expand_reduce_stream_functions(**arguments)
            layer = init(dim=D, branch=nn.Tanh(), residual_transform=nn.Softmax(-1), dropout=0.5, layer_index=3)
            results.append(reduce(layer(expand(x))))
        torch.testing.assert_close(*results)


BRANCHES, INPUTS = "hyper_connections_with_multi_branch_inputs", "hyper_connections_with_multi_input_streams"
MODULES = ["", "hyper_connections", V1, V2, "hyper_connections_channel_first", BRANCHES, INPUTS, "residuals", "vit"]


@pytest.mark.parametrize("name", [*MODULES, "triton_sinkhorn"])
def test_every_public_name_has_its_signature(name):
    if name == "triton_sinkhorn":
        pytest.importorskip("triton", reason="the package's module needs triton")
    theirs, ours = modules(name)
    internal = {"Callable", "Module", "Sequential", "Rearrange", "Reduce", "Function", "TritonSinkhornFunction"}
    compared = 0
    for key, value in vars(theirs).items():
        own = getattr(value, "__module__", "").startswith("hyper_connections")
        if not own or key.startswith("_") or key in internal or not callable(value):
            continue
        if key in ("exists", "default", "divisible_by", "identity", "add", "pair") or key.startswith("sinkhorn_kernel"):
            continue
        if name == BRANCHES and key.startswith("get_"):
            continue  # take a class by mistake
        expected = inspect.signature(value).parameters
        given = list(inspect.signature(getattr(ours, key)).parameters)
        assert [argument for argument in given if argument in expected] == list(expected), key
        assert set(given) - set(expected) <= {"package_fracs", "residual_transform"}, key
        compared += 1
    assert compared


@pytest.mark.parametrize("name", ["hyper_connections", V1, V2])
def test_initial_parameters(name):
    theirs, ours = modules(name)
    cls = "HyperConnections" if name == "hyper_connections" else "mHC"
    for k in range(S):
        states = [getattr(m, cls)(S, dim=D, layer_index=k).state_dict() for m in (theirs, ours)]
        assert list(states[0]) == list(states[1])
        for key in states[0]:
            torch.testing.assert_close(states[1][key], states[0][key])


@pytest.mark.parametrize("name", ["hyper_connections", V1, V2])
def test_initial_fractions(name):
    theirs, ours = modules(name)
    cls = "HyperConnections" if name == "hyper_connections" else "mHC"
    for k, views in itertools.product(range(2), (1, 2)):
        options = {"dim": D, "num_fracs": 3, "layer_index": k, "num_input_views": views}
        expected = getattr(theirs, cls)(2, **options).state_dict()
        given = getattr(ours, cls)(2, **options, package_fracs=True).state_dict()
        assert list(given) == list(expected)
        for key, value in expected.items():
            torch.testing.assert_close(given[key], value)


@pytest.mark.parametrize("name", ["hyper_connections", V1, V2])
def test_training_and_going_on_from_their_optimiser(name, seed):
    """Three steps with each; then ours takes over weights and optimiser state of theirs, and three more with both."""
    cls = "HyperConnections" if name == "hyper_connections" else "mHC"

    class Model(nn.Module):
        def __init__(self, m):
            super().__init__()
            init, self.expand, self.reduce = m.get_init_and_expand_reduce_stream_functions(S, dim=D)
            if name != "hyper_connections":
                init, *_ = getattr(m, cls).get_init_and_expand_reduce_stream_functions(S, dim=D)
            self.layers = nn.ModuleList(init(branch=branch(), layer_index=k) for k in range(3))

        def forward(self, x):
            x = self.expand(x)
            for layer in self.layers:
                x = layer(x)
            return self.reduce(x)

    models = [Model(m) for m in modules(name)]
    models[1].load_state_dict(models[0].state_dict())
    optimisers = [torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-3) for model in models]
    batches = torch.randn(6, 2, 5, D)

    def steps(some):
        for x in some:
            for model, optimiser in zip(models, optimisers):
                optimiser.zero_grad()
                (model(x) - x.roll(1, -1)).square().mean().backward()
                optimiser.step()
        for (key, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")

    steps(batches[:3])
    models[1].load_state_dict(models[0].state_dict())
    optimisers[1].load_state_dict(copy.deepcopy(optimisers[0].state_dict()))
    steps(batches[3:])


@pytest.mark.parametrize("options", [{}, {"pool": "mean", "patch_size": (4, 8)}, {"heads": 1, "dim_head": D}], ids=str)
def test_their_vision_transformer(options, seed):
    sizes = {"image_size": 16, "patch_size": 8, "num_classes": 5, "dim": D, "depth": 2, "heads": 2, "mlp_dim": 32}
    made = pair(lambda m: m.ViT(**{**sizes, "dim_head": 8, **options}), "vit")
    assert_equal(*made, called, 2, 3, 16, 16)
