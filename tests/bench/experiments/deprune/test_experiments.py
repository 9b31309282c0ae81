"""Deprune's experiments in their smallest: what they count, against counts made by hand."""

import pytest
from measured import values
from msgspec.structs import replace

from bench.experiments.deprune.experiments import (
    METHODS,
    Family,
    PhaseChange,
    TrainingCourse,
    course,
    epochs_to_best,
    family,
    make_job,
    pruned,
)
from bench.experiments.deprune.traffic import Coders, SourceTraffic, coders, traffic
from bench.suite.parameter_types import ModelName
from nodes.stages.deprune.budget import BudgetPhase

TINY = {
    "model": ModelName("nodes.zoo.vgg:tiny_vgg11"),
    "train_samples": 64,
    "test_samples": 16,
    "batch_size": 16,
    "augment": False,
    "threads": 1,
}


def test_bytes_of_a_schedule_are_those_of_its_maps(context):
    shape = {"epochs": (2, 1), "share": 1 / 8, "milestone": 3}
    found = {name: list(course(TrainingCourse(**TINY, **shape, method=name), context)) for name in ("none", "deprune")}
    (whole,), (less,) = (values(found[name], "milestone_bytes") for name in ("none", "deprune"))
    # 16 maps of 8x8 as float32, there and back, in 4 steps of 16 pictures an epoch; 2 of 16 maps in two epochs.
    maps = 4 * 16 * 2 * 16 * 64 * 4
    labels = 4 * 16 * 8
    assert 3 * (maps + labels) < whole < 3 * (maps + labels) + 12 * 2 * 400
    assert (2 / 8 + 1) * maps + 3 * labels < less < (2 / 8 + 1) * maps + 3 * labels + 12 * 2 * 400
    assert len(values(found["deprune"], "test_accuracy")) == 3
    assert values(found["deprune"], "budget_maps") == [2]
    assert values(found["deprune"], "first_phase_epochs") == [2]
    assert values(found["none"], "first_phase_epochs") == [3]
    assert values(found["none"], "trained_pictures") == values(found["deprune"], "trained_pictures") == [3 * 4 * 16]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("none", "deprune")])
def test_every_method_trains(name, context):
    found = list(course(TrainingCourse(**TINY, epochs=(1, 1), share=1 / 8, milestone=1, method=name), context))
    assert len(values(found, "final_accuracy")) == 1


def test_a_family_is_served_as_it_was_trained(context):
    said = []
    context = replace(context, say=said.append)
    shares = (1.0, 1 / 4, 1 / 16)
    found = list(family(Family(**TINY, epochs=(1, 1, 1), shares=shares, early=1, scratch_epochs=2), context))
    assert values(found, "changed_accuracy") == [0, 0, 0]
    sizes = values(found, "request_bytes")
    maps = [16, 4, 1]
    assert all(64 * 4 * n < size < 64 * 4 * n + 60 for n, size in zip(maps, sizes, strict=True))
    assert len(values(found, "speedup")) == 2
    assert len(values(found, "best_accuracy", method="scratch")) == 2
    assert values(found, "trained_pictures", method="prune") == [2 * 64, 3 * 64]  # the larger members' epochs too
    assert values(found, "trained_pictures", method="scratch") == [2 * 64, 2 * 64]
    assert [sum(line.startswith(name) for line in said) for name in ("prune", "scratch-1", "scratch-2")] == [6, 2, 2]


@pytest.mark.parametrize("choice", ["random", "magnitude", "taylor"])
def test_a_family_without_a_filter_has_its_first_epoch_with_fewer_maps(choice, context):
    some = Family(**TINY, epochs=(1, 2), shares=(1.0, 1 / 4), early=1, scratch=False, choice=choice)
    found = list(family(some, context))
    accuracies = values(found, "test_accuracy")
    assert values(found, "first_accuracy", share="1/4") == [accuracies[1]]
    assert values(found, "best_accuracy", share="1/4") == [max(accuracies[1:])]


def test_the_authors_code_begins_a_phase_with_new_optimizers(context):
    phases = [BudgetPhase(2, 0.25), BudgetPhase(3, 0.5), BudgetPhase(1, 1.0)]
    parameters = TrainingCourse(**TINY)
    for change, expected in ((PhaseChange(), ()), (PhaseChange(renewed=True), (2, 5))):
        assert make_job(parameters, context, pruned(phases), phases, change).optimizer.renewed == expected
    assert METHODS["as-coded"].options["reset"]


def test_epochs_to_the_lower_of_both_bests():
    assert epochs_to_best([0.1, 0.5, 0.8, 0.9], [0.7, 0.8]) == 3
    assert epochs_to_best([0.7, 0.8], [0.1, 0.5, 0.8, 0.9]) == 2
    assert epochs_to_best([0.1, 0.797, 0.8], [0.9]) == 2


def test_traffic_counts_all_sources_frames(context):
    some = {"sources": 2, "steps": 1, "batch_size": 8, "share": 1 / 16}
    tiny = TINY | some
    ours, theirs = (list(traffic(SourceTraffic(**tiny, module=module), context)) for module in (True, False))
    (less,), (whole,) = values(ours, "all_link_bytes"), values(theirs, "all_link_bytes")
    assert less == sum(values(ours, "link_bytes"))
    assert 2 * 8 * 16 * 64 * 4 * 2 < whole < 2 * 8 * 16 * 64 * 4 * 2 + 2 * 8 * 8 + 4 * 400
    assert 2 * 8 * 64 * 4 * 2 < less < 2 * 8 * 64 * 4 * 2 + 2 * 8 * 8 + 4 * 400
    assert values(ours, "bytes_per_sample") == [less / 16]


def test_coders_make_the_formulas_multiplications(context):
    found = list(coders(Coders(cut=5, resolution=1, shares=(1.0, 1 / 32)), context))
    assert values(found, "coder_macs", share="1/32") == [2 * 4 * 128 * 9 * 64]
    assert values(found, "coder_macs", share="1/1") == [2 * 128 * 128 * 9 * 64]
    assert values(found, "formula_macs") == values(found, "coder_macs")
    assert values(found, "filter_macs") == values(found, "formula_filter_macs") == [128 * 64, 4 * 64]
    assert values(found, "forward_macs", share="1/32") == [2 * 4 * 128 * 9 * 64 + 4 * 64]
    assert values(found, "printed_macs", share="1/32") == [4 * 4 * 128 * 9 * 64 + 2 * 64 * 5]


BAD = {
    "a cut that is none": (TrainingCourse(cut=1), "cut"),
    "a cut beyond the maps": (TrainingCourse(cut=15), "cut"),
    "a method that is none": (TrainingCourse(method="best"), "method"),
    "a milestone after the end": (TrainingCourse(milestone=23), "milestone"),
    "shares without epochs": (Family(epochs=(1,)), "epochs"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_found_before_anything_runs(name, problems_of):
    parameters, key = BAD[name]
    assert (key,) in problems_of(parameters)
    assert not problems_of(TrainingCourse())
    assert not problems_of(Family())
