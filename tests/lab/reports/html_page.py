"""A written page as tests look at it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """What a test asks of a page: its elements, its text, its figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(self.source)
        inside = next(script for script in self.scripts if script.startswith('{"figures"'))
        self.data = json.loads(inside)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        inside = self.tags[-1][0] if self.tags else ""
        (self.scripts if inside in ("script", "style") else self.words).append(data)

    def figure(self, heading: str) -> dict[str, Any]:
        headings = re.findall(r"<figcaption><h3>([^<]+)</h3>", self.source)
        return self.data["figures"][headings.index(heading)]


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in figure["data"] if one.get("name") == name]
    return found
