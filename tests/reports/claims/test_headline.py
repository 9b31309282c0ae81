"""Headlines and reference verdicts, counted by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from reports.claims.headline import headlines
from reports.claims.reference import beside, distilled, references
from reports.claims.verdict import Judgement, Reference
from reports.record import Record

Make = Callable[..., Record]
REFERENCE = Reference(measured=0.83, verdict="trend", why="w", run="kept")


def judgement(verdict: str, name: str = "c", **fields: Any) -> Judgement:
    own = {"suite": "s", "claim": name, "source": "Table I", "says": "it holds", "paper": 1, "measured": 1, "why": "w"}
    return msgspec.convert({**own, "verdict": verdict, **fields}, Judgement)


def test_a_headline_counts_predictions_and_all_others_apart() -> None:
    judged = [judgement(verdict) for verdict in ("reproduced", "reproduced", "inconclusive", "not-reproduced")]
    judged += [judgement(verdict, **{"class": "identity"}) for verdict in ("reproduced", "reproduced", "trend")]
    judged += [judgement("not-run", **{"class": "ours"}), judgement("reproduced", suite="t")]
    assert [one.text() for one in headlines(judged)] == [
        "s: 4 predictions: 2 reproduced, 1 inconclusive, 1 not-reproduced; identities 2 of 3; ours 0 of 1",
        "t: 1 prediction: 1 reproduced",
    ]
    (own,) = headlines([judgement("reproduced", **{"class": "ours"})])
    assert own.text() == "s: ours 1 of 1"
    found = headlines([*judged, judgement("trend", suite="u")], {"t": "A paper", "u": "A paper"})
    assert found[0].text() == "A paper: 2 predictions: 1 reproduced, 1 trend"  # papers first
    assert [one.name for one in found] == ["A paper", "s"]


def test_a_reference_run_counts_where_this_run_decides_nothing() -> None:
    verdicts = ("reproduced", "not-reproduced", "inconclusive", "not-comparable", "not-run")
    judged = beside([judgement(verdict, name=verdict) for verdict in verdicts], dict.fromkeys(verdicts, REFERENCE))
    assert [one.counted for one in judged] == ["reproduced", "not-reproduced", "inconclusive", "trend", "trend"]
    (found,) = headlines(judged)
    assert dict(found.here) == dict.fromkeys(verdicts, 1)
    assert dict(found.reference) == {"trend": 5}
    assert found.text() == (
        "s: 5 predictions: 1 reproduced, 2 trend, 1 inconclusive, 1 not-reproduced (2 by the reference run)"
    )
    assert beside(judged, {})[3].counted == "not-comparable"


def test_a_kept_run_gives_what_it_decided_with_its_conditions(tmp_path: Path, record: Make) -> None:
    verdicts = ("reproduced", "inconclusive", "not-comparable", "not-run", "inconsistent-in-paper")
    (tmp_path / "claims.json").write_bytes(msgspec.json.encode([judgement(one, name=one) for one in verdicts]))
    environment = {"scale": "paper", "started": "2026-11-30T12:00:00+00:00"}
    (tmp_path / "records.jsonl").write_bytes(msgspec.json.encode(record(1, dataset="cifar10-jpeg")))
    (tmp_path / "environment.json").write_bytes(msgspec.json.encode(environment))
    found = distilled(tmp_path)
    assert list(found) == ["reproduced", "inconclusive", "inconsistent-in-paper"]
    assert found["reproduced"].run == "s, cifar10-jpeg, scale paper, 2026-11-30"


def test_the_packaged_references_are_what_the_kept_runs_decided() -> None:
    root = Path(__file__).parents[3] / "reports"
    files = sorted((root / "reference").glob("*.json"))
    assert files
    for file in files:
        found = references(file.stem)
        kept = {reference.run.partition(",")[0] for reference in found.values()}
        assert found == distilled(*(root / "results" / name for name in kept))


def test_the_later_of_two_kept_runs_counts(tmp_path: Path, record: Make) -> None:
    for folder, started, judged in (("a", "2026-12-01", ["trend", "reproduced"]), ("b", "2026-11-30", ["reproduced"])):
        kept = tmp_path / folder
        kept.mkdir()
        claims = [judgement(verdict, name=f"claim-{number}") for number, verdict in enumerate(judged)]
        (kept / "claims.json").write_bytes(msgspec.json.encode(claims))
        (kept / "records.jsonl").write_bytes(msgspec.json.encode(record(1)))
        (kept / "environment.json").write_bytes(msgspec.json.encode({"scale": "paper", "started": started}))
    for order in (("a", "b"), ("b", "a")):
        found = distilled(*(tmp_path / folder for folder in order))
        assert [found[f"claim-{number}"].verdict for number in (0, 1)] == ["trend", "reproduced"]
