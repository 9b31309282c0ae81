"""Stages against the whole model with the same operations in it; gradients pass straight through."""

import math

import pytest
import torch
from msgspec.structs import replace
from oracle import Staged, StraightThrough, assert_equals_joint, first_message, staged_job
from torch.nn import functional as F

from nodes.data.loading import load_data
from nodes.errors import ModelError, ProtocolError
from nodes.seeds import derive
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec
from nodes.stages.builtin import BUILT_IN, Float16, Int8, build_stage
from nodes.training.segment import STAGE_LAYERS, Segment
from nodes.wire.messages import Gradient

SHAPES = {"x": torch.empty(1, 4, 3, 3, device="meta"), "n": torch.empty(1, 2, dtype=torch.int64, device="meta")}


def value(seed=0, scale=3.0):
    return torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("name", ["identity", "float16", "int8"])
def test_wire_dtypes_and_what_passes_through(name):
    stage = build_stage(StageSpec(name=name), SHAPES | {"size": 3})
    codes = {"x": value(), "n": torch.tensor([[1 << 40, -2]]), "b": torch.tensor([True, False])}
    stage.shapes["b"] = torch.empty(2, dtype=torch.bool, device="meta")
    wire = stage.encode(codes)
    assert wire["x"].dtype == {"identity": torch.float32, "float16": torch.float16, "int8": torch.uint8}[name]
    decoded = stage.decode(wire)
    assert decoded.keys() == codes.keys()
    assert decoded["x"].dtype == torch.float32
    for exact in ("n", "b"):
        assert wire[exact].dtype == codes[exact].dtype
        assert torch.equal(decoded[exact], codes[exact])


OPTIONS = {"noise": {"std": 1.0}, "topk": {"share": 0.5}, "c3sl": {"ratio": 3}, "pruned": {"phases": [[1, 1.0]]}}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_short_name_is_the_stage_of_its_import_path(name):
    picture, options = {"x": torch.empty(1, 3, 8, 8)}, OPTIONS.get(name, {})
    short, long = (build_stage(StageSpec(name=one, options=options), picture) for one in (name, BUILT_IN[name]))
    assert type(short) is type(long)
    assert type(short).__name__ == BUILT_IN[name].partition(":")[2]


def test_float16_rounds_to_nearest_and_saturates_and_a_stage_gives_back_the_models_dtype():
    stage = Float16(SHAPES)
    given = torch.tensor([1.0, 1 + 2**-11, 1e6, -1e9, math.inf])
    decoded = stage.decode(stage.encode({"x": given}))["x"]
    assert decoded.tolist() == [1.0, 1.0, 65504.0, -65504.0, 65504.0]
    shapes = {"x": torch.empty(1, 4, dtype=torch.bfloat16, device="meta")}
    for stage in (Float16(shapes), Int8(shapes)):
        assert stage.decode(stage.encode({"x": torch.ones(2, 4, dtype=torch.bfloat16)}))["x"].dtype == torch.bfloat16


def through_int8(given):
    return Int8(SHAPES).decode(Int8(SHAPES).encode({"x": given}))["x"]


def test_int8_errs_by_half_a_step_at_most_and_keeps_a_diverged_run_visible():
    given = value(scale=7.0)
    decoded = through_int8(given)
    step = (given.max() - given.min()) / 255
    assert (decoded - given).abs().max() <= step * 0.5001
    assert decoded.unique().numel() > 100
    assert abs(decoded.max() - given.max()) <= step * 1e-3
    assert through_int8(torch.tensor([1.0, math.nan])).isnan().all()


@pytest.mark.parametrize("constant", [0.0, -3.5, 1e-30])
def test_int8_of_a_constant_is_that_constant(constant):
    given = torch.full((2, 3), constant)
    assert torch.equal(through_int8(given), given)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (StageSpec(name="zip"), "no stage 'zip'; there are identity, float16, int8, .* and module:callable"),
        (StageSpec(name="int8", options={"bits": 4}), "int8 cannot be built.*bits"),
        (StageSpec(name="user_stages:NoSuchStage"), "NoSuchStage"),
        (StageSpec(name="user_stages:Bottleneck"), "cannot be built"),  # two values cross, it takes one
        (StageSpec(name="user_stages:number"), "returned a int, expected"),
        (StageSpec(name="user_stages:Elsewhere"), "either sender or receiver"),
        (StageSpec(name="user_stages:Both"), "either sender or receiver"),
    ],
)
def test_what_is_no_stage_is_one_error(spec, words):
    with pytest.raises(ModelError, match=words):
        build_stage(spec, SHAPES)


# Two nodes against the whole network with the same stage in it.

CUT = 3  # behind the dropout


def make_job(stage: StageSpec, **changes) -> Job:
    settings = {"data": DataSpec(train_samples=64, test_samples=16), "steps": 4, "epochs": 1, "batch_size": 16}
    return staged_job(stage, **{**settings, "optimizer": OptimizerSpec(lr=0.1), "seed": 0} | changes)


class Joint(Staged):
    """The whole network with ``between`` at the cut, which may set the stage's own loss."""

    def __init__(self, job, between):
        super().__init__(job, load_data(job))
        self.between, self.own_loss = between, None

    def loss(self, pictures, labels):
        features = self.model.features
        crossing = self.between(self.stage, features[:CUT](pictures), self)
        logits = self.model.head(features[CUT:](crossing).mean((2, 3)))
        return self.trained_on(F.cross_entropy(logits, labels), self.own_loss)


def by_halves(given):
    return given.half().float()


def by_256_steps(given):
    step = (given.max() - given.min()) / 255
    return given.min() + ((given - given.min()) / step).round() * step


@pytest.mark.parametrize(
    ("name", "encoding"), [("identity", lambda x: x), ("float16", by_halves), ("int8", by_256_steps)]
)
def test_training_through_an_encoding_equals_a_straight_through_whole(name, encoding, tmp_path):
    job = make_job(StageSpec(name=name), checkpoint=str(tmp_path))
    whole = Joint(job, lambda stage, x, _: StraightThrough.apply(x, encoding))
    losses = assert_equals_joint(job, whole).losses
    assert losses[-1] < losses[0] * 1.5


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_trainable_stage_with_its_own_loss_equals_the_joint_network(weight, tmp_path):
    def between(stage, x, whole):
        code = stage.sender(x)
        whole.own_loss = weight * code.abs().mean() if weight else None
        return stage.receiver(code)

    job = make_job(StageSpec(name="user_stages:Bottleneck", options={"weight": weight}), checkpoint=str(tmp_path))
    whole = Joint(job, between)
    assert_equals_joint(job, whole)
    assert all(not torch.equal(whole.first[name], t) for name, t in whole.stage.state_dict().items())


def test_a_stages_own_loss_counts_once_a_batch_however_many_microbatches():
    states = []
    for parts in (1, 2):
        stage = StageSpec(name="user_stages:Bottleneck", options={"weight": 50.0})
        job = make_job(stage, microbatches=parts, model="user_models:Undropped")
        one, two = Segment(job, 0), Segment(job, 1)
        pictures, labels = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
        for number in range(parts):
            some = slice(number * 16 // parts, (number + 1) * 16 // parts)
            sent = one.source(pictures[some], labels[some], assignment=0, step=0, microbatch=number, train=True)
            one.backward(two.forward(sent))
        states.append(one.state())
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-5), name


def test_a_second_value_gets_its_gradient_and_draws_are_seeded(tmp_path):
    def between(stage, x, whole):
        torch.manual_seed(derive(whole.job.seed, whole.moment[0].step, 0, STAGE_LAYERS))
        return F.dropout(x, 0.25) * stage.sender["gate"].sigmoid().view(1, -1, 1, 1)

    job = make_job(StageSpec(name="user_stages:Gated"), checkpoint=str(tmp_path))
    assert_equals_joint(job, Joint(job, between))


def test_values_without_a_gradient_send_none_and_get_none():
    job = make_job(StageSpec(), splits=(0,))
    _, sent = first_message(job, 4)
    assert sent.grads == ()  # pictures need none
    assert Segment(job, 1).forward(sent).tensors == {}
    one, sent = first_message(make_job(StageSpec(name="user_stages:Indexed")), 4)
    assert "indices" in sent.tensors
    assert "indices" not in sent.grads
    with pytest.raises(ProtocolError, match="indices"):
        one.backward(Gradient(assignment=0, step=0, tensors={"indices": torch.zeros(3)}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grads": ("nobody",)}, "nobody"),
        ({"labels": None}, "without labels"),
        ({"tensors": {}, "grads": ()}, "missing"),
    ],
)
def test_a_message_that_does_not_fit_is_a_protocol_error(changes, words):
    job = make_job(StageSpec())
    _, sent = first_message(job, 4)
    with pytest.raises(ProtocolError, match=words):
        Segment(job, 1).forward(replace(sent, **changes))


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (1, lambda tensors: tensors),
        (0, lambda tensors: {"nobody": next(iter(tensors.values()))}),
        (0, lambda tensors: dict.fromkeys(tensors, torch.zeros(1))),
    ],
)
def test_a_gradient_of_nothing_that_was_sent_is_a_protocol_error(step, change):
    job = make_job(StageSpec())
    one, sent = first_message(job, 4)
    back = Segment(job, 1).forward(sent)
    with pytest.raises(ProtocolError):
        one.backward(Gradient(assignment=0, step=step, tensors=change(back.tensors)))


@pytest.mark.parametrize("name", ["dynsplit", "pruned", "topk", "c3sl"])
def test_a_boundary_of_two_values_or_of_another_form_is_refused(name):
    wrong = [SHAPES] if name in {"topk", "c3sl"} else [SHAPES, {"x": torch.empty(1, 2, 3)}]
    for shapes in wrong:
        with pytest.raises(ModelError, match=r"the boundary must be one tensor \(N, .*got"):
            build_stage(StageSpec(name=name), shapes)


def test_a_stage_must_restore_what_it_was_given() -> None:
    job = make_job(StageSpec(name="user_stages:Shrinks"))
    _, sent = first_message(job, 4)
    with pytest.raises(ProtocolError, match=r"restored features_2 as \[4, 8, 4, 4\]; expected \[1, 8, 8, 8\]"):
        Segment(job, 1).forward(sent)
