"""How an operator is registered: schema, plain kernel, fake, autograd and vmap, once per namespace.

Every operator exists in two namespaces of the same schema:

    streammix         the dispatched one. The plain kernel serves every device for which no native kernel is registered.
    streammix_eager   always the plain kernel; what `with streammix.backend("eager")` selects.

A native backend registers its kernels on `streammix` under its device's dispatch key and touches nothing else.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

DISPATCHED, EAGER = "streammix", "streammix_eager"

_libraries = {namespace: torch.library.Library(namespace, "DEF") for namespace in (DISPATCHED, EAGER)}

#: namespace -> its operators by name, as plain callables that work under every transform.
operators: dict[str, SimpleNamespace] = {namespace: SimpleNamespace() for namespace in _libraries}


def define(
    schema: str,
    kernel: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    save: Callable[..., None],
    backward: Callable[..., Any],
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
        vmap: False where tensor arguments have other leading dimensions: the operator then has no vmap rule.
    """
    name = schema.partition("(")[0]
    for namespace, library in _libraries.items():
        library.define(schema)
        library.impl(name, _without_autocast(kernel), "CompositeExplicitAutograd")
        qualified = f"{namespace}::{name}"
        torch.library.register_fake(qualified, fake, lib=library)
        setattr(operators[namespace], name, _differentiable(namespace, name, library, save, backward, vmap))


def _differentiable(
    namespace: str,
    name: str,
    library: torch.library.Library,
    save: Callable[..., None],
    backward: Callable[..., Any],
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
    under_transforms = _function(
        f"{name}_under_transforms",
        forward=lambda *args: op(*args),
        setup_context=save,
        backward=backward_in_namespace,
        vmap=vmap,
    )

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            out = op(*args)
        save(ctx, args, out)
        return out

    # Everywhere else, but for torch.compile and torch.jit.trace, a plain one serves, which takes half of
    # register_autograd's time.
    plain = _function(name, forward=forward, backward=backward_in_namespace)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return op(*args)
        if torch._C._are_functorch_transforms_active():
            return under_transforms.apply(*args)
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
