"""All recipes side by side: formula, source, guarantees, parameters, and what was changed or chosen.

    python tools/recipes.py                      print the table and the details
    python tools/recipes.py docs/recipes.md      renew the page's table and details in place

Everything is read off the recipes and the modules they build; nothing is timed.
"""

import re
import sys
from pathlib import Path

import torch

import streammix as sm
from streammix.recipes import Recipe

DIM = 768
SITES = 24  # attention, with inputs of their own for queries, keys and values, and MLPs in turn: parameters are means

ACTIVATION = {"linear": "{}", "sigmoid": "sigmoid({})", "twice-sigmoid": "2 sigmoid({})"}
LOGITS = {
    "static": "l = b",
    "flattened": "l = gate (vec(x) phi) / rms(vec x) + b",
    "per-stream": "l_i = gate tanh(LayerNorm(x_i) W) + b_i",
    "query": "z_i = w . x_i / rms(x_i)",
    "dense": "l = GELU(x_i / rms(x_i) W1) W2 + a",
    "low-rank": "r_i = (1 + g_i) x_i / rms(x_i);  l_pre = U silu(D vec(r) / n);  l_post = W vec(r) / n, rank {rank}",
    "cp": "l = gate (vec(x) phi) / rms(vec x) + b, phi a tensor of CP rank {rank}",
}
UPDATE = {
    "hyper": "out_i = sum_j H_res[i, j] x_j + post_i branch(sum_j pre_j x_j)",
    "frac": "u_s = sum_i pre[i, s] x_i;  y = branch(u_0 | ... | u_n-1);  out_i = sum_j H_res[i, j] x_j + post_i y_i",
    "generalised": "u_s = sum_i pre[i, s] x_i, s < m;  y = branch(u_0 | ... | u_m-1);  "
    "out_i = sum_j H_res[i, j] x_j + sum_s post[i, s] y_s",
    "sparse": "y = branch(sum_j pre_j x_j);  V = y and its causal filters, orthogonal;  "
    "x_active = H_res x_active + p (post V), p = sigmoid(LayerNorm(vec x) W + b)",
    "equilibrium": "y = branch(sum_j pre_j x_j);  out_i = sum_j H_res[i, j] (x_j - q_j y) + (post + q_i) y;  "
    "q = U l_q, where U is an orthonormal basis of what sums to zero",
    "multi-head": "u^g = sum_j pre^g_j x^g_j;  y = branch(u^0 | ... | u^h-1);  "
    "out^g_i = sum_j H_res^g[i, j] x^g_j + post^g_i y^g",
    "uncoupled": "u^g = sum_j pre^g_j x^g_j;  y = branch(u^0 | ... | u^h-1);  "
    "out_i = sum_j H_res[i, j] x_j + post_i (y + B_i A_i y), A_i and B_i of rank {rank};  "
    "l_pre^g = gate (vec(x^g) phi_g) / rms(vec x^g) + b_g",
    "grouped": "out_i = x_i + post_i branch(sum_j pre_j x_j), pre and post made at the first of {group} sites",
    "gated": "out_i = x_i + post_i branch((1/n) sum_j pre_j * r_j), pre_j of every channel",
    "single-pass": "out_i = sum_j H_res[i, j] x_j + post_i branch(sum_j pre_j x_j), pre made one site before",
    "decoupled": "u_s = sum_j pre[s, j] x_j, s < k;  out_i = sum_j H_res[i, j] x_j + post_i branch(u_0, ..., u_k-1)",
    "multi-gate": "y = branch(sum_j pre_j x_j);  out_i = (1 - post_i) x_i + post_i y, out_i = y where stream i begins",
    "depth-attention": "x_i = the sum of block i's outputs, x_0 the first state;  y = branch(sum_i pre_i x_i)",
    "dense": "x_i = the state after block i, x_0 the first state;  "
    "x_i+1 = mlp(h) + h, h = r + attention(u_0, u_1, u_2);  (u_0, u_1, u_2, r)_s = sum_i A[s, i] x_i",
}
#: The read, write and mix of wirings whose recipes do not say it in their fields.
MAPS = {
    "multi-gate": "pre = softmax(z),  post = sigmoid(z' + b),  H_res = diag(1 - post)",
    "depth-attention": "pre = softmax(z)",
    "dense": "A = l, made of the last x_i",
}
#: What holds in place of a manifold's name where that is none of H_res.
MIXES = {"multi-gate": "diag(1 - post)", "depth-attention": "none", "dense": "none"}
PROMISES = {
    "rows": "rows",
    "columns": "columns",
    "nonnegative": ">= 0",
    "nonexpansive": "norm <= 1",
    "orthogonal": "orthogonal",
}


class Attention(torch.nn.Module):
    branch_inputs = 3

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return queries + keys + values


def sites(recipe: Recipe, count: int) -> list[torch.nn.Module]:
    branches = [torch.nn.Identity() if site % 2 else Attention() for site in range(count)]
    return list(sm.Stack(branches, DIM, recipe=recipe).sites)


def own_parameters(recipe: Recipe) -> int:
    return sum(p.numel() for site in sites(recipe, SITES) for p in site.parameters()) // SITES


def promised(recipe: Recipe) -> str:
    if MIXES.get(recipe.connection) == "none":
        return ""
    guarantees = sites(recipe, 1)[0].guarantees
    return ", ".join(word for name, word in PROMISES.items() if getattr(guarantees, name))


def starts(recipe: Recipe) -> str:
    """As a model of random branches shows it."""
    torch.manual_seed(0)
    branches = [torch.nn.Sequential(torch.nn.RMSNorm(16), torch.nn.Linear(16, 16)) for _ in range(4)]
    x = torch.randn(3, 5, 16)
    plain = x
    for branch in branches:
        plain = plain + branch(plain)
    out = sm.Stack(branches, 16, recipe=recipe)(x)
    norm = torch.nn.RMSNorm(16)
    return "yes" if (norm(out) - norm(plain)).abs().max() < 1e-5 else "no"


def table() -> str:
    lines = [
        "| recipe | connection | streams | H_res | sums and bounds | logits | starts as the residual network"
        f" | ends in | parameters a site, C = {DIM} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sm.recipes.names():
        recipe = sm.recipes.get(name)
        cells = [f"[`{name}`](#{name.replace('.', '')})", recipe.connection, str(recipe.streams)]
        cells.append(MIXES.get(recipe.connection, recipe.manifold))
        cells += [promised(recipe), recipe.logits, starts(recipe), recipe.collapse, f"{own_parameters(recipe):,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def details() -> str:
    parts = []
    for name in sm.recipes.names():
        recipe = sm.recipes.get(name)
        options = ", ".join(f"{key}={value}" for key, value in recipe.manifold_options.items())
        manifold = f"{recipe.manifold}({options})" if options else recipe.manifold
        pre, post = ACTIVATION[recipe.read].format("l_pre"), ACTIVATION[recipe.write].format("l_post")
        pre += f" + {recipe.read_eps:g}" if recipe.read_eps else ""
        post = f"{recipe.write_multiplier:g} {post}" if recipe.write_multiplier != 1 else post
        if recipe.write_multiplier_end is not None:
            post += (
                f" at the start of training, {recipe.write_multiplier_end:g} for {recipe.write_multiplier:g} at its end"
            )
        post += f" + {recipe.write_eps:g}" if recipe.write_eps else ""
        update = UPDATE[recipe.connection].format(rank=recipe.rank, **recipe.connection_options)
        maps = f"pre = {pre},  post = {post},  H_res = {manifold}(l_res)"
        formula = [update.replace(";  ", "\n    "), MAPS.get(recipe.connection, maps)]
        logits = LOGITS[recipe.logits].format(rank=recipe.rank)
        if recipe.connection == "generalised":
            logits = logits.replace(" W)", " W / sqrt(C / m))")
        if recipe.connection == "multi-gate":
            logits = "z_i = w . x_i / (rms(x_i) sqrt(C)), z' likewise"
        formula.append(logits.replace(";  ", "\n    "))
        block = "\n".join(f"    {line}" for part in formula for line in part.split("\n    "))
        parts.append(f"### {name}\n\n{recipe.source}.\n\n{block}\n\n{recipe.note}")
    return "\n\n".join(parts)


def renewed(page: str) -> str:
    """The page with its table and details as they are now."""
    for mark, text in {"table": table(), "details": details()}.items():
        pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
        page = re.sub(pattern, lambda m, text=text: m[1] + text + m[2], page, flags=re.S)
    return page


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(table(), details(), sep="\n\n")
    else:
        path = Path(sys.argv[1])
        path.write_text(renewed(path.read_text()))
