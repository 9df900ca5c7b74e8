"""The page of many runs as a browser shows it: every control is clicked, and it is looked at in several shapes."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streammix.lab.report.runs_page import write_runs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"),
    pytest.mark.slow,
]
PATIENCE = 120_000  # milliseconds: a browser on a busy machine takes its time


@pytest.fixture(scope="module")
def path(many_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs([many_runs], tmp_path_factory.mktemp("browser") / "runs.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield made
        made.close()


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Any]:
    """A function that opens the page; at the end nothing may have been fetched or gone wrong."""
    troubles: list[str] = []
    contexts = []

    def open_page(width: int = 1400, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda request: troubles.extend([request.url] * (not request.url.startswith(("file:", "blob:", "data:")))),
        )
        page.goto(path.as_uri(), timeout=PATIENCE)
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 0")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def plot(page: Any, heading: str) -> Any:
    return page.locator("figure", has=page.get_by_role("heading", name=heading, exact=True))


def drawn(page: Any, heading: str) -> list[dict[str, Any]]:
    """What the plotting library shows there."""
    element = plot(page, heading).locator(".plot").element_handle()
    return element.evaluate("e => e.data.map(t => ({name: t.name, x: t.x, y: t.y, visible: t.visible}))")


def line(page: Any, heading: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in drawn(page, heading) if one["name"] == name]
    return found


def test_every_control_does_what_it_says(opened, path):
    page = opened()
    buttons = page.locator(".legend [data-recipe]")
    assert buttons.all_inner_texts() == ["residual", "hc", "mhc"]

    # Hiding a line hides it in all plots, its rows and its maps, and refits the axis.
    element = plot(page, "Validation loss").locator(".plot")
    before = element.evaluate("e => e.layout.yaxis.range")
    buttons.nth(1).click()
    assert [one["visible"] for one in drawn(page, "Validation loss") if one["name"].startswith("hc")] == [False]
    assert page.locator("tr[data-of=hc]:visible, .maps[data-of=hc]:visible").count() == 0
    assert element.evaluate("e => e.layout.yaxis.range") != before
    buttons.nth(1).click()
    assert page.locator("tr[data-of=hc]:visible").count() == 2

    # Curves over tokens and over time.
    assert line(page, "Validation loss", "mhc, mean")["x"] == [0, 4, 8, 12]
    page.get_by_role("button", name="tokens").click()
    assert line(page, "Validation loss", "mhc, mean")["x"] == [0, 128, 256, 384]
    assert element.evaluate("e => e.layout.xaxis.title.text") == "tokens"
    page.get_by_role("button", name="time").click()
    seconds = line(page, "Validation loss", "mhc, mean")["x"]
    assert seconds[0] == 0
    assert seconds == sorted(set(seconds))
    page.get_by_role("button", name="step", exact=True).click()
    assert line(page, "Validation loss", "mhc, mean")["x"] == [0, 4, 8, 12]

    # The slider changes plots by depth and the maps, and both sliders go together.
    data = page.evaluate("page.course")
    sliders = page.locator("input[type=range]")
    first = sliders.nth(0)
    for place in (0, 2, 3):
        first.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", place)
        assert page.locator("output").all_inner_texts() == [str(data["steps"][place])] * 2
        assert sliders.nth(1).input_value() == str(place)
        frames = page.evaluate(
            "page.figures.flatMap(f => f.data).find(t => t.meta?.frames && t.name === 'mhc').meta.frames"
        )
        assert line(page, "Forward gain by depth", "mhc")["y"] == frames[place]
        cell = page.locator(".course .maps[data-of=mhc] .tile").nth(1).locator("i[data-log]").nth(1)
        value = data["maps"]["mhc"][place][0][1][1]
        assert float(cell.get_attribute("title").split(": ")[1]) == value
    assert page.locator(".course .maps[data-of=mhc] .tile").count() == 2

    page.get_by_role("button", name="log scale").click()
    assert page.evaluate("document.body.dataset.maps") == "log"


def test_data_and_pictures_are_saved(opened, tmp_path):
    page = opened()
    page.get_by_role("button", name="tokens").click()
    with page.expect_download(timeout=PATIENCE) as saved:
        plot(page, "Validation loss").get_by_role("button", name="save as CSV").click()
    assert saved.value.suggested_filename == "Validation loss.csv"
    saved.value.save_as(tmp_path / "saved.csv")
    rows = (tmp_path / "saved.csv").read_text().splitlines()
    assert rows[0] == "name,x,y"
    assert any(re.fullmatch(r'"mhc, mean",384,[\d.]+', row) for row in rows)
    with page.expect_download(timeout=PATIENCE) as saved:
        plot(page, "Spectrum of the composite map").get_by_role("button", name="save as SVG").click()
    assert saved.value.suggested_filename == "Spectrum of the composite map.svg"
    saved.value.save_as(tmp_path / "saved.svg")
    picture = (tmp_path / "saved.svg").read_text()
    assert picture.startswith("<svg")
    assert "singular value" in picture


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(scheme, opened):
    page = opened(420, color_scheme=scheme, is_mobile=True, has_touch=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == 420
    # Text and plots are legible on their ground: what is drawn has the scheme's own colours.
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light = [sum(map(int, re.findall(r"\d+", colour))) for colour in (ground, ink)]
    assert (light[0] > light[1]) == (scheme == "light")
    colour = plot(page, "Validation loss").locator(".plot").evaluate("e => e.data.at(-1).line.color")
    assert colour == ("#0a63b5" if scheme == "light" else "#5fadff")
    assert page.locator("figure:visible").count() == page.locator(".plot .main-svg").count() // 3


def test_paper_has_everything_and_no_controls(opened, tmp_path):
    page = opened()
    page.emulate_media(media="print")
    for control in (".saves", ".modes", ".axes", ".slider input"):
        assert page.locator(f"{control}:visible").count() == 0, control
    # Plots are drawn again, as wide as their columns on paper, and afterwards as they were.
    widths = (
        "[...document.querySelectorAll('.plot')].map(e => [e.clientWidth, e.querySelector('.main-svg').clientWidth])"
    )
    before = page.evaluate(widths)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(drawn_ == width <= 340 for width, drawn_ in page.evaluate(widths))
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(widths) == before
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
