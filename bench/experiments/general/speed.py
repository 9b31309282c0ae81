"""Speed of training in process, cut in two or more, against a plain PyTorch loop on the same pictures, in turn."""

import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from bench.experiments.common.learning import Learning, check_pass, node_names
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count
from nodes.data.batching import batches
from nodes.data.images import Dataset, resident
from nodes.data.loading import load_data
from nodes.model.factory import build_model
from nodes.spec.job import Job, StageSpec
from nodes.training.in_process import run_in_process
from nodes.training.optimizer import make_optimizer

EPOCHS, PICTURES = 50, 50_000  # of the training whose length is reckoned: CIFAR-10


class Speed(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``rounds`` of ``steps`` each, the first half of which warms up, by a plain loop and by a chain of ``nodes``."""

    nodes: Count = 2
    steps: Count = 10
    rounds: Count = 5

    def problems(self, setting: Setting) -> Iterator[Problem]:
        if self.steps < 4:
            yield Problem(("steps",), f"got {self.steps}; give at least 4, half of which warm up")
        if self.optimizer.by_step or self.optimizer.schedule != "constant":
            yield Problem(("optimizer", "schedule"), "the plain loop has a constant rate")
        if self.optimizer.clip_norm is not None:
            yield Problem(("optimizer", "clip_norm"), "the plain loop does not clip")
        needed = self.steps * self.batch_size
        yield from self.sample_problems(setting, (needed, f"{self.steps} batches of {self.batch_size}"))
        layout = yield from self.checked_layout(setting)
        if layout is not None:
            yield from attempt(("batch_size",), check_pass, layout, self.batch_size)
            if self.nodes > len(layout):
                yield Problem(("nodes",), f"got {self.nodes}; the model has {len(layout)} layers")


def in_turn(parameters: Speed, context: Context) -> Iterator[Measurement]:
    """Pictures a second of both, their ratio round by round, and the seconds that EPOCHS of PICTURES would take.

    On a GPU the ratio and the seconds have names of their own, as claims about them say nothing of a CPU.
    """
    classes = parameters.classes(context)
    layout = parameters.layout(classes)
    splits = tuple(round(len(layout) * (node + 1) / parameters.nodes) for node in range(parameters.nodes - 1))
    job = parameters.job(
        context,
        layout,
        classes=classes,
        nodes=node_names(parameters.nodes),
        splits=splits,
        stages=(StageSpec(),) * len(splits),
        steps=parameters.steps,
    )
    data = load_data(job)
    split, plain = [], []
    for _ in range(parameters.rounds):
        plain.append(plain_s(job, data))
        split.append(sum(run_in_process(job, data).step_s[job_half(job) :]))
    timed = (parameters.steps - job_half(job)) * job.batch_size
    rates = {"samples_per_s": timed / statistics.median(split), "plain_samples_per_s": timed / statistics.median(plain)}
    for metric, rate in rates.items():
        yield Measurement(metric, rate, "samples/s")
    prefix = "gpu_" if context.device == "cuda" else ""
    ratio = statistics.median(theirs / ours for ours, theirs in zip(split, plain, strict=True))
    yield Measurement(f"{prefix}in_process_ratio", ratio, "1")
    yield Measurement(f"{prefix}fifty_epochs_s", EPOCHS * PICTURES / rates["samples_per_s"], "s")


def job_half(job: Job) -> int:
    """The steps that warm up."""
    return (job.steps or 0) // 2


def plain_s(job: Job, data: Dataset) -> float:
    """Seconds of the second half of the job's steps by a loop that knows nothing of nodes; it never waits for a GPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads or threads)
    device = torch.device(job.device)
    layout = torch.channels_last if job.memory_format == "channels_last" else torch.preserve_format
    model = build_model(job.model, job.classes, job.input_shape, job.seed).to(device).to(memory_format=layout)
    optimizer = make_optimizer(list(model.parameters()), job.optimizer)
    assert optimizer is not None
    casts = torch.autocast(device.type, torch.bfloat16) if job.precision == "bfloat16" else nullcontext()
    pictures = replace(data, train=resident(data.train, device)).train
    augment = job.data.augment
    drawn = batches(pictures, job.batch_size, seed=job.seed, epoch=0, shuffle=True, augment=augment, drop_last=True)
    began = 0.0
    for step, (inputs, labels) in zip(range(job.steps or 0), drawn, strict=False):
        if step == job_half(job):
            began = _now(device)
        with casts:
            scores = model(inputs.to(device, memory_format=layout))
        loss = nn.functional.cross_entropy(scores.float(), labels.to(device), label_smoothing=job.label_smoothing)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    seconds = _now(device) - began
    torch.set_num_threads(threads)
    return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
