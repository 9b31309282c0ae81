"""Deprune's suites: claims name budgets that are there at every scale, and the reference run trains long enough."""

import pytest

from bench.suite.find import packaged, read_suite
from bench.suite.schema import SCALES, SuiteFile
from bench.suite.strict_yaml import convert


def suite_of(name):
    document = read_suite(packaged()[name])
    suite = convert(document, SuiteFile)
    document.check()
    return suite, {experiment.name: experiment for experiment in suite.experiments}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["deprune", "deprune_cifar10", "deprune_reference"])
def test_claims_select_budgets_that_are_trained_at_every_scale(name, scale):
    suite, experiments = suite_of(name)
    found = 0
    for claim in suite.claims:
        for selector in claim.needed:
            share = selector.case.get("share")
            if share is not None and experiments[selector.experiment].run == "deprune.family":
                shares = experiments[selector.experiment].at(scale).parameters["shares"]
                assert share in {f"1/{round(1 / one)}" for one in shares}, claim.claim
                found += 1
    assert found > 10


@pytest.mark.parametrize("scale", SCALES)
def test_the_reference_run_is_of_the_papers_schedules_and_long_enough_for_each_claim(scale):
    suite, experiments = suite_of("deprune_reference")
    for claim in (one for one in suite.claims if one.trained_pictures is not None):
        for selector in claim.needed:
            here = experiments[selector.experiment].at(scale).parameters
            epochs = here["epochs"] if selector.case.get("method") != "scratch" else [here["scratch_epochs"]]
            steps = here["train_samples"] // here["batch_size"]
            assert steps * here["batch_size"] * sum(epochs) >= claim.trained_pictures, claim.claim
    training, family = (experiments[name].at(scale) for name in ("training", "family"))
    assert (training.parameters["epochs"], training.parameters["milestone"]) == ([15, 7], 18)
    assert (family.parameters["epochs"], family.parameters["shares"]) == ([30, 10, 10], [1.0, 1 / 4, 1 / 32])
    assert training.parameters["share"] == 1 / 32
    assert [experiments[name].at(scale).seeds for name in ("training", "family")] == [3, 2]
    assert suite.experiments[0].name == "training"
