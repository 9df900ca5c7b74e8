import copy
import dataclasses
import pickle

import pytest

import streammix as sm


def test_the_published_names_are_there():
    assert {
        *(
            "hc",
            "hc-static",
            "mhc",
            "mhc-sinkhorn",
            "ihc",
            "deepseek-v4",
            "mhc-lite",
            "kromhc",
            "go-mhc",
            "tbp",
            "rtbp",
        ),
        *("c-mhc", "shc", "isohc", "ohc", "jpmhc-cayley", "jpmhc-grassmann", "jpmhc-sinkhorn", "perm-mix"),
        *("frac", "ghc", "dghc", "xhc", "temper", "deepseek-v4.1"),
    } <= set(sm.recipes.names())


@pytest.mark.parametrize("name", sm.recipes.names())
def test_a_recipe_is_data(name):
    recipe = sm.recipes.get(name)
    assert recipe.name == name
    assert recipe.source
    assert recipe.note
    assert name in repr(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    assert dataclasses.replace(recipe, gate=0.5).gate == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.gate = 1.0


def test_published_starts():
    """c-mhc starts at zero mixing logits; tbp and rtbp do when asked to, else near the identity as the others."""
    assert [name for name in sm.recipes.names() if sm.recipes.get(name).mix_start == "zero"] == ["c-mhc"]
    for name in ("tbp", "rtbp", "c-mhc"):
        recipe = sm.recipes.get(name)
        zero = sm.HyperConnection(None, 8, 4, dataclasses.replace(recipe, mix_start="zero"))
        assert not zero.logits.bias[8:].any()
        near = sm.HyperConnection(None, 8, 4, dataclasses.replace(recipe, mix_start="identity"))
        assert near.logits.bias[8:].tolist() == near.manifold.identity_logits().tolist()
        assert near.logits.bias[:8].tolist() == zero.logits.bias[:8].tolist()


def test_unknown_name():
    with pytest.raises(ValueError, match=r"recipe: none is called 'mch'; accepted: hc, hc-static, mhc"):
        sm.recipes.get("mch")
