"""Logit distillation, against a loop of plain PyTorch from the paper's text; bytes by hand."""

import msgspec
import pytest
import torch
from msgspec.structs import replace
from oracle import staged_job
from user_models import Undropped

from nodes.errors import ModelError, ProtocolError
from nodes.model.checkpoint import read_checkpoint, write_checkpoint
from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import DataSpec, DistillationSpec, Job, OptimizerSpec, StageSpec
from nodes.training.in_process import run_in_process
from nodes.training.loss import Taught, batch_loss
from nodes.training.segment import Segment
from nodes.wire.codec import Decoder, encode, wire_size

STEPS, COUNT, CLASSES, LR, MOMENTUM = 5, 12, 10, 0.1, 0.9
TEMPERATURE, WEIGHT = 3.0, 0.7


def teacher_file(folder):
    torch.manual_seed(11)
    network = Undropped()
    with torch.no_grad():
        network.head.weight.mul_(20)  # answers that are sure of themselves
    torch.save(network.state_dict(), folder / "teacher.pt")
    return network.eval(), str(folder / "teacher.pt")


def job_of(teacher, **changes):
    spec = DistillationSpec(teacher=teacher, temperature=TEMPERATURE, weight=WEIGHT)
    optimizer = OptimizerSpec(lr=LR, momentum=MOMENTUM, weight_decay=0.0)
    job = replace(staged_job(StageSpec(), optimizer=optimizer), model="user_models:Undropped", distillation=spec)
    return replace(job, **changes)


def drawn():
    generator = torch.Generator().manual_seed(5)
    pictures = torch.randn(STEPS, COUNT, 3, 16, 16, generator=generator)
    return zip(pictures, torch.randint(0, CLASSES, (STEPS, COUNT), generator=generator), strict=True)


def plain_loss(student, teacher, labels):
    """Section 2: cross entropy with the label, and with the soft targets at a temperature, times its square.

    The soft targets' own entropy, a constant, is taken off, so that a student like its teacher has a loss of 0.
    """
    soft = torch.exp(teacher / TEMPERATURE)
    soft = soft / soft.sum(1, keepdim=True)
    shifted = student / TEMPERATURE
    log_student = shifted - shifted.exp().sum(1, keepdim=True).log()
    divergence = (soft * soft.log()).sum(1) - (soft * log_student).sum(1)
    hard = -(student - student.exp().sum(1, keepdim=True).log())[torch.arange(len(labels)), labels]
    return ((1 - WEIGHT) * hard + WEIGHT * TEMPERATURE**2 * divergence).mean()


@pytest.mark.parametrize("nodes", [2, 1])
def test_a_split_student_learns_as_a_plain_one_does(tmp_path, nodes):
    teacher, path = teacher_file(tmp_path)
    job = job_of(path)
    if nodes == 1:
        job = replace(job, nodes=("ue",), splits=(), stages=())
    segments = [Segment(job, index) for index in range(nodes)]
    student = Undropped()
    student.load_state_dict({name: one for segment in segments for name, one in segment.state().items()})
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM)
    for step, (pictures, labels) in enumerate(drawn()):
        sent = segments[0].source(pictures, labels, assignment=0, step=step, train=True)
        if nodes == 2:
            assert (sent.teacher.nbytes, sent.labels.nbytes) == (COUNT * CLASSES * 4, COUNT * 8)
            told = segments[1].forward(sent)
            segments[0].backward(told)
        else:
            told = sent
        logits = student(pictures)
        loss = plain_loss(logits, teacher(pictures).detach(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert told.metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert told.metrics["correct"] == float((logits.argmax(1) == labels).sum())
    trained = {name: one for segment in segments for name, one in segment.state().items()}
    for name, one in student.state_dict().items():
        assert torch.allclose(trained[name], one, rtol=1e-4, atol=1e-6), name


def test_a_teacher_counts_by_its_weight_alone():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 6, CLASSES, generator=generator)
    labels = torch.arange(6)
    told = {weight: batch_loss(logits, labels, taught=Taught(teacher, 2.0, weight))[0] for weight in (0.0, 0.5, 1.0)}
    assert torch.allclose(told[0.0], batch_loss(logits, labels)[0])
    assert torch.allclose(told[0.5], (told[0.0] + told[1.0]) / 2)
    assert batch_loss(teacher, labels, taught=Taught(teacher, 2.0, 1.0))[0].abs() < 1e-6


def test_a_batch_restored_twice_has_its_teacher_each_time():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, CLASSES, generator=generator)
    teacher, labels = torch.randn(3, CLASSES, generator=generator), torch.tensor([1, 4, 7])
    weights = torch.tensor([0.3, 0.1, 0.1, 0.2, 0.2, 0.1])
    loss, correct = batch_loss(logits, labels, weights=weights, taught=Taught(teacher, TEMPERATURE, WEIGHT))
    single = [plain_loss(logits[i : i + 1], teacher[i % 3][None], labels[i % 3][None]) for i in range(6)]
    assert torch.allclose(loss, sum(share * one for share, one in zip(weights, single, strict=True)), rtol=1e-5)
    right = logits.argmax(1) == labels.repeat(2)
    assert torch.allclose(correct, 3 * (weights * right).sum())


def test_the_teachers_logits_cross_the_wire_in_training_alone(tmp_path):
    _, path = teacher_file(tmp_path)
    pictures, labels = next(drawn())
    ue = Segment(job_of(path), 0)
    sent = ue.source(pictures, labels, assignment=0, step=0, train=True)
    frame = b"".join(encode(sent))
    (came,) = Decoder().feed(frame)
    assert torch.equal(came.message.teacher, sent.teacher)
    assert sum(wire_size(sent)) == len(frame)
    plain = Segment(job_of(path, distillation=None), 0).source(pictures, labels, assignment=0, step=0, train=True)
    assert wire_size(sent)[1] - wire_size(plain)[1] == COUNT * CLASSES * 4
    assert ue.source(pictures, None, assignment=0, step=0, train=False).teacher is msgspec.UNSET
    shapes = Segment(job_of(path), 0, meta=True)
    size = shapes.source(pictures.to("meta"), labels.to("meta"), assignment=0, step=0, train=True)
    assert wire_size(size) == wire_size(sent)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": msgspec.UNSET}, "without the teacher's logits"),
        ({"teacher": torch.zeros(COUNT, CLASSES - 1)}, "expected torch.float32"),
        ({"teacher": torch.zeros(COUNT - 1, CLASSES)}, "expected torch.float32"),
    ],
)
def test_logits_that_are_not_a_teachers_are_refused(tmp_path, change, words):
    _, path = teacher_file(tmp_path)
    job = job_of(path)
    pictures, labels = next(drawn())
    sent = Segment(job, 0).source(pictures, labels, assignment=0, step=0, train=True)
    with pytest.raises(ProtocolError, match=words):
        Segment(job, 1).forward(replace(sent, **change))


def test_half_a_teacher_is_refused(tmp_path):
    network, _ = teacher_file(tmp_path)
    torch.save(network.features.state_dict(prefix="features."), tmp_path / "half.pt")
    with pytest.raises(ModelError, match="give the weights of the whole network"):
        Segment(job_of(str(tmp_path / "half.pt")), 0)


@pytest.mark.parametrize("change", [{"tail": 4, "stages": (StageSpec(), StageSpec())}, {"moves": {1: (2,)}}])
def test_jobs_that_have_no_place_for_a_teacher_are_refused(change):
    with pytest.raises(ValueError, match="distillation: needs layers that stay"):
        job_of("teacher.pt", **change)


def test_clients_of_a_federation_have_no_teacher():
    with pytest.raises(ValueError, match="give no distillation"):
        Federation(job=job_of("teacher.pt"), scheme=SchemeSpec(name="psl"))


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"weight": 1.5}])
def test_a_temperature_or_weight_that_means_nothing_is_refused(change):
    with pytest.raises(ValueError, match="expected a temperature above 0 and a weight"):
        DistillationSpec(teacher="teacher.pt", **change)


def test_checkpoints_from_before_there_were_teachers_can_be_read(tmp_path):
    job = replace(job_of("x"), distillation=None, checkpoint=str(tmp_path))
    write_checkpoint(job, 0, 1, {})
    task = read_checkpoint(job, 0, 1, torch.device("cpu"))["task"]
    assert "distillation" not in msgspec.json.decode(task)
    assert set(msgspec.json.decode(task)) == {field.name for field in msgspec.structs.fields(Job)} - {"distillation"}


def test_training_with_a_teacher_runs_in_process(tmp_path):
    _, path = teacher_file(tmp_path)
    job = job_of(path, data=DataSpec(train_samples=48, test_samples=20), batch_size=COUNT)
    outcome = run_in_process(job)
    sent = outcome.nodes[0].sent_uplink["activation"].payload_bytes
    plain = run_in_process(replace(job, distillation=None)).nodes[0].sent_uplink["activation"].payload_bytes
    assert sent - plain == len(outcome.losses) * COUNT * CLASSES * 4
