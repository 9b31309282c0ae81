"""All pages of a report as one HTML file that needs nothing else, figures and all.

Its tables can be sorted and filtered; its colours follow the reader's light or dark theme.
"""

from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

from reports.figures.surfaces import stylesheet, svg
from reports.pages.document import (
    Badge,
    Block,
    Bullets,
    Code,
    Heading,
    Inline,
    Link,
    Page,
    Paragraph,
    Picture,
    Table,
    Words,
    parts,
    plain,
)
from reports.pages.tables import is_numeric

LONG = 60  # characters from which a column gets more room
WRAPPED = 24  # from which numbers, which are several then, stand on more than one line
TALL = 16  # rows from which a table scrolls by itself


def as_html(pages: Sequence[Page]) -> str:
    """One document: the first of ``pages`` as it is, the others folded below it."""
    front, *others = pages
    folder = resources.files("reports.pages")
    style, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    body = [_page(front), *map(_folded, others)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(front.title)}</title>\n<style>\n{stylesheet()}\n{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">To the content</a>\n{_navigation(others)}\n'
        f'<main id="main">\n{"".join(body)}</main>\n<script>\n{script}</script>\n</body>\n</html>\n'
    )


def _navigation(pages: Sequence[Page]) -> str:
    links = [("Front page", "top"), *((page.path.rpartition("/")[2], _anchor(page)) for page in pages)]
    items = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for name, anchor in links)
    return f'<nav aria-label="Pages"><ul>{items}</ul></nav>'


def _anchor(page: Page) -> str:
    return next((block.anchor for block in page.blocks if isinstance(block, Heading)), "top")


def _page(page: Page) -> str:
    return _blocks(page.blocks, 0)


def _folded(page: Page) -> str:
    summary = f"<summary><h2>{escape(page.title)}</h2></summary>"
    return f'<details class="suite" id="{_anchor(page)}">{summary}\n{_blocks(page.blocks[1:], 1)}</details>\n'


def _blocks(blocks: Sequence[Block], deeper: int) -> str:
    found: list[str] = []
    heading = ""
    for block in blocks:
        heading = block.text if isinstance(block, Heading) else heading
        found += _block(block, deeper, heading)
    return "".join(found)


def _block(block: Block, deeper: int, heading: str) -> Iterator[str]:
    """``block`` below ``heading``, which a figure of the same title does not show again."""
    match block:
        case Heading(level, text, anchor):
            tag = f"h{level + deeper}"
            yield f'<{tag} id="{anchor}">{escape(text)}</{tag}>\n'
        case Paragraph(words, note, in_html):
            if in_html:
                yield f'<p class="note">{_words(words)}</p>\n' if note else f"<p>{_words(words)}</p>\n"
        case Bullets(items):
            yield f"<ul>{''.join(f'<li>{_words(item)}</li>' for item in items)}</ul>\n"
        case Table() as table:
            yield from _table(table)
        case Picture(figure, below):
            alts = [figure.alt, *(f"{figure.title}, part {i}" for i in range(2, len(figure.drawings) + 1))]
            drawings = "".join(map(svg, figure.drawings, alts))
            under = f'<p class="below">{_words(below)}</p>' if below else ""
            hidden = ' class="hidden"' if figure.title == heading else ""
            yield f'<figure id="figure-{figure.stem}"><figcaption{hidden}>{escape(figure.title)}</figcaption>'
            named = f'role="group" aria-label="{escape(figure.title)}" tabindex="0"'  # it scrolls on a phone
            yield f'<div class="panels" {named}>{drawings}</div>{under}</figure>\n'


def _table(table: Table) -> Iterator[str]:
    columns = list(zip(*([plain(cell) for cell in row] for row in table.rows), strict=True))
    kinds = [_kind(column) for column in columns] or [""] * len(table.heads)
    if table.folded:
        yield f"<details><summary>{escape(table.summary)}</summary>\n"
    label = escape(f"{table.caption}: {', '.join(table.heads)}")  # tables of one caption differ in their columns
    tall = " tall" if len(table.rows) > TALL else ""
    yield f'<div class="table{tall}" role="region" aria-label="{label}" tabindex="0"><table>'
    yield f'<caption class="hidden">{label}</caption><thead><tr>'
    yield "".join(f'<th scope="col"{kind}>{escape(head)}</th>' for head, kind in zip(table.heads, kinds, strict=True))
    yield "</tr></thead><tbody>\n"
    for row in table.rows:
        first, *others = map(_words, row)
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        yield f'<tr><th scope="row"{kinds[0]}>{first}</th>{cells}</tr>\n'
    yield "</tbody></table></div>\n"
    if table.more:
        yield f"<p>{escape(table.more)}</p>\n"
    if table.folded:
        yield "</details>\n"


def _kind(column: Sequence[str]) -> str:
    if all(map(is_numeric, column)):
        return ' class="n"' if max(map(len, column)) < WRAPPED else ' class="n wrapped"'
    return ' class="long"' if max(map(len, column)) > LONG else ""


def _words(words: Words) -> str:
    return "".join(map(_inline, parts(words)))


def _inline(part: Inline) -> str:
    match part:
        case Link(text, _, anchor, True):
            return f'<span id="{anchor}">{escape(text)}</span>'
        case Link(text, page, anchor):
            return f'<a href="{f"#{anchor}" if anchor else escape(page)}">{escape(text)}</a>'
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case Badge(text):
            return f'<span class="badge b-{escape(text)}">{escape(text)}</span>'
        case str():
            return escape(part, quote=False)
