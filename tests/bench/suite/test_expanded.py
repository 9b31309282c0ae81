"""Every packaged suite asks for what it did when ``expanded.jsonl.gz`` was written, but for ``renames.yaml``."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from bench.execution.loader import packaged, read_suite, resolve_run
from bench.suite.schema import SCALES, SuiteFile, points
from bench.suite.strict_yaml import convert
from reports.claims.claim import FORMS

FROZEN = Path(__file__).with_name("expanded.jsonl.gz")
RENAMES = yaml.safe_load(Path(__file__).with_name("renames.yaml").read_text(encoding="utf-8"))
ROLES = dict.fromkeys(("metric", "metrics", "cost", "worth"), "metric") | dict.fromkeys(("x", "series", "by"), "key")
LIMITS = ("tolerance", "at_least", "at_most")
SCHEME_OPTIONS = {"phi", "statistics", "staleness", "staleness_exponent"}  # stood beside the scheme they are of


@dataclass(frozen=True)
class Renames:
    """The table of ``renames.yaml``, for the experiments of one suite; ``used`` collects entries that renamed."""

    runs: dict[str, str]
    used: set[tuple[str, str, str]]

    def word(self, role: str, old: str, run: str) -> tuple[str, float]:
        """``old`` in today's words, and the factor of its numbers."""
        for scope in (run, "*"):
            new = RENAMES.get(scope, {}).get(role, {}).get(old)
            if new is not None:
                self.used.add((scope, role, old))
                ((name, factor),) = new.items() if isinstance(new, dict) else [(new, 1)]
                return name, factor
        return old, 1

    def value(self, value: Any, under: str = "", run: str = "*") -> Any:
        """``value``, which stands under a key in what ``run`` measures, in today's words and units."""
        if isinstance(value, list):
            return [self.value(item, under, run) for item in value]
        if isinstance(value, str):
            return self.word(ROLES.get(under, under), value, run)[0]
        if not isinstance(value, dict):
            return value
        if "experiment" in value:
            run = self.runs.get(value["experiment"], "*")  # a gate may be of any experiment
        run = value.get("run", run)
        value = self.scaled(value) if "claim" in value else value
        new = {self.word("key", key, run)[0]: self.value(item, key, run) for key, item in value.items()}
        if "scheme" in new and (own := new.keys() & SCHEME_OPTIONS):
            new["options"] = {name: new.pop(name) for name in own}
        return new

    def scaled(self, claim: dict[str, Any]) -> dict[str, Any]:
        """``claim``, in the old words, with its numbers in the units of today's metrics."""
        (name,) = (form for form in FORMS if claim[form])
        form = claim[name]
        selectors = form["of"] if name == "order" else [form[key] for key in ("of", "over", "minus") if key in form]
        (factor,) = {self.word("metric", one["metric"], self.runs[one["experiment"]])[1] for one in selectors}
        if name in ("order", "ratio") or factor == 1:
            return claim
        limits = {key: form[key] * factor for key in LIMITS if form[key] is not None}
        paper = {"paper": claim["paper"] * factor} if claim["paper"] is not None else {}
        return claim | paper | {name: form | limits}


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
    found: dict[str, Any] = loaded(msgspec.json.encode(whole).decode())
    return found


def fields(one: object, *names: str) -> dict[str, Any]:
    return {name: getattr(one, name) for name in names}


def loaded(text: str) -> Any:
    """The values of a JSON text, without the line ends that block styles of YAML put after a text."""
    return json.loads(text.replace('\\n"', '"'))


def frozen() -> tuple[dict[str, dict[str, Any]], set[tuple[str, str, str]]]:
    """The listing as it was written, by suite, in today's words, and the entries of ``RENAMES`` that it needed."""
    suites, used = {}, set()
    with gzip.open(FROZEN, "rt", encoding="utf-8") as file:
        for suite in map(loaded, file):
            experiments = {one["name"]: one for one in suite["experiments"]}
            renames = Renames({name: one["run"] for name, one in experiments.items()}, used)
            suites[suite["name"]] = renames.value(suite | {"experiments": experiments})
    return suites, used


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


LISTING, USED = frozen()


def test_the_packaged_suites_are_those_of_the_listing() -> None:
    assert packaged().keys() == LISTING.keys()


def test_every_rename_is_needed() -> None:
    tables = [(run, role, words) for run, roles in RENAMES.items() for role, words in roles.items()]
    assert {(run, role, old) for run, role, words in tables for old in words} == USED


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
