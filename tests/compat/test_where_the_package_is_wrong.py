"""What streammix.compat.hyper_connections computes where the package fails or is wrong: each row of the docs' table."""

import copy
import itertools
import pickle

import pytest
import torch
from package_pairs import modules
from torch import nn

import streammix as sm
from streammix.compat import hyper_connections as hc
from streammix.compat.hyper_connections import (
    hyper_connections,
    hyper_connections_channel_first,
    hyper_connections_with_multi_branch_inputs,
    hyper_connections_with_multi_input_streams,
    mHCv2,
    residuals,
    triton_sinkhorn,
)

S, D = 4, 12


def drawn(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(("fracs", "views"), [(1, 1), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("cls", [hc.HyperConnections, hc.mHC])
def test_channel_first_is_channel_last_moved(cls, fracs, views, seed):
    options = {"dim": D, "num_fracs": fracs, "num_input_views": views}
    last = drawn(cls(S, **options))
    first = cls(S, **options, channel_first=True)
    first.load_state_dict(last.state_dict())
    x = torch.randn(2 * S, D, 5, 3)
    u, add = first(x)
    expected, add_last = last(x.movedim(1, -1))
    close(u, expected.movedim(-1, 1 if views == 1 else 2))
    y = u.sin() if views == 1 else u[0].sin()
    close(add(y), add_last(y.movedim(1, -1)).movedim(-1, 1))


def test_the_package_sums_over_a_row_of_pixels(seed):
    """Channels first: its write mixes pixels, which is what the table says."""
    theirs, ours = modules("hyper_connections")
    made = [
        m.HyperConnections(S, dim=D, channel_first=True, branch=nn.Identity(), layer_index=0) for m in (theirs, ours)
    ]
    x = torch.randn(1, D, 5, 3).repeat_interleave(S, 0)
    close(made[1](x), 2 * x)
    close(made[0](x), x + x.sum(-1, keepdim=True))


@pytest.mark.parametrize("fracs", [2, 4])
@pytest.mark.parametrize("layer_index", [0, 3])
def test_fractions_start_as_the_plain_residual(fracs, layer_index, seed):
    branch = nn.Linear(D, D)
    init, expand, reduce = hc.get_init_and_expand_reduce_stream_functions(S, num_fracs=fracs, dim=D)
    layer = init(branch=branch, layer_index=layer_index)
    x = torch.randn(2, 5, D)
    close(reduce(layer(expand(x))) / S, x + branch(x))


def test_fractions_are_frac_connections(seed):
    """One stream in three fractions, by arXiv 2503.14125: fraction i of the branch's output goes to fraction i."""
    f, d = 3, D // 3
    layer = drawn(hc.HyperConnections(1, dim=D, num_fracs=f))
    with torch.no_grad():
        layer.dynamic_beta_fn.zero_()
    x = torch.randn(2, D)
    u, add = layer(x)
    y = u.sin()
    out = add(y)
    for token in range(2):
        parts = x[token].view(f, d)
        z = parts / parts.norm(dim=-1, keepdim=True) * d**0.5 * (layer.norm.gamma + 1)
        A = (layer.dynamic_alpha_scale * (z @ layer.dynamic_alpha_fn).tanh() + layer.static_alpha).view(f, f, 2)
        close(u[token].view(f, d), A[..., 0].mT @ parts)
        close(out[token].view(f, d), A[..., 1].mT @ parts + layer.static_beta.unsqueeze(-1) * y[token].view(f, d))


@pytest.mark.parametrize("fracs", [1, 2])
@pytest.mark.parametrize("version", [1, 2])
def test_mhc_gives_several_input_views(version, fracs, seed):
    """View v of the branch's input is read by sigmoid of column v; the package raises for want of a scale's columns."""
    v, R, d = 3, S * fracs, D // fracs
    cls = hc.mHC if version == 1 else mHCv2.mHC
    layer = drawn(cls(S, dim=D, num_input_views=v, num_fracs=fracs))
    x = torch.randn(2, 5, S, D)
    given = x.movedim(-2, 1).flatten(0, 1) if version == 1 else x
    u, add = layer(given)
    assert u.shape == (v, 2, 5, D)
    rows = x.unflatten(-1, (fracs, d))  # stream, fraction
    if version == 1:
        rows = rows.transpose(-3, -2)  # its order of rows: fraction, stream
    rows = rows.flatten(-3, -2)
    z = rows / rows.norm(dim=-1, keepdim=True) * d**0.5 * (layer.norm.gamma + 1)
    scale = torch.cat([layer.pre_branch_scale.expand(v * fracs), layer.residual_scale.expand(R)])
    alpha = (z @ layer.dynamic_alpha_fn[0]) * scale + layer.static_alpha
    views = alpha[..., : v * fracs].sigmoid().mT @ rows
    close(u, views.unflatten(-2, (v, fracs)).flatten(-2).movedim(-2, 0))
    H = sm.sinkhorn(alpha[..., v * fracs :], recipe="lucidrains")
    mixed = H.mT @ rows
    mixed = mixed.unflatten(-2, (fracs, S) if version == 1 else (S, fracs))
    mixed = (mixed.transpose(-3, -2) if version == 1 else mixed).flatten(-2)
    out = add(torch.zeros(2, 5, D))
    close(out.unflatten(0, (2, S)).movedim(1, -2) if version == 1 else out, mixed)


def test_the_package_refuses_several_input_views():
    theirs, _ = modules("mHCv2")
    with pytest.raises(RuntimeError):
        theirs.mHC(S, dim=D, num_input_views=2)(torch.randn(2, 5, S, D))


def test_float64_is_computed_in_float64(seed):
    layer = drawn(hc.mHC(S, dim=D, branch=nn.Tanh())).double()
    x = torch.randn(S, 2, D, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [hc.HyperConnections, hc.mHC, mHCv2.mHC])
def test_coefficients_of_half_precision_are_float32(cls, dtype, seed):
    layer = drawn(cls(S, dim=D, branch=nn.Tanh()))
    x = torch.randn(2, S, D) if cls is mHCv2.mHC else torch.randn(2 * S, 3, D)
    x = x.to(dtype)
    out = layer(x)
    assert out.dtype == dtype
    close(out.float(), layer(x.float()), atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == dtype


def test_the_triton_path_has_the_gradient_of_its_rounds(seed):
    logits = (2 * torch.randn(3, S, S, dtype=torch.float64)).requires_grad_()
    torch.autograd.gradcheck(lambda t: triton_sinkhorn.triton_sinkhorn(t, 2), logits)


def test_orthogonal_updates_keep_the_dtype(seed):
    theirs, _ = modules("residuals")
    x, residual = torch.randn(2, 3, D), torch.randn(2, 3, D)
    ours = residuals.OrthogonalResidualUpdate()(x, residual)
    assert ours.dtype == torch.float32
    close(ours.double(), theirs.OrthogonalResidualUpdate()(x, residual).double())


def test_several_branches_have_their_functions():
    init, expand, reduce = hyper_connections_with_multi_branch_inputs.get_init_and_expand_reduce_stream_functions(S)
    layer = init(dim=D, branch=[nn.Identity(), nn.Identity()], num_branch_inputs=2)
    x = torch.randn(2, 5, D)
    close(reduce(layer(expand(x))) / S, 3 * x)


def test_further_input_streams_with_channels_first(seed):
    module = hyper_connections_with_multi_input_streams
    options = {"dim": D, "additional_input_paths": [1, "more"]}
    last = drawn(module.HyperConnections(S, **options))
    first = module.HyperConnections(S, **options, channel_first=True)
    first.load_state_dict(last.state_dict())
    x, y, z = (torch.randn(2 * S, D, 3, 4) for _ in range(3))
    (arguments, keywords), _ = first(x, y, more=z)
    (expected, expected_keywords), _ = last(x.movedim(1, -1), y.movedim(1, -1), more=z.movedim(1, -1))
    close(
        torch.stack([*arguments, keywords["more"]]), torch.stack([*expected, expected_keywords["more"]]).movedim(-1, 2)
    )


def test_further_input_streams_start_apart_in_memory():
    made = hyper_connections_with_multi_input_streams.HyperConnections(S, dim=D, additional_input_paths=[1, 2])
    first, second = made.additional_static_input.parameters()
    assert first.data_ptr() != second.data_ptr()


# --- what else a user meets -------------------------------------------------------------------------------------


def test_any_tree_of_outputs(seed):
    layer = drawn(hc.mHC(S, dim=D))
    x = torch.randn(2 * S, 5, D)
    u, add = layer(x)
    out = add(u.sin())
    cache = torch.ones(3)
    assert add((u.sin(), cache))[1] is cache
    close(add([u.sin(), (cache, None)])[0], out)
    close(add({"hidden": u.sin(), "cache": cache})["hidden"], out)
    with pytest.raises(TypeError, match="begins with a str; accepted: a tensor, or a tree"):
        add(("no", u))
    with pytest.raises(TypeError, match="an empty tuple"):
        add(())


def test_methods_of_the_branch():
    class Branch(nn.Linear):
        def doubled(self, x):
            return 2 * self(x)

    layer = hc.mHC(S, dim=D, branch=Branch(D, D), forward_method_names=("doubled",))
    x = torch.randn(2, D)
    close(layer.doubled(x), 2 * layer.branch(x))
    for name in ("forward", "missing"):
        with pytest.raises(ValueError, match=f"forward_method_names: got '{name}'"):
            hc.mHC(S, dim=D, branch=Branch(D, D), forward_method_names=(name,))


def test_dropout_falls_on_the_streams(seed):
    layer = hc.HyperConnections(S, dim=D, branch=nn.Identity(), dropout=0.5)
    out = layer(torch.ones(8 * S, 50, D))
    assert 0.45 < (out == 0).float().mean() < 0.55
    assert (layer.eval()(torch.ones(S, 1, D)) > 0).all()


@pytest.mark.parametrize("cls", [hc.HyperConnections, hc.mHC, mHCv2.mHC])
def test_compiles_as_one_graph(cls, seed):
    layer = drawn(cls(S, dim=D, branch=nn.Linear(D, D)))
    x = torch.randn(2, S, D) if cls is mHCv2.mHC else torch.randn(2 * S, 3, D)
    torch._dynamo.reset()
    close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.parametrize("cls", [hc.HyperConnections, hc.mHC, mHCv2.mHC])
def test_empty_batches_and_zero_states(cls):
    layer = cls(S, dim=D, branch=nn.Tanh())
    sizes = [(0, S, D), (1, S, D)] if cls is mHCv2.mHC else [(0, 3, D), (S, 3, D)]
    for size in sizes:
        x = torch.zeros(size, requires_grad=True)
        out = layer(x)
        out.sum().backward()
        assert out.shape == size
        assert x.grad.isfinite().all()


def test_the_start_is_the_plain_residual(seed):
    """As their README has it, with any number of streams and any site."""
    branch = nn.Linear(D, D)
    x = torch.randn(2, 5, D)
    for streams, k in itertools.product((2, 4), range(3)):
        init, expand, reduce = hc.get_init_and_expand_reduce_stream_functions(streams)
        for layer in (init(dim=D, branch=branch, layer_index=k), init(dim=D).decorate_branch(branch)):
            close(reduce(layer(expand(x))) / streams, x + branch(x))
    image, convolution = torch.randn(2, D, 4, 4), nn.Conv2d(D, D, 1)
    module = hyper_connections_channel_first
    init, expand, reduce = module.get_init_and_expand_reduce_stream_functions(S)
    close(reduce(init(dim=D, branch=convolution)(expand(image))) / S, image + convolution(image))


ERRORS = [
    (lambda: hc.HyperConnections(0, dim=D), "num_residual_streams: got 0; accepted: integers >= 1"),
    (lambda: hc.HyperConnections(S, dim=D, num_fracs=5), "dim: got 12; accepted with num_fracs=5: multiples of it"),
    (lambda: hc.mHC(S, dim=D, num_input_views=0), "num_input_views: got 0"),
    (lambda: hc.mHC(S, dim=D, num_dynamic_alpha_proposals=0), "num_dynamic_alpha_proposals: got 0"),
    (lambda: hc.HyperConnections(S, dim=D)(torch.randn(6, D)), r"got shape \(6, 12\); accepted: \(batch \* 4 streams"),
    (lambda: hc.HyperConnections(S, dim=D)(torch.randn(S, 5)), "got 5 channels"),
    (lambda: mHCv2.mHC(S, dim=D)(torch.randn(2, D)), r"got shape \(2, 12\); accepted: \(..., 4, D\)"),
    (lambda: hc.mHC(S, dim=D, branch=nn.Linear(D, 5))(torch.randn(S, D)), "returned shape .* with 5 channels"),
    (lambda: hc.mHC(S, dim=D, branch=nn.Tanh()).decorate_branch(torch.sin), "was made with one"),
    (lambda: hc.get_expand_reduce_stream_functions(S, add_stream_embed=True), "dim: got None; add_stream_embed=True"),
    (
        lambda: hyper_connections.get_expand_reduce_stream_functions(S)[1](torch.ones(3, D)),
        "accepted: .batch . 4 streams",
    ),
    (lambda: mHCv2.sinkhorn_knopps(torch.ones(3, 4)), r"log_alpha: got shape \(3, 4\); accepted: \(..., n, n\)"),
    (
        lambda: hyper_connections_with_multi_branch_inputs.HyperConnections(S, dim=D, branch=[nn.Tanh()] * 2),
        "num_branch_inputs: got 1 for 2 branches",
    ),
    (
        lambda: hyper_connections_with_multi_input_streams.HyperConnections(S, dim=D, additional_input_paths=[0]),
        "got 0; accepted: names, and positions >= 1",
    ),
    (
        lambda: hyper_connections_channel_first.HyperConnections(S, dim=D, channel_first=False),
        "channel_first: got False",
    ),
]


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m for _, m in ERRORS])
def test_errors_say_what_came_and_what_is_accepted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_further_input_is_an_error():
    module = hyper_connections_with_multi_input_streams
    layer = module.HyperConnections(S, dim=D, additional_input_paths=["context"], branch=nn.Tanh())
    with pytest.raises(
        TypeError, match="additional input 'context': got nothing; accepted: a tensor of streams 12 wide"
    ):
        layer(torch.randn(S, D))


@pytest.mark.parametrize("cls", [hc.HyperConnections, hc.mHC, mHCv2.mHC])
def test_copies_and_pickles(cls, seed):
    layer = drawn(cls(S, dim=D, branch=nn.Linear(D, D)))
    x = torch.randn(2, S, D) if cls is mHCv2.mHC else torch.randn(2 * S, 3, D)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), layer(x))


EVERY = [
    *((hc.HyperConnections, {}), (hc.HyperConnections, {"num_fracs": 3, "num_input_views": 2}), (hc.mHC, {})),
    *((hc.mHC, {"num_fracs": 2, "package_fracs": True}), (mHCv2.mHC, {"mix_streams_before_norm": True})),
    (hyper_connections_channel_first.HyperConnections, {}),
    (hyper_connections_with_multi_branch_inputs.HyperConnections, {"num_branch_inputs": 2}),
    (hyper_connections_with_multi_input_streams.HyperConnections, {"additional_input_paths": [1, "more"]}),
]


@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_models_made_on_the_meta_device_start_as_others(cls, options):
    """By the loop that trainers use: every module that has reset_parameters, in any order."""
    expected = cls(S, dim=D, layer_index=2, **options)
    with torch.device("meta"):
        made = cls(S, dim=D, layer_index=2, **options)
    assert all(parameter.is_meta for parameter in made.parameters())
    made.to_empty(device="cpu")
    for module in (*made.modules(), *reversed(list(made.modules()))):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for (name, a), b in zip(made.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_ends_made_on_the_meta_device_start_as_others():
    for make in (
        lambda: hc.StreamEmbed(S, D),
        lambda: hc.AttentionPoolReduceStream(S, D),
        lambda: mHCv2.StreamEmbed(S, D),
    ):
        expected = make()
        with torch.device("meta"):
            made = make()
        made.to_empty(device="cpu").apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), expected.parameters(), strict=True))


def test_a_residual_transform_that_changes_the_width(seed):
    """As in a ResNet's block that widens its images: streams come in narrow and leave wide."""
    widen = nn.Conv2d(6, D, 1)
    layer = hc.mHC(S, dim=D, channel_first=True, residual_transform=widen, branch=nn.Conv2d(D, D, 3, padding=1))
    assert layer(torch.randn(2 * S, 6, 5, 4)).shape == (2 * S, D, 5, 4)


def test_halves_of_further_input_streams(seed):
    layer = drawn(hyper_connections_with_multi_input_streams.HyperConnections(S, dim=D, additional_input_paths=[1]))
    x, context = torch.randn(2 * S, 3, D), torch.randn(2 * S, 3, D)
    (arguments, keywords), mixed, more = layer.width_connection(x, context, mask=None)
    (expected, _), add = layer(x, context, mask=None)
    assert keywords == {"mask": None}
    for a, b in zip(arguments, expected, strict=True):
        assert torch.equal(a, b)
    close(layer.depth_connection(arguments[0].sin(), mixed, **more), add(arguments[0].sin()))
