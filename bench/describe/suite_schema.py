"""JSON Schema (2020-12) of suite files, for editors: what ``bench validate`` checks, as far as a schema can say it.

It describes the file as written, with defaults, groups and tables of claims. An experiment's parameters are those of
its ``run``; where a group or the defaults give that, any are accepted.
"""

import json
from typing import Any

from bench.describe.answer import experiments
from bench.describe.json_types import Definitions, Schema
from bench.execution.loader import resolve_run
from bench.suite.schema import ExperimentSpec, SuiteFile
from reports.claims.claim import Claim

FILE = "suite.schema.json"  # beside the suites of the package
OWN = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$", "description": "module:function"}
NULL = {"type": "null"}  # takes away what a default or the suite that is extended gives
FITTED = {"type": "string", "pattern": r"^\$fitted\.\w+$"}


def suite_schema() -> Schema:
    """The schema, plain; ``$defs`` has a definition for each type, and for each ``run``."""
    definitions = Definitions()
    suite, experiment = (definitions.found[definitions.name(kind)] for kind in (SuiteFile, ExperimentSpec))
    claims = _claims(definitions.found.pop(definitions.name(Claim)))
    runs = {run: definitions.name(resolve_run(run)[1]) for run in experiments()}
    for name in set(runs.values()):
        definitions.found[name].pop("required", None)  # the rest may be in the grid, a group or the defaults
    keys = experiment["properties"]
    keys |= {key: {"anyOf": [one, NULL]} for key, one in keys.items() if key not in ("name", "run")}
    keys["run"] = {"anyOf": [{"enum": list(runs)}, OWN]}
    shared = {key: value for key, value in experiment.items() if key != "required"}
    experiment["required"] = ["name"]
    experiment["allOf"] = [_if_run(run, name) for run, name in runs.items()]
    suite["required"] = ["name"]
    suite["properties"] |= {
        "defaults": _ref("SharedByExperiments"),
        "groups": {"type": "object", "additionalProperties": _ref("SharedByExperiments")},
        "fit": {"anyOf": [{"type": "string"}, *suite["properties"]["fit"]["anyOf"]]},
        "claims": {"anyOf": [{"type": "string"}, {"type": "array", "items": _ref("Claims")}]},
    }
    found = definitions.found | {"SharedByExperiments": shared, "Claims": claims}
    for name in sorted(set(runs.values())):
        found |= _given(name, found[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "SplitMEC suite",
        "$ref": f"#/$defs/{definitions.name(SuiteFile)}",
        "$defs": dict(sorted(found.items())),
    }


def as_text(schema: Schema) -> str:
    """``schema`` as JSON, a line for each definition."""
    *head, (key, definitions) = schema.items()
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head]
    listed = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in definitions.items())
    return "\n".join(["{", *lines, f" {json.dumps(key)}: {{", listed, " }", "}"])


def _ref(name: str, *key: str) -> Schema:
    return {"$ref": "/".join(("#/$defs", name, *key))}


def _claims(claim: Schema) -> Schema:
    """A claim as written, with short forms, or a table of claims: ``$column`` may stand in place of any value."""
    keys: Schema = {
        key: {"description": one["description"]} if "description" in one else {}
        for key, one in claim["properties"].items()
    }
    table = {
        "columns": {"type": "array", "items": {"type": "string", "pattern": r"^\w+$"}},
        "rows": {"type": "array", "minItems": 1},
        "says": {"description": "the former name of statement"},
    }
    return {**claim, "properties": keys | table, "required": []}


def _if_run(run: str, name: str) -> Schema:
    return {"if": {"properties": {"run": {"const": run}}, "required": ["run"]}, "then": _ref(f"{name}Given")}


def _given(name: str, parameters: Schema) -> dict[str, Schema]:
    """Parameters, grid and scales of an experiment that takes ``parameters``; any value may be a fitted one."""
    values: dict[str, Any] = {
        key: {"anyOf": [_ref(name, "properties", key), FITTED]} for key in parameters["properties"]
    }
    given = {key: _ref(f"{name}Given", "properties", "parameters", "properties", key) for key in values}
    axes = {
        key: {"anyOf": [{"type": "array", "items": one}, {"type": "object", "additionalProperties": one}, NULL]}
        for key, one in given.items()
    }
    changed = {
        "parameters": {"properties": values, "additionalProperties": False},
        "grid": {"properties": axes, "additionalProperties": False},
    }
    at_scale = {"properties": {key: _ref(f"{name}Given", "properties", key) for key in changed}}
    return {f"{name}Given": {"properties": changed | {"scales": {"additionalProperties": at_scale}}}}
