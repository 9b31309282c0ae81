"""Every packaged suite asks for what it did when ``expanded.jsonl.gz`` was written.

``python tests/bench/suite/test_expanded.py`` writes it again, for a change of a suite that is meant.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.execution.loader import resolve_run
from bench.suite.find import packaged, read_suite
from bench.suite.schema import SCALES, SuiteFile, points
from bench.suite.strict_yaml import convert

FROZEN = Path(__file__).with_name("expanded.jsonl.gz")


def expanded(path: Path) -> dict[str, Any]:
    """All of a suite that decides or judges numbers, with every case at every scale, as plain values."""
    document = read_suite(path)
    suite = convert(document, SuiteFile)
    document.check()
    assert suite is not None
    experiments = {}
    for spec in suite.experiments:
        scales = {}
        for scale in SCALES:
            here = spec.at(scale)
            cases = [[labels, here.parameters | values] for labels, values in points(here.grid)]
            scales[scale] = fields(here, "seeds", "estimate_s", "skip") | {"cases": cases}
        own = {"dataset": spec.dataset or suite.dataset, "scales": scales}
        experiments[spec.name] = fields(spec, "name", "run", "mode", "parallel", "figures") | own
    claims = {claim.claim: claim for claim in suite.claims}
    whole = fields(suite, "name", "include", "gate", "fronts") | {"experiments": experiments, "claims": claims}
    found: dict[str, Any] = json.loads(msgspec.json.encode(whole))
    return found


def fields(one: object, *names: str) -> dict[str, Any]:
    return {name: getattr(one, name) for name in names}


def typed(experiment: dict[str, Any]) -> dict[str, Any]:
    """``experiment`` with parameters of its own type, in which a default given and one left out are the same."""
    _, kind = resolve_run(experiment["run"])
    scales = {
        scale: here | {"cases": [(labels, parameters(values, kind)) for labels, values in here["cases"]]}
        for scale, here in experiment["scales"].items()
    }
    return experiment | {"scales": scales}


def parameters(values: dict[str, Any], kind: type[msgspec.Struct]) -> msgspec.Struct:
    return msgspec.convert(values, kind, dec_hook=lambda name, value: name(value))


LISTING = {suite["name"]: suite for suite in map(json.loads, gzip.decompress(FROZEN.read_bytes()).splitlines())}


def test_the_packaged_suites_are_those_of_the_listing() -> None:
    assert packaged().keys() == LISTING.keys()


@pytest.mark.parametrize("name", LISTING)
def test_a_suite_expands_to_what_it_was(name: str) -> None:
    found, wanted = expanded(packaged()[name]), LISTING[name]
    assert found["experiments"].keys() == wanted["experiments"].keys()
    for one, then in wanted["experiments"].items():
        assert typed(found["experiments"][one]) == typed(then)
    assert found["claims"].keys() == wanted["claims"].keys()
    for claim, then in wanted["claims"].items():
        assert found["claims"][claim] == then
    assert {**found, "experiments": {}} == {**wanted, "experiments": {}}


if __name__ == "__main__":
    lines = "".join(json.dumps(expanded(path)) + "\n" for path in packaged().values())
    FROZEN.write_bytes(gzip.compress(lines.encode(), mtime=0))
