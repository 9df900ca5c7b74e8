"""The code in README and docs runs as it stands; what is generated in them is up to date."""

import re
import runpy
from pathlib import Path

import pytest

import streammix as sm

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/layers.md", "docs/manifolds.md", "docs/projection.md", "docs/recipes.md"]
)
def test_code_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("http") or ((ROOT / page).parent / target).exists(), target


def test_recipes_page_is_up_to_date():
    """`python tools/recipes.py docs/recipes.md` would change nothing, and every recipe has its row and section."""
    page = (ROOT / "docs" / "recipes.md").read_text()
    script = runpy.run_path(str(ROOT / "tools" / "recipes.py"))
    assert script["renewed"](page) == page
    for name in sm.recipes.names():
        assert f"| [`{name}`](#{name.replace('.', '')}) |" in page
        assert f"### {name}\n\n{sm.recipes.get(name).source}." in page
