"""The front that a suite has without asking: accuracy against all bytes that crossed, by stage."""

from collections.abc import Callable

from reports.pages.pareto_section import by_stage
from reports.record import Record


def test_a_suite_that_varies_the_stage_has_a_front(record: Callable[..., Record]) -> None:
    records = []
    for stage, accuracy, sizes in (("a", 0.9, (100.0, 20.0)), ("b", 0.8, (50.0, 10.0))):
        records.append(record(accuracy, metric="test_accuracy", case={"stage": stage}))
        for kind, size in zip(("activation", "gradient"), sizes, strict=True):
            records.append(record(size, metric="payload_bytes", case={"stage": stage, "kind": kind}))
            records.append(record(999.0, metric="payload_bytes", case={"stage": stage, "kind": kind}, seed=7))
            records.append(record(999.0, metric="payload_bytes", case={"stage": stage, "kind": kind}, device="cuda"))
    found = by_stage(records)
    assert found is not None
    front, needed = found
    assert [(method["experiment"], method["key"]) for method in front["methods"]] == [("e", "stage")]
    sums = {one.case["stage"]: one.value for one in needed if one.metric == "all_payload_bytes"}
    assert sums == {"a": 120.0, "b": 60.0}  # of the same seed and conditions alone


def test_what_varies_beside_the_stage_has_a_method_for_each_setting(record: Callable[..., Record]) -> None:
    cases = [{"stage": stage, "nodes": nodes, "link": "5g"} for stage in "ab" for nodes in (2, 3)]
    records = [record(0.9, metric="test_accuracy", case=case) for case in cases]
    records += [record(10.0, metric="payload_bytes", case=case) for case in cases]
    found = by_stage(records)
    assert found is not None
    assert [(one["name"], one["case"]) for one in found[0]["methods"]] == [
        ("e, nodes=2", {"nodes": 2}),
        ("e, nodes=3", {"nodes": 3}),
    ]


def test_one_stage_or_no_bytes_make_no_front(record: Callable[..., Record]) -> None:
    learned = [record(0.9, metric="test_accuracy", case={"stage": stage}) for stage in "ab"]
    crossed = [record(10.0, metric="payload_bytes", case={"stage": stage}) for stage in "ab"]
    assert by_stage(learned) is None
    assert by_stage([learned[0], crossed[0]]) is None
    assert by_stage([record(0.9, metric="test_accuracy"), *crossed]) is None
    assert by_stage(learned + crossed) is not None
