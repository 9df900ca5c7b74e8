import copy
import dataclasses
import pickle

import pytest

import streammix as sm


def test_the_published_names_are_there():
    assert {"hc", "hc-static", "mhc", "mhc-sinkhorn", "ihc", "deepseek-v4"} <= set(sm.recipes.names())


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


def test_unknown_name():
    with pytest.raises(ValueError, match=r"recipe: none is called 'mch'; accepted: hc, hc-static, mhc"):
        sm.recipes.get("mch")
