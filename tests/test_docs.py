"""The code in README and docs runs as it stands; what is generated in them is up to date."""

import re
import runpy
from pathlib import Path

import pytest

import streammix as sm

ROOT = Path(__file__).parents[1]


PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]


def code(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if code(page)])
def test_code_runs(page):
    blocks = code(page)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
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
