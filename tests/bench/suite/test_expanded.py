"""Every packaged suite asks for what it asked for when ``expanded.jsonl.gz`` was written, but for renamed words."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.execution.loader import packaged, read_suite, resolve_run
from bench.suite.schema import SCALES, SuiteFile, points
from bench.suite.strict_yaml import convert

FROZEN = Path(__file__).with_name("expanded.jsonl.gz")
# Words of the frozen listing and what they are called now: keys of a mapping, and texts anywhere.
KEYS = {"says": "statement", "whole_s": "model_compute_s", "rooms_bytes": "budget_bytes_per_sample"}
TEXTS = {
    "perhaps(imagenet100)": "optional(imagenet100)",
    "perhaps(stl10)": "optional(stl10)",
    "nodes.zoo.small_cnn:small_cnn": "small_cnn",
    "nodes.zoo.resnet:thin_resnet18": "thin_resnet18",
    "nodes.zoo.resnet:thin_resnet101": "thin_resnet101",
    "nodes.zoo.vgg:vgg11": "full_vgg11",
    "nodes.zoo.vgg:half_vgg11": "half_vgg11",
    "nodes.zoo.vgg:small_vgg11": "small_vgg11",
    "nodes.zoo.vgg:tiny_vgg11": "tiny_vgg11",
    "nodes.stages.noise:Noise": "noise",
    "nodes.stages.compressors:TopK": "topk",
    "nodes.stages.compressors:CircularConvolution": "c3sl",
    "nodes.stages.deprune.stage:Pruned": "pruned",
    "nodes.stages.dynsplit.stage:DynSplit": "dynsplit",
    "a matter of seconds each": "takes several seconds per link",
}


def expanded(path: Path) -> dict[str, Any]:
    """All of a suite that decides or judges numbers, with every case at every scale, as plain values."""
    document = read_suite(path)
    suite = convert(document, SuiteFile)
    document.check()
    assert suite is not None
    experiments = []
    for spec in suite.experiments:
        scales = {}
        for scale in SCALES:
            here = spec.at(scale)
            scales[scale] = {
                "seeds": here.seeds,
                "estimate_s": here.estimate_s,
                "skip": here.skip,
                "cases": [[labels, here.parameters | values] for labels, values in points(here.grid)],
            }
        experiments.append(
            {
                "name": spec.name,
                "run": spec.run,
                "mode": spec.mode,
                "dataset": spec.dataset or suite.dataset,
                "parallel": spec.parallel,
                "figures": spec.figures,
                "scales": scales,
            }
        )
    plain = msgspec.json.encode(
        {
            "name": suite.name,
            "include": suite.include,
            "experiments": {one["name"]: one for one in experiments},
            "claims": {claim.claim: claim for claim in suite.claims},
            "gate": suite.gate,
            "fronts": suite.fronts,
        }
    )
    found: dict[str, Any] = named_today(json.loads(plain))
    return found


def frozen() -> list[dict[str, Any]]:
    """The listing as it was written, in today's words."""
    with gzip.open(FROZEN, "rt", encoding="utf-8") as file:
        return [named_today(json.loads(line)) for line in file]


def named_today(value: Any) -> Any:
    """``value`` in today's words, each white space one space."""
    if isinstance(value, dict):
        return {KEYS.get(key, key): named_today(item) for key, item in value.items()}
    if isinstance(value, list):
        return [named_today(item) for item in value]
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return TEXTS.get(text, text)


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


LISTING = {suite["name"]: suite for suite in frozen()}


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
