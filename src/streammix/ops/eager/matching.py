"""Perfect matchings of batches of matrices, by the same bounded steps for all: the host waits for no result."""

import torch
from torch import Tensor


def best(cost: Tensor) -> Tensor:
    """(B, n, n) -> (B, n): for each column, the row of a perfect matching with the least sum of costs.

    The Hungarian method by shortest augmenting paths (Edmonds & Karp 1972): n paths of at most n scans each.
    """
    B, n, _ = cost.shape
    inf = torch.inf
    padded = torch.nn.functional.pad(cost, (1, 0, 1, 0), value=inf)  # row and column 0: none
    rows, columns = cost.new_zeros(B, n + 1), cost.new_zeros(B, n + 1)  # the dual potentials
    owner = torch.zeros(B, n + 1, dtype=torch.long, device=cost.device)
    for row in range(1, n + 1):
        owner[:, 0] = row
        at = torch.zeros(B, 1, dtype=torch.long, device=cost.device)
        origin = torch.zeros_like(owner)
        distance, used = torch.full_like(columns, inf), torch.zeros_like(owner, dtype=torch.bool)
        for _ in range(row):
            current = owner.gather(1, at)
            going = current != 0
            used = used.scatter(1, at, used.gather(1, at) | going)
            reduced = padded.gather(1, current.unsqueeze(-1).expand(B, 1, n + 1)).squeeze(1)
            reduced = reduced - rows.gather(1, current) - columns
            nearer = going & ~used & (reduced < distance)
            distance, origin = torch.where(nearer, reduced, distance), torch.where(nearer, at, origin)
            step, following = distance.masked_fill(used, inf).min(-1, keepdim=True)
            step = torch.where(going, step, 0)
            rows = rows.scatter_add(1, owner, torch.where(used, step, 0))
            columns = columns - torch.where(used, step, 0)
            distance = torch.where(used, distance, distance - step)
            at = torch.where(going, following, at)
        for _ in range(row):  # hand every column of the path to the row before it
            before = origin.gather(1, at)
            on = at != 0
            owner = owner.scatter(1, at, torch.where(on, owner.gather(1, before), owner.gather(1, at)))
            at = torch.where(on, before, at)
    return owner[:, 1:] - 1


def has_total_support(allowed: Tensor) -> Tensor:
    """(B, n, n) bool -> (B,): whether some doubly stochastic matrix is positive exactly where `allowed`.

    It is when every allowed entry lies on a perfect matching: with rows in the order of one matching, from column j one
    comes, over the columns allowed to its row, to exactly those from which one comes back.
    """
    B, n, _ = allowed.shape
    order = best((~allowed).float())
    matched = allowed.gather(1, order.unsqueeze(-1).expand(B, n, n))
    reach = connected(matched)
    return matched.diagonal(dim1=-2, dim2=-1).all(-1) & (reach == reach.mT).all(-1).all(-1)


def connected(edges: Tensor) -> Tensor:
    """(B, n, n) bool -> the same: whether there is a path, of length 0 or more."""
    reach = edges | torch.eye(edges.shape[-1], dtype=torch.bool, device=edges.device)
    for _ in range((edges.shape[-1] - 1).bit_length()):
        reach = (reach.float() @ reach.float()) > 0
    return reach
