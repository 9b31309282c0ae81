"""Work is counted from shapes: against arithmetic done by hand, and against a fresh look at the kept networks."""

import msgspec
import pytest
import torch
from torch import nn

from nodes.costs.workload import Inspected, inspect_chain, load_workload
from nodes.errors import ModelError
from nodes.model.chain import Chain
from nodes.model.factory import build_model
from nodes.zoo.faster_rcnn import FasterRcnn


class Sums(nn.Module):
    """Pictures (1, 2, 2): a convolution beside which the picture lives on, their sum, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x + self.conv(x)).flatten(1))


def test_work_counted_by_hand():
    work = inspect_chain(Inspected(Sums(), (1, 2, 2)), "sums")
    assert (work.layers, work.flops) == (["conv", "add", "flatten", "head"], [2 * 4, 0, 0, 2 * 4 * 3])
    picture = 4 * 4
    conv = picture + 4 + picture  # reads picture and weight, writes a map
    head = picture + (4 * 3 + 3) * 4 + 3 * 4
    assert work.moved_bytes == [conv, 3 * picture, 2 * picture, head]
    assert work.boundary_bytes == [picture, 2 * picture, picture, picture, 12]
    assert work.output_bytes == [picture, picture, picture, 12]


def test_looking_changes_nothing():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inspect_chain(Chain(model, (1, 2, 2)))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def make(name: str, side: int) -> nn.Module:
    with torch.device("meta"):
        return FasterRcnn() if name == "faster_rcnn" else build_model(name, 1000, (3, side, side))


@pytest.mark.parametrize(("name", "side"), [("resnet18", 88), ("vgg11", 88), ("faster_rcnn", 120)])
def test_kept_workloads_are_those_of_the_networks(name, side):
    kept = load_workload(f"{name}-{side}")
    assert kept == inspect_chain(Inspected(make(name, side), (3, side, side), "module"), name)


def test_kept_workloads_are_near_what_the_papers_print_and_resnet18_s_work_is_the_published_one():
    """HiveMind, section VII-B2: 80, 356 and 242 KB; the sizes of the pictures were chosen for that."""
    kept = [load_workload(name) for name in ("resnet18-88", "vgg11-88", "faster_rcnn-120")]
    means_kb = [sum(work.output_bytes) / len(work.layers) / 1e3 for work in kept]
    assert means_kb == pytest.approx([80, 356, 242], rel=0.03)
    assert len(load_workload("resnet18-88").layers) == 52
    # 1.81 thousand million multiplications and additions at 224 pixels.
    work = inspect_chain(Inspected(make("resnet18", 224), (3, 224, 224), "module"))
    assert sum(work.flops) / 2 == pytest.approx(1.814e9, rel=0.001)
    assert sum(work.parameters) == 11_689_512


def test_loaded_from_a_file(tmp_path):
    work = inspect_chain(Inspected(Sums(), (1, 2, 2)), "sums")
    (tmp_path / "sums.json").write_bytes(msgspec.json.encode(work))
    assert load_workload(str(tmp_path / "sums.json")) == work
    with pytest.raises(ModelError, match="no workload 'nosuch'"):
        load_workload("nosuch")
