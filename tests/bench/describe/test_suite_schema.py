"""The JSON Schema of suites: shipped as printed, and true of every shipped suite; a small validator reads it."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.describe.suite_schema import FILE, as_text, suite_schema
from bench.suite.document import parse, read
from bench.suite.find import packaged

KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}
USED = {  # keywords that the validator below knows; what only informs comes last
    *("$ref", "anyOf", "allOf", "if", "then", "type", "const", "enum", "pattern", "properties", "additionalProperties"),
    *("required", "items", "prefixItems", "minItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("description", "default", "title", "$schema", "$defs"),
}


@cache
def schema() -> dict[str, Any]:
    return suite_schema()


def at(reference: str) -> Any:
    found: Any = schema()
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def is_valid(value: Any, rule: Any) -> bool:
    """Whether ``value`` is valid by JSON Schema, of the keywords in ``USED``."""
    if isinstance(rule, bool):
        return rule
    assert rule.keys() <= USED, rule.keys() - USED
    wrong = (
        ("$ref" in rule and not is_valid(value, at(rule["$ref"])))
        or ("anyOf" in rule and not any(is_valid(value, one) for one in rule["anyOf"]))
        or not all(is_valid(value, one) for one in rule.get("allOf", ()))
        or ("if" in rule and is_valid(value, rule["if"]) and not is_valid(value, rule["then"]))
        or (
            "type" in rule
            and not any(is_of(value, kind) for kind in [rule["type"]] if isinstance(kind, str))
            and not (isinstance(rule["type"], list) and any(is_of(value, kind) for kind in rule["type"]))
        )
        or ("const" in rule and value != rule["const"])
        or ("enum" in rule and value not in rule["enum"])
    )
    return not wrong and parts_are_valid(value, rule)


def is_of(value: Any, kind: str) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def parts_are_valid(value: Any, rule: dict[str, Any]) -> bool:
    if isinstance(value, dict):
        known, others = rule.get("properties", {}), rule.get("additionalProperties", True)
        return set(rule.get("required", ())) <= value.keys() and all(
            is_valid(part, known.get(key, others)) for key, part in value.items()
        )
    if isinstance(value, list):
        first = rule.get("prefixItems", [])
        rules = [*first, *[rule.get("items", True)] * (len(value) - len(first))]
        return len(value) >= rule.get("minItems", 0) and all(map(is_valid, value, rules))
    if isinstance(value, str):
        return "pattern" not in rule or bool(re.search(rule["pattern"], value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return rule.get("minimum", value) <= value <= rule.get("maximum", value) and rule.get(
            "exclusiveMinimum", value - 1
        ) < value < rule.get("exclusiveMaximum", value + 1)
    return True


def test_the_shipped_schema_is_the_one_that_bench_schema_prints() -> None:
    shipped = packaged()["all"].parent / FILE
    assert shipped.read_text() == as_text(schema()) + "\n", "write it again: bench schema > suites/suite.schema.json"
    assert json.loads(shipped.read_text())["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("name", sorted(packaged()))
def test_every_shipped_suite_names_the_schema_and_is_valid_by_it(name: str) -> None:
    path = packaged()[name]
    first = path.read_text().splitlines()[0]
    reference = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / reference).resolve() == (packaged()["all"].parent / FILE).resolve()
    assert is_valid(read(path).value, schema())


@pytest.mark.parametrize(
    "wrong",
    [
        "{name: x, claimz: []}",
        "{title: x}",
        "{name: x, experiments: [{run: pipeline.chain}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chian}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, parameters: {epoch: 1}}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, parameters: {nodes: 0}}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, parameters: {optimizer: {lr: fast}}}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, grid: {nodes: 3}}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, scales: {smoke: {parameters: {epoch: 1}}}}]}",
        "{name: x, defaults: {seed: 3}}",
        "{name: x, claims: [{claim: a, texts: b}]}",
    ],
)
def test_what_is_wrong_is_seen(wrong: str) -> None:
    assert not is_valid(parse(Path("x.yaml"), wrong.encode()).value, schema())


@pytest.mark.parametrize(
    "right",
    [
        "{name: x, experiments: [{name: a, run: 'mine:measure', parameters: {any: 1}}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, parameters: {nodes: $fitted.n}}]}",
        "{name: x, experiments: [{name: a, run: pipeline.chain, grid: {stage: {s: {name: topk}}}}]}",
        "{name: x, groups: {g: {run: pipeline.chain}}, experiments: [{name: a, group: g}]}",
    ],
)
def test_what_is_right_is_accepted(right: str) -> None:
    assert is_valid(parse(Path("x.yaml"), right.encode()).value, schema())
