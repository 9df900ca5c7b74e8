"""How an operator is registered: schema, plain kernel, fake, autograd and vmap, once per namespace.

Every operator exists in two namespaces of the same schema:

    streammix         the dispatched one. The plain kernel serves every device for which no native kernel is registered.
    streammix_eager   always the plain kernel; what `with streammix.backend("eager")` selects.

A native backend registers its kernels on `streammix` under its device's dispatch key and touches nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .cpu import library as native

DISPATCHED, EAGER = "streammix", "streammix_eager"

# The native library defines the dispatched operators itself, so that programs with them load without this package.
_native = native.available
_libraries = {
    DISPATCHED: torch.library.Library(DISPATCHED, "FRAGMENT" if _native else "DEF"),
    EAGER: torch.library.Library(EAGER, "DEF"),
}

Tensors = tuple[Tensor, ...]


class Operators:
    """The operators of one namespace, as plain callables that work under every transform; see ops/__init__.py."""

    birkhoff: Callable[[Tensor, float | None], Tensor]
    birkhoff_backward: Callable[[Tensor, Tensor], Tensor]
    sinkhorn: Callable[..., Tensor]
    sinkhorn_backward: Callable[..., Tensor]
    implicit_sinkhorn: Callable[[Tensor, int], Tensor]
    cayley: Callable[[Tensor, int], Tensor]
    cayley_backward: Callable[[Tensor, Tensor], Tensor]
    chart: Callable[[Tensor, int, bool, bool], Tensor]
    chart_backward: Callable[[Tensor, Tensor, int, bool, bool], Tensor]
    transport: Callable[[Tensor, Tensor, Tensor], Tensor]
    transport_backward: Callable[[Tensor, Tensor], Tensors]
    read: Callable[[Tensor, Tensor, int], Tensor]
    read_backward: Callable[[Tensor, Tensor, Tensor, int], Tensors]
    write: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
    write_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensors]
    sparse_read: Callable[[Tensor, Tensor, Tensor], Tensors]
    sparse_read_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensors]
    sparse_write: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    sparse_write_backward: Callable[..., Tensors]
    temporal_basis: Callable[[Tensor, Tensor, int], Tensor]
    temporal_basis_backward: Callable[..., Tensors]
    coefficients: Callable[[Tensor, Tensor, float], Tensors]
    coefficients_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensors]
    site_read: Callable[..., Tensors]
    site_read_backward: Callable[..., Tensors]
    write_site_read: Callable[..., Tensors]
    write_site_read_backward: Callable[..., Tensors]
    mixed_site_read: Callable[..., Tensors]
    mixed_site_read_backward: Callable[..., Tensors]
    write_mixed_site_read: Callable[..., Tensors]
    write_mixed_site_read_backward: Callable[..., Tensors]
    write_carried_site: Callable[..., Tensors]
    write_carried_site_backward: Callable[..., Tensors]
    next_site: Callable[..., Tensors]
    rows_site_read: Callable[..., Tensors]
    rows_site_read_backward: Callable[..., Tensors]


#: namespace -> its operators.
operators: dict[str, Operators] = {namespace: Operators() for namespace in _libraries}

#: Operators whose tangent is found by reverse mode, twice.
BY_REVERSE_MODE: set[str] = set()

Tangent = Callable[[Operators, tuple[Any, ...], Any, tuple[Any, ...]], Any]


def define(
    schema: str,
    kernel: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    save: Callable[..., None],
    backward: Callable[..., Any],
    tangent: Tangent | None = None,
    vmap: bool = True,
) -> None:
    """Register one operator in both namespaces.

    Args:
        schema: a torch.library schema such as `read(Tensor x, Tensor pre) -> Tensor`. Every tensor argument has the
            same leading (batch) dimensions: that is what the one vmap rule relies on. Without `vmap`, any.
        kernel: the plain formulas.
        fake: the same signature; returns empty tensors of the kernel's shapes and dtypes.
        save: `save(ctx, inputs, output)`, as for torch.library.register_autograd.
        backward: `backward(ops, ctx, *grads)`, written with differentiable functions and with the operators of `ops`,
            so that the backward pass stays in the namespace of its forward pass and can itself be differentiated.
        tangent: `tangent(ops, inputs, output, tangents)`, the derivative of the output along the inputs' tangents, for
            forward mode; zeros stand for inputs that have none. Left out: by reverse mode, twice; `refused` where that
            would need a third derivative.
        vmap: False where tensor arguments have other leading dimensions: the operator then has no vmap rule.
    """
    name = schema.partition("(")[0]
    for namespace, library in _libraries.items():
        if namespace == EAGER or not _native:
            library.define(schema)
        else:
            check_native(name, schema)
        library.impl(name, _without_autocast(kernel), "CompositeExplicitAutograd")
        qualified = f"{namespace}::{name}"
        torch.library.register_fake(qualified, fake, lib=library)
        along = tangent or _tangent_of(name)
        if tangent is None:
            BY_REVERSE_MODE.add(name)
        call = _differentiable(namespace, name, library, save, backward, along, vmap)
        setattr(operators[namespace], name, call)


def check_native(name: str, schema: str) -> None:
    """Raise ImportError unless the native library defines this operator by this schema."""
    packet = getattr(torch.ops.streammix, name, None)
    here = torch._C.parse_schema(f"{DISPATCHED}::{schema}")
    if packet is None or packet.default._schema != here:
        there = packet.default._schema if packet is not None else "nothing"
        raise ImportError(
            f"streammix: the native library is of another version: it has {there} for {here}; install streammix again"
        )


def _differentiable(
    namespace: str,
    name: str,
    library: torch.library.Library,
    save: Callable[..., None],
    backward: Callable[..., Any],
    tangent: Tangent,
    with_vmap: bool,
) -> Callable[..., Any]:
    op = getattr(getattr(torch.ops, namespace), name).default
    ops = operators[namespace]

    def backward_in_namespace(ctx: Any, *grads: Tensor | None) -> Any:
        with torch._C._DisableAutocast():
            return backward(ops, ctx, *grads)

    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        batched = [_to_front(info.batch_size, dim, arg) for dim, arg in zip(in_dims, args)]
        out = getattr(ops, name)(*batched)
        return out, (0,) * len(out) if isinstance(out, tuple) else 0

    torch.library.register_autograd(f"{namespace}::{name}", backward_in_namespace, setup_context=save, lib=library)
    if with_vmap:
        torch.library.register_vmap(f"{namespace}::{name}", vmap, lib=library)

    # torch.func.grad and its relatives refuse operators whose autograd comes from register_autograd; they accept an
    # autograd.Function with a `setup_context`, through which the operator is called under these transforms only.
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        save(ctx, inputs, output)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.save_for_forward(*(i for i in inputs if isinstance(i, Tensor)), *outputs)
        ctx.others = [None if isinstance(i, Tensor) else (i,) for i in inputs]
        ctx.outputs = len(outputs), isinstance(output, tuple)

    def jvp(ctx: Any, *tangents: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        inputs = tuple(next(saved) if other is None else other[0] for other in ctx.others)
        count, several = ctx.outputs
        outputs = tuple(next(saved) for _ in range(count))
        if name in BY_REVERSE_MODE:  # which under torch.func would come here again
            refused(ops, inputs, outputs, tangents)
        return tangent(ops, inputs, outputs if several else outputs[0], _filled(inputs, tangents))

    under_transforms = _function(
        f"{name}_under_transforms",
        forward=lambda *args: op(*args),
        setup_context=setup,
        backward=backward_in_namespace,
        jvp=jvp,
        vmap=vmap,
    )

    def dual(*args: Any) -> Any:
        """In torch.autograd.forward_ad: the output of the primals, with its tangent where an input has one."""
        pairs = [forward_ad.unpack_dual(a) if isinstance(a, Tensor) else (a, None) for a in args]
        inputs = tuple(primal for primal, _ in pairs)
        output = call(*inputs, dual_numbers=False)
        if all(t is None for _, t in pairs):
            return output
        derivative = tangent(ops, inputs, output, _filled(inputs, tuple(t for _, t in pairs)))
        if not isinstance(output, tuple):
            return forward_ad.make_dual(output, derivative)
        return tuple(o if t is None else forward_ad.make_dual(o, t) for o, t in zip(output, derivative))

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            out = op(*args)
        save(ctx, args, out)
        return out

    # Everywhere else, but for torch.compile and torch.jit.trace, a plain one serves, which takes half of
    # register_autograd's time.
    plain = _function(name, forward=forward, backward=backward_in_namespace)

    def call(*args: Any, dual_numbers: bool = True) -> Any:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return op(*args)
        if torch._C._are_functorch_transforms_active():
            return under_transforms.apply(*args)
        if dual_numbers and forward_ad._current_level >= 0:
            return dual(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return plain.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return call


def _function(name: str, **methods: Callable[..., Any]) -> Any:
    """A subclass of torch.autograd.Function."""
    return type(name, (torch.autograd.Function,), {key: staticmethod(method) for key, method in methods.items()})


def _without_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast reaches into a kernel written in torch, and would make its products bfloat16."""

    def run(*args: Any) -> Any:
        with torch._C._DisableAutocast():
            return kernel(*args)

    return run


def _to_front(size: int, dim: int | None, arg: Any) -> Any:
    if not isinstance(arg, Tensor):
        return arg
    return arg.expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)


def _filled(inputs: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tangents, with zeros for tensors that have none."""
    return tuple(torch.zeros_like(i) if isinstance(i, Tensor) and t is None else t for i, t in zip(inputs, tangents))


def _tangent_of(name: str) -> Tangent:
    """The tangent by the operator's own reverse mode, twice: v -> J' v is linear, and its pullback is t -> J t."""

    def tangent(ops: Operators, inputs: tuple[Any, ...], output: Any, tangents: tuple[Any, ...]) -> Any:
        places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]

        def of_tensors(*tensors: Tensor) -> Any:
            arguments = list(inputs)
            for i, tensor in zip(places, tensors):
                arguments[i] = tensor
            return getattr(ops, name)(*arguments)

        primals, along = (tuple(values[i] for i in places) for values in (inputs, tangents))
        outputs, pull = torch.func.vjp(of_tensors, *primals)[:2]
        zeros = tuple(map(torch.zeros_like, outputs)) if isinstance(outputs, tuple) else torch.zeros_like(outputs)
        return torch.func.vjp(pull, zeros)[1](along)[0]

    return tangent


def refused(ops: Operators, inputs: tuple[Any, ...], output: Any, tangents: tuple[Any, ...]) -> Any:
    """The tangent of operators that have none."""
    raise NotImplementedError(
        "streammix: forward mode is not implemented here: neither over reverse mode, nor by torch.func for truncated"
        " Sinkhorn and whole sites; take reverse mode (torch.func.vjp, jacrev), twice for second derivatives"
    )
