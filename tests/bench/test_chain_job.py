"""A chain's parameters: what they mean for each link, seen in the bytes that cross it."""

from pathlib import Path

import msgspec
import pytest

from bench.experiment import Context
from bench.experiments.chain_job import ChainParameters, make_job
from bench.experiments.pipeline import chain
from bench.fields import decoder
from nodes.job import StageSpec


def parameters(**given: object) -> ChainParameters:
    values = {"model": "nodes.networks:small_cnn", "nodes": 3, "splits": [4, 8], **given}
    return msgspec.convert(values, ChainParameters, dec_hook=decoder(None))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(
        seed=0,
        scale="smoke",
        mode="in-process",
        shaping="none",
        dataset="digits",
        data_dir=None,
        device="cpu",
        scratch=tmp_path,
        say=lambda _: None,
    )


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
    sent = {
        measurement.case["hop"]: measurement.value
        for measurement in chain(asked, context)
        if measurement.metric == "payload_bytes"
        and (measurement.case["direction"], measurement.case["kind"]) == ("down", "activation")
    }
    first = 8 * 32 * 16 * 16  # behind each pooling: a batch of 8, channels, height, width
    second = 8 * 64 * 8 * 8
    labels = 8 * 8
    assert sent[1] == 2 * (first + 8) + labels  # one training and one test batch; least and step beside each
    assert sent[2] == 2 * 2 * second + labels
