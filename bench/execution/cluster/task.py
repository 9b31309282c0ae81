"""What a worker of the cluster does for one case."""

import contextlib
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.execution import environment as conditions
from bench.execution.case import CaseResult, run_case
from bench.execution.plan import RunPlan, make_plan, options_of
from bench.suite.document import InputError
from bench.suite.parameter_types import make_importable


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """What all tasks of a run have in common."""

    options: dict[str, Any]
    run: str
    folder: str  # in which the runner was started, as the names of files may be relative
    versions: dict[str, Any]
    device: str


def do_case(begin: bytes, key: str, sha256: str) -> bytes:
    """The encoded ``CaseResult`` of the case ``key``, as long as its suite, code and files are as at the runner."""
    common = msgspec.json.decode(begin, type=Begin)
    with contextlib.chdir(common.folder):
        return msgspec.json.encode(_result(begin, common, key, sha256))


def _result(begin: bytes, common: Begin, key: str, sha256: str) -> CaseResult:
    here = {"versions": conditions.versions(), "device": conditions.device(common.options["device"])}
    for name, ours in (("versions", common.versions), ("device", common.device)):
        if here[name] != ours:
            return _refused(f"{name} are {here[name]} at the worker, {ours} at the runner")
    try:
        plan = _plan(begin)
    except InputError as error:
        return _refused("; ".join(error.lines))
    case = {(case.key, case.sha256): case for case in plan.selected_cases}.get((key, sha256))
    if case is None:
        return _refused("the suite, its code or a file of it is another at the worker, or was changed meanwhile")
    with tempfile.TemporaryDirectory(prefix="case-") as scratch:
        return run_case(plan, case, common.run, Path(scratch), lambda _: None)


@functools.lru_cache(maxsize=1)
def _plan(begin: bytes) -> RunPlan:
    make_importable(Path())
    return make_plan(options_of(msgspec.json.decode(begin, type=Begin).options), checked=True)


def _refused(reason: str) -> CaseResult:
    return CaseResult(failure=reason, traceback=reason)


def resources(device: str) -> Mapping[str, float]:
    """What a case takes of a worker beside a thread: on a GPU a unit of ``dask worker --resources GPU=1`` offers."""
    return {"GPU": 1.0} if device == "cuda" else {}
