"""Judge the claims of suites by the records of a run, when it ends and again after their text has changed."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from bench.suite.document import InputError
from bench.suite.find import find, packaged, read_suite
from nodes.files import replacing
from nodes.imports import did_you_mean
from reports.claims.claim import Claim
from reports.claims.reference import beside, references
from reports.claims.verdict import Judgement, judge_all
from reports.pages.report import read_run
from reports.record import Record

CLAIMS = "claims.json"


def judge_suites(claims: dict[str, list[Claim]], records: list[Record]) -> list[Judgement]:
    """Judge the ``claims`` of each suite by name, with the verdicts of reference runs beside."""
    judged = (beside(judge_all(listed, suite, records), references(suite)) for suite, listed in claims.items())
    return [one for suite in judged for one in suite]


def write_claims(folder: Path, judgements: Iterable[Judgement]) -> None:
    with replacing(folder / CLAIMS) as file:
        file.write(msgspec.json.format(msgspec.json.encode(list(judgements)), indent=2) + b"\n")


def judge_again(folder: Path) -> list[str]:
    """Judge the run in ``folder`` by the claims that its suites have now; return a line for each verdict that changes.

    A suite that is no longer found, or cannot be read, keeps its verdicts, and a line says so. Raises ReportError if
    the folder has no run.
    """
    records, earlier, environment = read_run(folder)
    before = {(one.suite, one.claim): one for one in earlier}
    found: list[Judgement] = []
    lines: list[str] = []
    for suite in environment.get("suites", ()):
        name = suite["name"]
        try:
            found += judge_suites({name: claims_of(name, suite.get("path", name))}, records)
        except InputError as error:
            found += [one for one in earlier if one.suite == name]
            lines.append(f"{name}: judged by the claims of the run itself: {error.lines[0]}")
    if found != earlier and environment.get("suites"):
        write_claims(folder, found)
    return [*lines, *_changes(before, found)]


def claims_of(name: str, path: str) -> list[Claim]:
    """The claims of the suite ``name``, from the file at ``path`` or else the packaged suite. Raises InputError."""
    try:
        document = read_suite(find(path if Path(path).is_file() else name, Path()))
    except ValueError as error:
        raise InputError([str(error)]) from None
    document.check()
    if document.value.get("name") != name:
        raise InputError([f"{path} is the suite {document.value.get('name')!r} now"])
    try:
        return msgspec.convert(document.value.get("claims", []), list[Claim])
    except msgspec.ValidationError as error:
        raise InputError([f"{path}: {error}"]) from None


def find_claims(names: Iterable[str], suite: str | None) -> tuple[list[str], list[str]]:
    """The suites that have the claims which ``names`` mean, and the claims' own names. Raises InputError.

    A name is of ``suite`` if that is given, else of a packaged suite; ``suite/claim`` names one of several.
    """
    if suite is not None:
        return [suite], list(names)
    known: dict[str, list[str]] = {}
    for packaged_suite in packaged():
        for one in claims_of(packaged_suite, packaged_suite):
            known.setdefault(one.claim, []).append(packaged_suite)
    suites: dict[str, None] = {}
    claims, problems = [], []
    for name in names:
        own, _, claim = name.rpartition("/")
        found = [one for one in known.get(claim, ()) if own in ("", one)]
        if len(found) == 1:
            suites[found[0]] = None
            claims.append(claim)
        elif found:
            ways = ", ".join(f"{one}/{claim}" for one in found)
            problems.append(f"claim {claim!r} is in several suites; give one of {ways}")
        else:
            problems.append(f"no packaged suite has the claim {name!r}{did_you_mean(claim, known)}")
    if problems:
        raise InputError(problems)
    return list(suites), claims


def _changes(before: dict[tuple[str, str], Judgement], found: list[Judgement]) -> Iterator[str]:
    for one in found:
        then = before.get((one.suite, one.claim))
        if then is None:
            yield f"{one.suite}/{one.claim}: {one.verdict}, new"
        elif then.verdict != one.verdict:
            yield f"{one.suite}/{one.claim}: {one.verdict}, was {then.verdict}"
