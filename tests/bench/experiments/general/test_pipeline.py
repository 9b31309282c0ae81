"""A chain's parameters: what they mean for each link, seen in the bytes that cross it."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from measured import by_case

from bench.experiments.common import learning
from bench.experiments.general.pipeline import ComparedChain, chain, make_job
from bench.suite.document import Key
from bench.suite.experiment import Context
from bench.suite.parameter_types import decoder
from nodes.model.factory import build_model
from nodes.spec.job import StageSpec
from nodes.training.segment import Segment

ProblemsOf = Callable[..., dict[Key, str]]


def parameters(**given: object) -> ComparedChain:
    values = {"model": "nodes.zoo.small_cnn:small_cnn", "nodes": 3, "splits": [4, 8], **given}
    return msgspec.convert(values, ComparedChain, dec_hook=decoder(None))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("int8", [StageSpec(name="int8")] * 2),
        ({"name": "mine:Half", "options": {"rows": 2}}, [StageSpec(name="mine:Half", options={"rows": 2})] * 2),
        (["int8", {"name": "float16"}], [StageSpec(name="int8"), StageSpec(name="float16")]),
    ],
)
def test_a_stage_stands_at_every_link_or_one_at_each(
    given: object, expected: list[StageSpec], context: Context
) -> None:
    job, layers = make_job(parameters(stage=given), context)
    assert job.stages == tuple(expected)
    assert layers == 16


def test_each_link_carries_what_its_own_stage_makes(context: Context) -> None:
    asked = parameters(stage=["int8", "float16"], steps=1, batch_size=8, train_samples=8, test_samples=8)
    found = list(chain(asked, context))
    assert [one.value for one in found if one.metric == "trained_pictures"] == [8]
    sent = {
        measurement.case["hop"]: measurement.value
        for measurement in found
        if measurement.metric == "payload_bytes"
        and (measurement.case["direction"], measurement.case["kind"]) == ("uplink", "activation")
    }
    first = 8 * 32 * 16 * 16  # behind each pooling: a batch of 8, channels, height, width
    second = 8 * 64 * 8 * 8
    labels = 8 * 8
    assert sent[1] == 2 * (first + 8) + labels  # one training and one test batch; least and step beside each
    assert sent[2] == 2 * 2 * second + labels


def test_bfloat16_halves_what_crosses_and_takes_the_rest_of_the_engine(context: Context) -> None:
    asked = parameters(
        splits=[4, 8], steps=1, batch_size=8, train_samples=8, test_samples=8, label_smoothing=0.1,
        precision="bfloat16", memory_format="channels_last", unsplit=True,
        optimizer={"schedule": "warm_cosine", "warm_up": 0.5, "clip_norm": 1.0, "clip_over": "parameter"},
    )  # fmt: skip
    found = list(chain(asked, context))
    (payload,) = (
        one.value
        for one in found
        if one.metric == "payload_bytes" and one.case == {"hop": 1, "direction": "uplink", "kind": "activation"}
    )
    assert payload == 2 * 2 * 8 * 32 * 16 * 16 + 8 * 8
    assert [one.value for one in found if one.metric == "largest_loss_difference_nats"] == [0]


def test_what_the_engine_cannot_do_is_told_by_its_key(problems_of: ProblemsOf) -> None:
    problems = problems_of(
        parameters(memory_format="channels_last", model="user_models:encoder", input={"shape": [16], "dtype": "int64"}),
        "in-process", "none",
    )  # fmt: skip
    assert "channels_last needs pictures (C, H, W)" in problems["memory_format",]
    timings = {name: {"timing": {"forward_s": 1}} for name in ("ue", "mec", "cloud")}
    asked = {"precision": "bfloat16", "label_smoothing": 0.1, "devices": timings}
    problems = problems_of(parameters(**asked), "virtual", "none")
    assert {("precision",), ("label_smoothing",)} <= problems.keys()


def test_a_cpu_that_only_imitates_bfloat16_is_told(problems_of: ProblemsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "computes_bfloat16", lambda: False)
    assert problems_of(parameters(precision="bfloat16")).keys() == {("precision",)}
    assert not problems_of(parameters())
    monkeypatch.setattr(learning, "computes_bfloat16", lambda: True)
    assert not problems_of(parameters(precision="bfloat16"))


def test_devices_of_no_node_and_traces_that_are_not_there_are_found_before_anything_runs(
    problems_of: ProblemsOf, tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text("time_s,rate_bps\n0,fast\n")
    asked = parameters(
        devices={"mex": {"slowdown": 2}}, link={"trace": "5g-sub7"}, backhaul={"trace": str(tmp_path / "bad.csv")}
    )
    problems = problems_of(asked, "live", "digits")
    assert problems["devices", "mex"] == "no node 'mex' (did you mean 'mec'?)"
    assert problems["link", "trace"].startswith("no trace '5g-sub7': neither a file nor one of 5g-mmwave-driving,")
    assert problems["backhaul", "trace"].endswith("bad.csv:2: rate_bps: 'fast' is not a number")


def test_traces_over_which_data_would_never_arrive_are_refused(problems_of: ProblemsOf, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("time_s,rate_bps\n0,0\n1,0\n")
    (tmp_path / "ends.csv").write_text("time_s,rate_bps\n0,1e6\n1,0\n")
    problems = problems_of(parameters(link={"trace": str(tmp_path / "none.csv")}), "live", "digits")
    assert problems.keys() == {("link", "trace")}
    assert problems["link", "trace"].endswith("none.csv: every rate is 0, so no data would ever arrive")
    trace = {"trace": {"up": "wifi", "down": str(tmp_path / "ends.csv")}}
    assert not problems_of(parameters(link=trace), "live", "digits")
    ((key, problem),) = problems_of(parameters(backhaul=trace | {"repeat": False}), "live", "digits").items()
    assert key == ("backhaul", "trace")
    assert "ends.csv: ends at a rate of 0, so data would never arrive" in problem


def test_weights_are_looked_for_before_anything_runs(problems_of: ProblemsOf, context: Context, tmp_path: Path) -> None:
    assert problems_of(parameters(weights="here.pt")) == {
        ("weights",): "no file 'here.pt'; give a file or 'torchvision'"
    }
    assert problems_of(parameters(weights="torchvision")) == {
        ("weights",): "torchvision has no weights of 'nodes.zoo.small_cnn:small_cnn'; give a file or pretrain_epochs"
    }
    (tmp_path / "here.pt").touch()
    kept = parameters(weights=str(tmp_path / "here.pt"))
    assert problems_of(kept, "virtual", "digits")["weights",].startswith("only used in mode live and in-process")
    assert "neither safetensors nor what torch.save wrote" in problems_of(kept)["weights",]


@pytest.mark.parametrize("splits", [(4, 8), (2, 4), (4, 4), (4, 16)])
def test_weights_are_judged_over_the_whole_network_whatever_a_node_holds(
    splits: tuple[int, int], problems_of: ProblemsOf, context: Context, tmp_path: Path
) -> None:
    """The server in the middle has convolutions, or ReLU and pooling alone, or relays; or the cloud has nothing."""
    given = build_model("nodes.zoo.small_cnn:small_cnn", 10, (3, 32, 32), seed=8).state_dict()
    torch.save({"epoch": 3, "model": {f"module.{name}": tensor for name, tensor in given.items()}}, tmp_path / "w.pt")
    asked = parameters(weights=str(tmp_path / "w.pt"), splits=splits)
    note = f"w.pt: {len(given)} of {len(given)} tensors taken; unused in the file: epoch"
    assert problems_of(asked)["weights",].endswith(note)
    said: list[str] = []
    job, _ = make_job(asked, msgspec.structs.replace(context, say=said.append))
    assert said[0].endswith(note)
    begun = {name: one for index in range(3) for name, one in Segment(job, index).state().items()}
    assert begun.keys() == given.keys()
    assert all(torch.equal(begun[name], given[name]) for name in given)


def test_weights_that_fit_in_part_are_told_but_for_what_depends_on_unknown_classes(
    problems_of: ProblemsOf, tmp_path: Path
) -> None:
    given = build_model("nodes.zoo.small_cnn:small_cnn", 12, (3, 32, 32)).state_dict()
    del given["0.weight"]
    torch.save(given, tmp_path / "w.pt")
    asked = parameters(weights=str(tmp_path / "w.pt"))
    total = len(given) + 1
    assert (
        f"fit in part: {total - 3} of {total} tensors taken" in problems_of(asked, "in-process", "digits")["weights",]
    )
    told = problems_of(asked, "in-process", "imagenet100")["weights",]
    assert f"fit in part: {total - 3} of {total - 2} tensors taken" in told
    assert told.endswith("beside 2 whose shape depends on the data's classes")


def test_a_link_is_not_dilated_by_itself(problems_of: ProblemsOf) -> None:
    problems = problems_of(parameters(link={"trace": "wifi", "time_dilation": 3}), "live", "digits")
    assert list(problems) == [("link", "time_dilation")]


def test_what_a_mode_needs_or_has_no_use_for_is_found_before_anything_runs(problems_of: ProblemsOf) -> None:
    asked = parameters(time_dilation=5, devices={"ue": {"timing": {"forward_s": 0.01}}, "mec": {"slowdown": 2}})
    assert not problems_of(asked, "live", "digits")
    dilated = "only used in mode live; this one is {}"
    assert problems_of(asked, "in-process", "digits") == {
        ("time_dilation",): dilated.format("in-process"),
        ("devices",): "only used in mode live and virtual; this one is in-process",
    }
    assert problems_of(asked, "virtual", "digits") == {
        ("time_dilation",): dilated.format("virtual"),
        ("devices", "mec"): "in virtual time a device needs a timing",
        ("devices",): "in virtual time cloud needs a device with a timing",
    }


def test_in_virtual_time_every_node_needs_a_timing(context: Context) -> None:
    virtual = msgspec.structs.replace(context, mode="virtual", dataset="none")
    given = {"epochs": 0, "batch_size": 4, "test_samples": 16, "link": "wifi"}
    timing = {"timing": {"forward_s": 0.01}}
    with pytest.raises(ValueError, match="in virtual time mec, cloud needs a timing"):
        list(chain(parameters(**given, devices={"ue": timing}), virtual))
    with pytest.raises(ValueError, match="in virtual time ue, mec, cloud needs a timing"):
        list(chain(parameters(**given), virtual))
    devices = dict.fromkeys(("ue", "mec", "cloud"), timing)
    found = by_case(chain(parameters(**given, devices=devices), virtual))
    assert found["latency_ms", 0.5] > 3 * 10 + 2 * 3
