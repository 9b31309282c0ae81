"""Pages of the site that are not files of docs/: some files of the repository, and the reference, written from code.

Links are written for readers of the repository. On the site a link to a page goes to the page, and one to any other
file is its text alone.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import reference  # noqa: E402  (beside this file)

COPIED = {  # page of the site: file of the repository
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "results.md": "reports/results/README.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for page, source in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, source, page)))
    for name in reference.PAGES:
        files.append(File.generated(config, f"reference/{name}.md", content=reference.page(name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page of docs/ into those of the site."""
    path = page.file.src_uri
    return markdown if path in COPIED or path.startswith("reference/") else relinked(markdown, f"docs/{path}", path)


def relinked(text: str, source: str, page: str) -> str:
    """``text`` of the file ``source`` with links as ``page`` needs them; code blocks are left as they are."""
    pages = {file: name for name, file in COPIED.items()}
    pages |= {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.*")}

    def link(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        if not target or "://" in target:
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if file not in pages:
            return words
        there = posixpath.relpath(pages[file], posixpath.dirname(page) or ".")
        return f"{picture}[{words}]({there}{anchor or ''})"

    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in FENCED.split(text))
