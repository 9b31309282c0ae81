"""Loading of the data of a job: its data set, cut to the requested samples."""

from dataclasses import replace
from pathlib import Path

from nodes.data.batching import subset
from nodes.data.datasets import load_dataset
from nodes.data.images import Dataset, blank
from nodes.spec.job import Job
from nodes.spec.service import Service


def load_data(job: Job | Service) -> Dataset:
    """The data set of ``job`` with the requested samples; blank pictures for "none". Raises DataError."""
    spec = job.data
    if spec.name == "none":
        return blank(spec.train_samples or 0, spec.test_samples or 0, job.classes, job.input_shape[-1])
    directory = None if spec.directory is None else Path(spec.directory)
    data = load_dataset(spec.name, directory, job.input_shape[-1])
    train, test = subset(data.train, spec.train_samples, job.seed), subset(data.test, spec.test_samples, job.seed)
    return replace(data, train=train, test=test)
