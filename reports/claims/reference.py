"""Verdicts of the kept reference runs, which come with the package and stand beside what ran here.

``python -m reports.claims.reference SUITE FOLDER...`` writes those of the kept runs in FOLDER on the claims of SUITE to
``reports/reference/SUITE.json``; of two runs that judge a claim the later one counts.
"""

import sys
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from reports.claims.verdict import UNDECIDED, Judgement, Reference
from reports.record import read_records


def references(suite: str) -> dict[str, Reference]:
    """The reference verdict on each claim of ``suite`` that a reference run could judge."""
    path = resources.files("reports") / "reference" / f"{suite}.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Reference]) if path.is_file() else {}


def beside(judgements: list[Judgement], known: dict[str, Reference]) -> list[Judgement]:
    """``judgements`` with the reference verdict on each claim."""
    return [msgspec.structs.replace(one, reference=known.get(one.claim)) for one in judgements]


def distilled(*folders: Path) -> dict[str, Reference]:
    """What the kept runs in ``folders`` decided, with their conditions, by claim."""
    environments: dict[Path, dict[str, Any]] = {
        folder: msgspec.json.decode((folder / "environment.json").read_bytes()) for folder in folders
    }
    found: dict[str, Reference] = {}
    for folder, environment in sorted(environments.items(), key=lambda item: str(item[1]["started"])):
        judgements = msgspec.json.decode((folder / "claims.json").read_bytes(), type=list[Judgement])
        dataset = " and ".join(sorted({record.dataset for record in read_records(folder / "records.jsonl")}))
        found |= {
            one.claim: Reference(
                measured=one.measured,
                verdict=one.verdict,
                why=one.why,
                run=f"{one.suite}, {dataset}, scale {environment['scale']}, {environment['started'][:10]}",
            )
            for one in judgements
            if one.verdict not in UNDECIDED
        }
    return found


if __name__ == "__main__":
    suite, *kept = sys.argv[1:]
    text = msgspec.json.format(msgspec.json.encode(distilled(*map(Path, kept))), indent=1)
    Path("reports", "reference", f"{suite}.json").write_bytes(text + b"\n")
