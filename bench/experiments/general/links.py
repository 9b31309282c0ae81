"""Calibration of links, also under load, and virtual time against live runs."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import msgspec

from bench.experiments.general.pipeline import ChainParameters, make_job, run, tested
from bench.live.link_calibration import SWEPT, Asked, CalibrationRow, named, rows
from bench.suite.experiment import Context, Measurement, Problem, Setting, measures_here
from bench.suite.parameter_types import Positive
from netem.link import LinkProfile
from netem.profiles import Duplex
from reports.record import CaseValue

# Computes until its standard input ends, which the death of its parent process causes.
BUSY = "import select\nwhile not select.select([0], [], [], 0)[0]: sum(range(100_000))"


class LinkMeasurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream of about ``bulk_s`` over each link, and ``messages`` of 8 bytes, while ``busy`` processes compute."""

    bulk_s: Positive = 0.3
    messages: Annotated[int, msgspec.Meta(ge=2)] = 20
    busy: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from measures_here(setting)


class LinkSweep(LinkMeasurement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links that differ from ``profile`` in one field; messages of ``sizes_bytes`` are sent over each too."""

    profile: LinkProfile = SWEPT
    vary: Literal["rate_bps", "delay_s", "jitter_s", "loss"] = "rate_bps"
    values: list[float]
    sizes_bytes: list[int] = []


def sweep(parameters: LinkSweep, context: Context) -> Iterator[Measurement]:
    """The measured properties of each link of a sweep, and their deviations from the profile."""
    asked = []
    for value in parameters.values:
        profile = msgspec.structs.replace(parameters.profile, **{parameters.vary: value})
        link = Duplex(up=profile, down=LinkProfile(delay_s=profile.delay_s))
        asked.append(Asked(str(value), "", link, tuple(parameters.sizes_bytes)))
    for value, row in zip(parameters.values, measured(asked, parameters, context), strict=True):
        yield from of_row(row, {parameters.vary: value})


def by_name(parameters: LinkMeasurement, context: Context) -> Iterator[Measurement]:
    """The measured properties of both directions of the named links."""
    asked = [one for one in named() if not one.duplex.up.unlimited]
    for row in measured(asked, parameters, context):
        yield from of_row(row, {"link": row.link, "direction": row.direction})


def measured(asked: list[Asked], moment: LinkMeasurement, context: Context) -> list[CalibrationRow]:
    """Rows of ``asked``, one after the other."""
    with computing(moment.busy):
        return asyncio.run(
            rows(asked, context.shaping, seed=context.seed, bulk_s=moment.bulk_s, messages=moment.messages)
        )


def of_row(row: CalibrationRow, case: dict[str, CaseValue]) -> Iterator[Measurement]:
    yield Measurement("rate_bps", row.measured_rate_bps, "bit/s", case)
    yield Measurement("rate_deviation", row.rate_deviation, "1", case)
    yield Measurement("delay_s", row.measured_delay_s, "s", case)
    yield Measurement("delay_deviation_s", row.delay_deviation_s, "s", case)
    yield Measurement("delay_p99_s", row.measured_delay_p99_s, "s", case)
    yield Measurement("round_trip_s", row.measured_round_trip_s, "s", case)
    yield Measurement("jitter_s", row.measured_jitter_s, "s", case)
    if row.loss:
        yield Measurement("losses", row.measured_losses, "stalls", case)
        yield Measurement("expected_losses", row.expected_losses, "stalls", case)
    for size, late_s in row.late_s.items():
        yield Measurement("message_late_s", late_s, "s", case | {"size_bytes": size})


@contextmanager
def computing(count: int) -> Iterator[None]:
    """Run ``count`` busy processes during the block."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def many(parameters: ChainParameters, context: Context) -> Iterator[Measurement]:
    """Processor time of a chain in virtual time, and its latency."""
    job, layers = make_job(parameters, context)
    began = time.process_time()
    outcome = run(job, layers, context.scratch, parameters, context)
    yield Measurement("cpu_s", time.process_time() - began, "s")
    yield Measurement("tasks", len(outcome.latency_s), "tasks")
    yield from tested(outcome)
