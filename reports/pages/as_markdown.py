"""Pages as Markdown, in the dialect of GitHub."""

import html
from collections.abc import Iterator
from posixpath import dirname, relpath

from reports.formatting import escape
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
)
from reports.pages.tables import grid


def as_markdown(page: Page) -> str:
    """``page`` in Markdown; one without a path stands alone, so that its links are text."""
    lines = [line for block in page.blocks for line in _block(block, page.path)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _block(block: Block, path: str) -> Iterator[str]:
    match block:
        case Heading(level, text, anchor):
            lines = [f'<a id="{anchor}"></a>\n', f"{'#' * level} {escape(text)}\n"]
            yield from lines if level > 1 else reversed(lines)  # a page begins with its title
        case Paragraph(words, note, _):
            yield f"{'> Note: ' if note else ''}{_words(words, path)}\n"
        case Bullets(items):
            yield "\n".join(f"- {_words(item, path)}" for item in items) + "\n"
        case Table() as table:
            yield from _table(table, path)
        case Picture(figure, below):
            yield f"![{escape(figure.title)}: {escape(figure.alt)}]({relpath(figure.file, dirname(path) or '.')})\n"
            if below:
                yield f"{_words(below, path)}\n"


def _table(table: Table, path: str) -> Iterator[str]:
    rows = [[_words(cell, path) for cell in row] for row in table.rows]
    if table.folded:
        yield f"<details><summary>{html.escape(table.summary)}</summary>\n"
    yield grid([escape(head) for head in table.heads], rows) + "\n"
    if table.more:
        yield f"{table.more}\n"
    if table.folded:
        yield "</details>\n"


def _words(words: Words, path: str) -> str:
    return "".join(_inline(part, path) for part in parts(words))


def _inline(part: Inline, path: str) -> str:
    match part:
        case Link(text, _, anchor, True):
            return f'<a id="{anchor}"></a>{escape(text)}'
        case Link(text) if not path:
            return escape(text)
        case Link(text, page, anchor):
            file = page if page.rpartition("/")[2].count(".") else f"{page}.md"
            target = "" if page == path else relpath(file, dirname(path) or ".")
            return f"[{escape(text)}]({target}{f'#{anchor}' if anchor else ''})"
        case Code(text):
            return f"`{' '.join(text.split())}`" if "`" not in text and "|" not in text else escape(text)
        case Badge(text):
            return escape(text)
        case str():
            before, after = " " * (part[:1] == " "), " " * (part[-1:] == " " and len(part) > 1)
            return f"{before}{escape(part)}{after}"
