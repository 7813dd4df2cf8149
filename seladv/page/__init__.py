"""results/report.html: every result on one page that opens from disk, without network, with or without scripts."""

from collections.abc import Sequence
from pathlib import Path

from seladv.page import cost, study, verdicts
from seladv.page.data import Study
from seladv.page.html import Raw, element

HERE = Path(__file__).parent
PARTS = (
    ("verdicts", "Verdicts"),
    ("discrepancies", "Described and coded"),
    ("hardware", "Hardware and versions"),
    ("regenerate", "How to regenerate"),
)


def render(studies: Sequence[Study]) -> str:
    """The page. The same results give the same page, byte for byte.

    Args:
        studies: every protocol, as `page.data.load` finds it; what has not been run is said to be so.
    """
    title = verdicts.title(verdicts.headline(studies))
    before, *after = PARTS
    links = [before, *((one.name, one.name) for one in studies), *after]
    contents = element("ul", *(element("li", element("a", label, href=f"#{name}")) for name, label in links))
    skip = element("a", "Skip to the verdicts", href="#verdicts", class_="skip")
    header = element("header", element("h1", title), verdicts.summary(studies))
    main = element(
        "main",
        header,
        element("nav", contents, aria_label="Contents"),
        verdicts.verdicts(studies),
        *map(study.of, studies),
        verdicts.discrepancies(studies),
        cost.hardware(studies),
        cost.regenerate(studies),
    )
    script = element("script", Raw((HERE / "sort.js").read_text()))
    return f'<!DOCTYPE html>\n<html lang="en">\n{_head(title)}\n<body>\n{skip}\n{main}\n{script}\n</body>\n</html>\n'


def _head(title: str) -> Raw:
    style = element("style", Raw((HERE / "style.css").read_text()))
    meta = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    return element("head", Raw(f"\n{meta}\n"), element("title", title), Raw("\n"), style)
