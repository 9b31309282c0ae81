"""Records: what of another schema is refused, and what names and units mean in those that the gate keeps."""

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from reports.record import Record, read_records

BASELINE = Path(__file__).parents[1] / "baseline.jsonl"
IN_NAMES = {
    "s": "s",
    "ms": "ms",
    "B": "bytes",
    "kB": "kb",
    "MB": "mb",
    "J": "j",
    "nats": "nats",
    "bit/s": "bps",
    "Mbit/s": "mbps",
}  # a unit, and the part of a metric's name that carries it


@pytest.fixture(scope="module")
def kept() -> list[Record]:
    """The records of the gate's baseline: all suites at smoke."""
    return [msgspec.json.decode(line, type=Record) for line in BASELINE.read_bytes().splitlines()[1:]]


def test_a_record_of_another_schema_is_refused_with_its_line(tmp_path, record):
    path = tmp_path / "records.jsonl"
    path.write_bytes(msgspec.json.encode(record(1.0)) + b"\n")
    path.write_text(path.read_text() + path.read_text().replace('"schema":2', '"schema":1'))
    with pytest.raises(ValueError, match=r"records.jsonl:2: record schema 1, expected 2; repeat the run"):
        list(read_records(path))


def test_a_torn_last_line_is_left_out_and_a_whole_one_counts_with_or_without_its_end(tmp_path, record):
    path, line = tmp_path / "records.jsonl", msgspec.json.encode(record(1.0))
    for end in (b"", b"\n", b"\n" + line[:-9]):
        path.write_bytes(line + end)
        assert list(read_records(path)) == [record(1.0)]
    path.write_bytes(line + b"\n" + line[:-9] + b"\n" + line)
    with pytest.raises(ValueError, match=r"records.jsonl:2: "):
        list(read_records(path))


def test_a_metric_has_one_unit_and_carries_it_in_its_name(kept):
    units = defaultdict(set)
    for one in kept:
        units[one.metric].add(one.unit)
    assert {metric: found for metric, found in units.items() if len(found) > 1} == {}
    carried = {(metric, unit): IN_NAMES.get(unit) for metric, found in units.items() for unit in found}
    assert [name for name, part in carried.items() if part and part not in name[0].split("_")] == []


def test_accuracies_are_fractions(kept):
    accuracies = [one for one in kept if "accuracy" in one.metric]
    assert {one.unit for one in accuracies} == {"fraction"}
    assert all(0 <= one.value <= 1 for one in accuracies)


def test_directions_are_those_of_the_field(kept):
    assert {one.case["direction"] for one in kept if "direction" in one.case} == {"uplink", "downlink"}
