"""Small training jobs of chains, for runs of real processes."""

from nodes.spec.job import DataSpec, Job, StageSpec

NAMES = {1: ("all",), 2: ("ue", "cloud"), 3: ("ue", "mec", "cloud"), 5: ("ue", "mec1", "mec2", "mec3", "cloud")}


def small_job(*splits: int, **changes) -> Job:
    """Two steps of the small network, which has batch norm and dropout, cut at ``splits``; or as ``changes`` say."""
    fields = {
        "model": "nodes.zoo.small_cnn:small_cnn",
        "input_shape": (3, 32, 32),
        "classes": 10,
        "nodes": NAMES[len(splits) + 1],
        "splits": splits,
        "stages": (StageSpec(),) * len(splits),
        "data": DataSpec(train_samples=16, test_samples=8),
        "batch_size": 8,
        "threads": 1,
    }
    return Job(**fields | changes)
