"""Short forms of claims: tables of which each row is a claim, and selectors that say a thing once.

A table is a claim with ``columns`` and ``rows``. A row has a cell for each column and may end with a mapping of
further keys of its claim; ``$column`` in the table's other keys stands for the cell. A column that is called like a
key of claims, but for their forms, is that key unless the table gives it. Without columns rows are mappings alone.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from bench.suite.document import Document, Node
from nodes.imports import did_you_mean
from reports.claims.claim import FORMS, Claim

KEYS = {field.encode_name for field in msgspec.structs.fields(Claim)} - {*FORMS}
COLUMN = re.compile(r"\$(?:(\w+)|\{(\w+)\}|(\$))")  # $name, ${name}; $$ is one $


def spelt_out(document: Document, claims: Node) -> Node:
    """``claims`` with the claim of each row for every table, and with selectors in full. Notes problems."""
    if not isinstance(claims.value, list):
        return claims
    found: list[Node] = []
    for item in claims.value:
        table = isinstance(item.value, dict) and not item.value.keys().isdisjoint(("columns", "rows"))
        found += _claims(document, item) if table else [item]
    return replace(claims, value=[_in_full(document, item) for item in found])


def _claims(document: Document, table: Node) -> Iterator[Node]:
    common = {key: item for key, item in table.value.items() if key not in ("columns", "rows")}
    columns = _columns(document, table)
    rows = table.value.get("rows", replace(table, value=None, key=(*table.key, "rows")))
    if not isinstance(rows.value, list) or not rows.value:
        document.note(rows, "a table needs one row or more")
        return
    for name, column in columns.items():
        if name in KEYS:
            common.setdefault(name, replace(column, value=f"${name}"))
    placed = [(node, name) for item in common.values() for node, name in _placed(item)]
    for node, name in placed:
        if name not in columns:
            document.note(node, f"the table has no column {name!r}{did_you_mean(name, columns)}")
    for name in columns.keys() - {name for _, name in placed}:
        document.note(columns[name], f"nothing in the table is ${name}")
    for row in rows.value:
        *cells, last = row.value if isinstance(row.value, list) and row.value else [row]
        further = last.value if isinstance(last.value, dict) and len(cells) == len(columns) else {}
        cells = cells if further else [*cells, last]
        if len(cells) == len(columns):
            by_name = dict(zip(columns, cells, strict=True))
            filled = {key: _filled(document, item, row, by_name) for key, item in common.items()}
            yield replace(row, value=filled | further)
        else:
            names = ", ".join(columns) or "none, so the row is a mapping"
            document.note(row, f"expected a cell for each column ({names}), got {len(cells)}")


def _columns(document: Document, table: Node) -> dict[str, Node]:
    node = table.value.get("columns")
    found: dict[str, Node] = {}
    for item in node.value if node and isinstance(node.value, list) else []:
        if not isinstance(item.value, str) or not re.fullmatch(r"\w+", item.value) or item.value in found:
            document.note(item, "a column needs a name of letters, digits and _, which no other has")
        found[str(item.value)] = item
    if node and not found:
        document.note(node, "expected a list of names")
    return found


def _placed(node: Node) -> Iterator[tuple[Node, str]]:
    for item in node.parts.values():
        yield from _placed(item)
    if isinstance(node.value, str):
        for match in COLUMN.finditer(node.value):
            if not match[3]:
                yield node, match[1] or match[2]


def _filled(document: Document, node: Node, row: Node, cells: dict[str, Node]) -> Node:
    """``node`` with the cells of ``row`` in place of ``$column``."""
    if node.parts:
        return node.mapped(lambda item: _filled(document, item, row, cells))
    if not isinstance(node.value, str) or not any(_placed(node)):
        return node
    if (whole := COLUMN.fullmatch(node.value)) and (whole[1] or whole[2]) in cells:
        return cells[whole[1] or whole[2]]

    def text(match: re.Match[str]) -> str:
        cell = cells.get(match[1] or match[2])
        if cell and isinstance(cell.value, dict | list | bool | None):
            document.note(cell, f"expected text or a number, as it stands within {node.value!r:.60}")
        return "$" if match[3] else str(cell.value) if cell else match[0]

    return replace(row, value=COLUMN.sub(text, node.value))


def _in_full(document: Document, claim: Node) -> Node:
    if not isinstance(claim.value, dict):
        return claim
    former = {} if "statement" in claim.value else {"says": "statement"}  # its name in version 0.1
    keys = {former.get(key, key): item for key, item in claim.value.items()}
    for name, other in (("ratio", "over"), ("difference", "minus"), ("order", None)):
        form = keys.get(name)
        of = _mapping_in(form, "of")
        if form is None or of is None:
            continue
        if other is None:
            keys[name] = replace(form, value=form.value | {"of": _series(document, of)})
        elif second := _mapping_in(form, other):
            same = {key: of.value[key] for key in ("experiment", "metric") if key in of.value}
            keys[name] = replace(form, value=form.value | {other: replace(second, value=same | second.value)})
    return replace(claim, value=keys)


def _mapping_in(node: Node | None, key: str) -> Node | None:
    found = node.value.get(key) if node and isinstance(node.value, dict) else None
    return found if found and isinstance(found.value, dict) else None


def _series(document: Document, of: Node) -> Node:
    case = _mapping_in(of, "case")
    inner = case.value if case else {}
    lists = [name for name, item in (inner | of.value).items() if isinstance(item.value, list)]
    if len(lists) != 1:
        document.note(of, f"expected one list, whose values are compared, got {len(lists)}")
        return of
    (name,) = lists
    if name in of.value:
        return replace(of, value=[replace(of, value=of.value | {name: item}) for item in of.value[name].value])
    assert case is not None  # a list in it
    cases = [replace(case, value=inner | {name: item}) for item in inner[name].value]
    return replace(of, value=[replace(of, value=of.value | {"case": item}) for item in cases])
