"""The committed page in a real browser: narrow and wide, light and dark, by mouse and by keyboard."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path to look at the page with")

# The least contrast (WCAG 2's ratio) between any text and the nearest painted background behind it.
CONTRAST = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, index) => {
    const value = color[index] / 255;
    return sum + weight * (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = parts(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const said = [...document.querySelectorAll("body *:not(script, style)")].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return Math.min(...said.map((element) => {
    const both = [parts(getComputedStyle(element).color), behind(element)].map(light).sort((a, b) => b - a);
    return (both[0] + 0.05) / (both[1] + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def shown(browser: Browser, root: Path, *, scheme: str = "light", width: int = 1280, scripts: bool = True) -> Page:
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 800},
        java_script_enabled=scripts,
    )
    page = context.new_page()
    page.goto((root / "results/report.html").as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_scrolls_down_only_and_every_text_stands_out(browser: Browser, root: Path, scheme: str) -> None:
    page = shown(browser, root, scheme=scheme, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("[...document.querySelectorAll('.box')].some((box) => box.scrollWidth > box.clientWidth)")
    assert page.evaluate(CONTRAST) >= 4.5
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_a_column_sorts_by_its_numbers_with_the_empty_ones_last(browser: Browser, root: Path) -> None:
    page = shown(browser, root)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    table = page.locator("#verdicts-digits table")
    head = table.locator("thead th", has_text="effect")
    place = head.evaluate("(cell) => cell.cellIndex")
    column = f"(rows) => rows.map((row) => row.cells[{place}].dataset.value)"
    before = table.locator("tbody tr").evaluate_all(column)
    known = sorted((float(value) for value in before if value), reverse=False)
    head.locator("button").focus()
    for direction, wanted in (("ascending", known), ("descending", known[::-1])):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        values = table.locator("tbody tr").evaluate_all(column)
        assert [float(value) for value in values[: len(known)]] == wanted
        assert values[len(known) :] == [""] * (len(before) - len(known))
    table.locator("thead th", has_text="verdict").locator("button").click()
    assert table.locator("th[aria-sort]").all_inner_texts() == ["verdict"]
    assert errors == []


def test_without_scripts_the_tables_are_plain(browser: Browser, root: Path) -> None:
    page = shown(browser, root, scripts=False)
    assert page.locator("table").count() > 1
    assert page.locator("button").count() == 0
