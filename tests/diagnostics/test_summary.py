"""A summary of a small model against every measure by brute force in float64."""

import math

import numpy as np
import pytest
import torch
from traced_networks import DIM, STREAMS, Borrowing, Stacked

import streammix as sm
from streammix.diagnostics import summarize, trace


@pytest.fixture
def traced(seed):
    model, x = Stacked("mhc"), torch.randn(6, DIM)
    with torch.no_grad(), trace(model, states=True, logits=True) as record:
        model(x)
    return record


def brute(visits: list[sm.diagnostics.Visit], tokens: list[int]) -> dict[str, list[float]]:
    """Every measure from its definition, in loops over sites and tokens."""
    found: dict[str, list[float]] = {}
    product = {t: np.eye(STREAMS) for t in tokens}
    for visit in visits:
        site: dict[str, list[float]] = {}

        def note(name: str, value: float, site: dict[str, list[float]] = site) -> None:
            site.setdefault(name, []).append(float(value))

        for t in tokens:
            H = visit.res[t].double().numpy()
            a, b = visit.pre[t].double().abs().numpy(), visit.post[t].double().abs().numpy()
            x = visit.state[t].double().numpy()
            rows, columns = H.sum(1) - 1, H.sum(0) - 1
            note("row_deviation", abs(rows).max())
            note("column_deviation", abs(columns).max())
            note("row_mae", abs(rows).mean())
            note("column_mae", abs(columns).mean())
            note("marginal_error", abs(rows).sum() + abs(columns).sum())
            note("orthogonality_error", abs(H.T @ H - np.eye(STREAMS)).max())
            note("identity_drift", np.linalg.norm(H - np.eye(STREAMS)))
            note("cross_stream_weight", 1 - np.trace(H) / STREAMS)
            note("dobrushin", max(abs(H[i] - H[k]).sum() / 2 for i in range(STREAMS) for k in range(STREAMS)))
            for name, w in (("read", a), ("write", b)):
                w = w / w.sum()
                note(f"effective_{name}", 1 / (w**2).sum())
                note(f"entropy_{name}", math.exp(-(w * np.log(w)).sum()))
                note(f"dominant_{name}", w.max())
            energy = (x**2).sum(1)
            note("dominant_signal", energy.max() / energy.sum())
            apart = x - x.mean(0)
            note("difference_energy", (apart**2).sum())
            note("difference_share", (apart**2).sum() / energy.sum())
            for name, streams in (("stream_cosine", x), ("stream_cosine_centred", apart)):
                cosines = [
                    u @ v / np.linalg.norm(u) / np.linalg.norm(v) for i, u in enumerate(streams) for v in streams[:i]
                ]
                note(name, sum(cosines) / len(cosines))
            logits = visit.logits[t].double().numpy()
            note("log_range", logits.max() - logits.min())
            note("min_entry", H.min())
            product[t] = H @ product[t]
            singular = np.linalg.svd(product[t])[1]
            p = singular / singular.sum()
            note("rank", math.exp(-(p * np.log(p)).sum()))
            for k in range(STREAMS):
                note(f"composite {k}", singular[k])
                note(f"spectrum {k}", np.linalg.svd(H)[1][k])
        for name, values in site.items():
            found.setdefault(name, []).append(min(values) if name == "min_entry" else sum(values) / len(values))
            if name in ("marginal_error", "log_range"):
                found.setdefault(f"{name}_max", []).append(max(values))
    return found


@pytest.mark.parametrize(("tokens", "used"), [(None, range(6)), (3, (0, 2, 4)), (6, range(6)), (100, range(6))])
def test_every_measure_is_its_definition(tokens, used, traced):
    summary, expected = summarize(traced, tokens=tokens), brute(traced.visits, list(used))
    assert summary.sites == [f"stack.sites.{i}" for i in range(4)]
    assert summary.tokens == len(list(used))
    found = {name: values.tolist() for name, values in summary.measures.items()} | {"rank": summary.rank.tolist()}
    found |= {f"composite {k}": summary.composite[:, k].tolist() for k in range(STREAMS)}
    found |= {f"spectrum {k}": summary.spectra[:, k].tolist() for k in range(STREAMS)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=2e-5, abs=2e-6), name
    chosen = [visit.res[list(used)].double() for visit in traced.visits]
    torch.testing.assert_close(summary.mix, torch.stack([res.mean(0) for res in chosen]))
    torch.testing.assert_close(summary.typical, torch.stack([res.median(0).values for res in chosen]))
    torch.testing.assert_close(summary.read, torch.stack([v.pre[list(used)].double().mean(0) for v in traced.visits]))
    torch.testing.assert_close(summary.write, torch.stack([v.post[list(used)].double().mean(0) for v in traced.visits]))
    assert torch.equal(summary.gains.forward, sm.diagnostics.gains_by_depth(chosen).forward)


def test_without_states_and_logits_there_is_less(seed):
    model = Stacked("mhc")
    with trace(model) as record:
        model(torch.randn(3, DIM))
    names = summarize(record).measures.keys()
    assert "effective_read" in names
    assert not {"stream_cosine", "log_range", "log_range_max"} & names


@pytest.mark.parametrize("recipe", [r for r in sm.recipes.names() if sm.recipes.get(r).connection == "hyper"])
def test_every_recipe_with_maps_has_a_summary(recipe, seed):
    model = Stacked(recipe)
    with torch.no_grad(), trace(model, states=True, logits=True) as record:
        model(torch.randn(3, DIM))
    summary = summarize(record)
    assert all(values.isfinite().all() for values in summary.measures.values())
    assert summary.composite.isfinite().all()


def test_the_prediction_is_of_what_the_sites_do_not_share(seed):
    mixed, free = Stacked("mhc"), Stacked("hc")
    for model, shared in ((mixed, 1), (free, 0)):
        with torch.no_grad(), trace(model) as record:
            model(torch.randn(3, DIM))
        summary = summarize(record)
        expected = sm.diagnostics.free_product(list(summary.spectra[:, shared:])).quantiles(STREAMS - shared)
        assert summary.predicted().tolist() == [1.0] * shared + expected.tolist()
    summary.spectra[1, 2] = math.nan
    assert summary.predicted().isnan().all()


def test_sites_on_borrowed_parameters_measure_the_same(seed):
    model, x = Stacked("mhc"), torch.randn(6, DIM)
    borrowing = Borrowing(model)
    records = []
    for one in (model, borrowing):
        with torch.no_grad():
            before = one(x)
            with trace(one, states=True) as record:
                during = one(x)
        assert torch.equal(before, during)
        records.append(record)
    assert [visit.name for visit in records[1].visits] == [f"weights.{i}" for i in range(4)]
    ours, theirs = map(summarize, records)
    for name, values in ours.measures.items():
        torch.testing.assert_close(theirs.measures[name], values, rtol=1e-5, atol=1e-6)


def test_borrowed_sites_of_another_model_are_not_recorded(seed):
    ours, other, x = Borrowing(Stacked()), Borrowing(Stacked()), torch.randn(2, DIM)
    with trace(ours) as record:
        other(x)
        ours(x)
    assert len(record.visits) == 4
    assert not sm.layers.borrowed.OBSERVERS


@pytest.mark.refusal
def test_bad_input(traced):
    with pytest.raises(ValueError, match=r"tokens: got 0; accepted: integers >= 1"):
        summarize(traced, tokens=0)
    with pytest.raises(ValueError, match="got no calls"):
        summarize(sm.diagnostics.Trace())
