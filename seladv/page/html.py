"""The few pieces of HTML that the results page is made of. Text comes in as it is, and is escaped here."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from seladv.claims import NOT_RUN, NOT_SUPPORTED, SUPPORTED, UNDECIDED

SIGNS = {SUPPORTED: "✓", NOT_SUPPORTED: "✗", UNDECIDED: "?", NOT_RUN: "–", "pass": "✓", "fail": "✗"}


class Raw(str):
    """HTML already; everything else is text."""


class Cell(NamedTuple):
    """What a table shows; `value` is what it sorts by where that is not the text."""

    shown: str
    value: float | str | None = None


def html(value: object) -> Raw:
    """`value` as HTML."""
    return value if isinstance(value, Raw) else Raw(escape(str(value)))


def element(name: str, *content: object, **attributes: object) -> Raw:
    """`<name attributes>content</name>`; of an attribute's name, a last _ is dropped, an inner one becomes a dash."""
    pairs = [(key.rstrip("_").replace("_", "-"), str(value)) for key, value in attributes.items() if value is not None]
    opening = " ".join([name, *(f'{key}="{escape(value)}"' for key, value in pairs)])
    return Raw(f"<{opening}>{''.join(map(html, content))}</{name}>")


def number(value: float | None, half: float | None = None, *, digits: int = 1, sign: bool = False) -> Cell:
    """A cell that shows `value` ± `half` and sorts by `value`; a dash that sorts last for none."""
    if value is None or value != value:
        return Cell("–", "")
    shown = f"{value:{'+' if sign else ''}z.{digits}f}"
    return Cell(shown if half is None or half != half else f"{shown} ± {half:.{digits}f}", f"{value:.3f}")


def prose(*content: object) -> Raw:
    """What may run over several lines of a cell; all else stays on one."""
    return element("div", *content, class_="prose")


def image(source: str, alt: str) -> Raw:
    """A picture, and what it shows in words."""
    return Raw(f'<img src="{escape(source)}" alt="{escape(alt)}">')


def mark(verdict: str) -> Raw:
    """A verdict in words, with a sign: colour only repeats them."""
    sign = element("span", SIGNS[verdict], aria_hidden="true")
    return element("span", sign, " ", verdict, class_=f"mark {verdict.replace(' ', '-')}")


def section(level: int, name: str, title: object, *content: object) -> Raw:
    """A section that links lead to by `name`, under a heading of `level`."""
    heading = element(f"h{level}", title, id=f"{name}-title")
    return Raw("\n" + element("section", heading, *content, id=name, aria_labelledby=f"{name}-title") + "\n")


def paragraph(*content: object) -> Raw:
    """A paragraph."""
    return Raw("\n" + element("p", *content))


def items(entries: Sequence[object]) -> Raw:
    """A list."""
    return Raw("\n" + element("ul", *(element("li", entry) for entry in entries)))


def box(label: str, content: Raw) -> Raw:
    """Scrolls sideways by itself where it is too wide, by the keyboard too."""
    return Raw("\n" + element("div", content, class_="box", role="region", tabindex="0", aria_label=label))


def table(caption: str, header: Sequence[str], body: Sequence[Sequence[object]], *, text: Sequence[str]) -> Raw:
    """A table whose columns sort where scripts run; the columns in `text` are that, the others numbers."""
    sides = [None if name in text else "number" for name in header]
    head = element(
        "tr", *(element("th", name, scope="col", class_=side) for name, side in zip(header, sides, strict=True))
    )
    rows = [element("tr", *(_cell(*each) for each in zip(row, sides, range(len(row)), strict=True))) for row in body]
    return box(
        caption,
        element("table", element("caption", caption), element("thead", head), element("tbody", *map(_line, rows))),
    )


def _line(row: Raw) -> Raw:
    return Raw(f"\n{row}")


def _cell(cell: object, side: str | None, column: int) -> Raw:
    shown, value = cell if isinstance(cell, Cell) else (cell, None)
    name, scope = ("th", "row") if column == 0 else ("td", None)
    return element(name, shown, scope=scope, class_=side, data_value=value)
