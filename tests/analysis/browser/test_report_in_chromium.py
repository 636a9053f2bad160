"""The report in a real browser: from file://, without a network, by mouse, by keyboard, by screen reader's rules, and on paper."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from PIL import Image, ImageChops

from pipeline.analysis.figures.style import grid_of_axes, save_figure
from pipeline.analysis.report.figures import Shared, inline_svg
from tests.analysis.report_study import Study, write_study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_runner = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")

# Without the flags about background work the browser looks up hosts of its own at every start.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1200, "height": 900}
PAGES = ("report/index.html", "report/trials/t000.html", "report/trials/t111.html", "tables/datasets.html", "tables/loss_weight.html")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., dict[str, Any]]) -> Study:
    """A written report with its tables."""
    return write_study(tmp_path_factory.mktemp("study"), make_spec)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless browser for all tests of this file."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A page of a file, in a context of its own; fails on an error in the console or a request that leaves the folder."""
    context = browser.new_context(**{"viewport": DESK, **options})
    troubles: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.on("requestfailed", lambda request: troubles.append(f"not loaded: {request.url}"))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert troubles == []


def column(page: Any, table: str, number: int) -> list[str]:
    """Texts of one column, from top to bottom; 0 is that of the row labels."""
    script = "([table, n]) => [...document.querySelectorAll(table + ' tbody tr:not(.group)')].map(row => row.cells[n].innerText)"
    return page.evaluate(script, [table, number])


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_from_a_file_without_errors_or_network(study: Study, browser: Any, name: str) -> None:
    """A page shows its heading or table; nothing is logged, and nothing is asked for outside the folder."""
    with opened(browser, study.folder / name) as page:
        assert page.locator("h1, table").first.is_visible()
        assert page.evaluate("performance.getEntriesByType('resource').every(entry => entry.name.startsWith('file:'))")


def test_every_link_leads_somewhere(study: Study, browser: Any) -> None:
    """Each link as the browser reads it ends at a file that exists and, with a #, at an element of it."""
    pages = [study.index, *sorted((study.folder / "tables").glob("*.html")), *(study.folder / name for name in PAGES if "trials" in name)]
    links: dict[Path, list[str]] = {}
    ids: dict[Path, set[str]] = {}
    context = browser.new_context()
    page = context.new_page()
    for path in pages:
        page.goto(path.as_uri())
        links[path] = page.evaluate("[...document.querySelectorAll('a[href], link[href]')].map(link => link.href)")
        ids[path] = set(page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)"))
    context.close()
    followed = 0
    for path, hrefs in links.items():
        for href in hrefs:
            url, fragment = urldefrag(href)
            if href.startswith("http://127.0.0.1:5000/#/experiments/"):
                continue
            target = Path(unquote(urlsplit(url).path))
            assert target.is_file(), f"{path.name} links to {href}"
            assert not fragment or unquote(fragment) in ids[target], f"{path.name} links to {href}"
            followed += 1
    assert followed > 300


def test_a_number_leads_to_its_trials_and_a_trial_back(study: Study, browser: Any) -> None:
    """A click on a number unfolds the list of its trials; from there to a trial's page, and back to the same cell."""
    cell = study.results[0].cell("resnet8", "cam")
    with opened(browser, study.index) as page:
        place = page.locator("#cell-backbones-1-2")
        assert not place.is_visible()
        page.locator('a[href="#cell-backbones-1-2"]').first.click()
        assert place.is_visible()
        trials = place.locator("a[href^='trials/']")
        assert [name.split()[-1] for name in trials.all_inner_texts()] == list(cell.trial_ids)
        assert [line.split(" %")[0] for line in place.locator("dd").all_inner_texts() if line.startswith("seed")] == [
            f"seed {seed}: {100 * value:.2f}" for seed, value in zip(cell.seeds, cell.values, strict=True)
        ]
        trials.first.click()
        page.get_by_role("link", name="resnet8 / cam").click()
        assert page.url.endswith("report/index.html#cell-backbones-1-2")
        assert page.locator("#cell-backbones-1-2").is_visible()


def test_a_difference_leads_to_its_test(study: Study, browser: Any) -> None:
    """A click on a difference unfolds its row of the statistics."""
    with opened(browser, study.index) as page:
        page.locator('a[href="#difference-datasets-2-2-1"]').first.click()
        row = page.locator("#difference-datasets-2-2-1")
        assert row.is_visible()
        assert row.locator("th, td").all_inner_texts()[:3] == ["digits · resnet110", "cam", "acc_top1 (%)"]


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_sorting_goes_up_down_and_back(study: Study, browser: Any, how: str) -> None:
    """A heading sorts by number, cells without one last, says so to a screen reader, and gives the first order back."""
    table = "section:nth-of-type(1) > .table table"
    with opened(browser, study.index) as page:
        heading = page.locator(f"{table} th[data-column='2']")
        button = heading.locator("button")
        first = column(page, table, 0)
        assert first == ["resnet8", "wrn_10_1", "vit_tiny"]
        seen = []
        for _ in range(3):
            if how == "mouse":
                button.click()
            else:
                button.focus()
                page.keyboard.press("Enter")
            seen.append((heading.get_attribute("aria-sort"), column(page, table, 0)))
        assert [direction for direction, _ in seen] == ["ascending", "descending", None]
        assert seen[2][1] == first
        assert [labels[0] for _, labels in seen[:2]] == ["resnet8", "resnet8"]  # the only one with a number in this column
        page.locator(f"{table} th[data-column='1'] button").click()
        numbers = [float(text.split()[0]) for text in column(page, table, 1)]
        assert numbers == sorted(numbers)
        assert numbers != [float(text.split()[0]) for text in sorted(column(page, table, 1), reverse=True)]
        assert page.locator(f"{table} [aria-sort]").count() == 1


def test_sorting_keeps_groups_together_and_closing_lines_last(study: Study, browser: Any) -> None:
    """Rows move within the heading they stand under; ranks stay below."""
    table = "section:nth-of-type(2) > .table table"
    labels = f"[...document.querySelectorAll('{table} :is(tbody, tfoot) th')].map(cell => cell.innerText)"
    with opened(browser, study.index) as page:
        before = page.evaluate(labels)
        assert before == ["digits", "resnet20", "resnet110", "letters", "resnet20", "resnet110", "average rank"]
        page.locator(f"{table} th[data-column='0'] button").click()
        page.locator(f"{table} th[data-column='0'] button").click()
        assert page.evaluate(labels) == [before[i] for i in (0, 2, 1, 3, 5, 4, 6)]
        page.locator(f"{table} th[data-column='3'] button").click()
        for group in range(2):
            script = "([t, g]) => [...document.querySelector(t).tBodies[g].rows].slice(1).map(row => parseFloat(row.cells[3].innerText))"
            numbers = page.evaluate(script, [table, group])
            assert numbers == sorted(numbers)


def test_without_script_tables_are_plain(study: Study, browser: Any) -> None:
    """No button that does nothing, all numbers there."""
    with opened(browser, study.index, java_script_enabled=False) as page:
        assert page.locator("th button").count() == 0
        assert page.locator("section table").first.is_visible()
        assert page.locator("section:nth-of-type(1) > .table tbody td").count() == 9


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_no_page_sideways(study: Study, browser: Any, name: str) -> None:
    """At 360 pixels no page is wider than the screen, all folds open; what is wider scrolls by itself."""
    with opened(browser, study.folder / name, viewport=PHONE) as page:
        page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        script = """[...document.querySelectorAll('main *')].filter(element => !element.closest('.table, .picture, svg'))
            .filter(element => element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 80))"""
        assert page.evaluate(script) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(study: Study, browser: Any, name: str, scheme: str) -> None:
    """The rules of axe-core, contrast among them, in both colour schemes and with all folds open."""
    with opened(browser, study.folder / name, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        inside = {"exclude": [[".picture svg > *"], [".shared"]]}  # thousands of lines and letters, which have no rules of their own
        found = axe_runner.Axe().run(page, context=inside, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
        serious = [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found if rule["impact"] in ("serious", "critical")]
        assert serious == []


def test_the_schemes_differ_and_paper_is_white(study: Study, browser: Any) -> None:
    """Dark is dark, figures stay on white, and a page printed from a dark screen is dark ink on white."""
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, study.index, color_scheme="dark") as page:
        assert page.evaluate(ground) == "rgb(23, 23, 26)"
        assert page.evaluate("getComputedStyle(document.querySelector('.picture')).backgroundColor") == "rgb(255, 255, 255)"
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def test_paper_shows_what_the_screen_folds(study: Study, browser: Any, tmp_path: Path) -> None:
    """On paper the statistics and trials are printed, headings lose their arrows, and the folds close again after printing."""
    with opened(browser, study.index) as page:
        assert page.locator("details:not([open])").count() >= 6
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.locator("details:not([open])").count() == 0
        assert page.locator("#cell-backbones-1-1").is_visible()
        assert page.evaluate("getComputedStyle(document.querySelector('th button'), '::after').content") == "none"
        assert page.locator("a", has_text="MLflow run").count() > 20
        assert not any(link.is_visible() for link in page.locator("a", has_text="MLflow run").all()[:5])
        assert not page.get_by_text("Links to MLflow work while").is_visible()
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() >= 6
        page.emulate_media(media=None)
        assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_wide_table_shows_a_shade_where_there_is_more(study: Study, browser: Any) -> None:
    """On a phone the edge of a cut-off table is darker than the page, and no longer once it is scrolled to its end."""
    with opened(browser, study.index, viewport=PHONE) as page:
        table = page.locator("section:nth-of-type(2) > .table")
        assert table.evaluate("element => element.scrollWidth > element.clientWidth")
        shades = []
        for left in (0, 10_000):
            table.evaluate("(element, left) => { element.scrollLeft = left; }", left)
            shot = picture(table.screenshot())
            shades.append(median(shot.getpixel((shot.width - 1, y))[0] for y in range(shot.height)))
        assert shades[0] < 225 < shades[1]


def test_inlined_figures_look_as_drawn(browser: Any, tmp_path: Path) -> None:
    """Sharing letters, images and styles between two figures changes no pixel of them."""
    paths = []
    for i in range(2):
        figure, axes = grid_of_axes(2, share_y=False)
        axes[0].plot([1, 2, 3], [2.5, 3.1, 2 + i], "o--", label="a")
        axes[0].set_title("Tick labels, ± and Δ")
        axes[1].imshow([[0, 1, 2], [3, 4, 5]], interpolation="nearest")
        paths.append(save_figure(figure, tmp_path / f"t.{i}")[0])
    shared = Shared()
    inlined = [inline_svg(path.read_text(encoding="utf-8"), "a figure", shared) for path in paths]
    style = f":where(svg *) {{ stroke-linejoin: round; stroke-linecap: butt }} {shared.styles}"
    hidden = f'<svg class="shared" width="0" height="0"><defs>{shared.shapes}</defs></svg>'
    for path, ours in zip(paths, inlined, strict=True):
        theirs = path.read_text(encoding="utf-8")
        drawn = []
        for name, css, markup in (("ours", style, ours + hidden), ("theirs", "", theirs[theirs.index("<svg") :])):
            (tmp_path / f"{name}.html").write_text(f"<!DOCTYPE html><style>body {{ margin: 0 }} {css}</style>{markup}", encoding="utf-8")
            with opened(browser, tmp_path / f"{name}.html") as page:
                drawn.append(picture(page.screenshot()))
        assert len(drawn[0].getcolors(1 << 20)) > 10
        assert ImageChops.difference(*drawn).getbbox() is None


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")
