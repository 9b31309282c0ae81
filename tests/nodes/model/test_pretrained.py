"""torchvision's weights, fetched from a folder that stands for the network."""

import hashlib

import pytest
import torch
from oracle import make_job
from torch import hub
from torchvision import models

from nodes.errors import ModelError
from nodes.model.factory import build_model
from nodes.model.pretrained import published_file, published_weights
from nodes.training.segment import Segment

NAME = "shufflenet_v2_x0_5"  # 1.4 M parameters


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A network of 1000 classes; where its file is served; a function that serves other tensors instead."""
    monkeypatch.setenv("no_proxy", "*")
    hub_folder = hub.get_dir()
    hub.set_dir(str(tmp_path / "hub"))
    network = build_model(NAME, 1000, (3, 32, 32), seed=3)

    def serve(tensors, hashed=True):
        path = tmp_path / "new.pth"
        torch.save(tensors, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if hashed else "0" * 8
        path = path.rename(tmp_path / f"net-{digest}.pth")
        monkeypatch.setattr(models.get_model_weights(NAME).DEFAULT.value, "url", path.as_uri())
        return path

    yield network, serve(network.state_dict()), serve
    hub.set_dir(hub_folder)


def test_a_chain_begins_with_what_was_fetched_once(served):
    network, source, _ = served
    path = published_weights(NAME, build_model(NAME, 10, (3, 32, 32)))
    source.unlink()
    assert published_weights(NAME, network) == path
    job = make_job(NAME, (40,), weights=str(path))
    found = Segment(job, 0).state() | Segment(job, 1).state()
    given = network.state_dict()
    assert found.keys() == given.keys()
    assert [name for name in found if not torch.equal(found[name], given[name])] == ["fc.weight", "fc.bias"]


def test_files_without_counts_of_batches_serve_too(served):
    network, _, serve = served
    serve({name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name})
    assert published_weights(NAME, network).exists()


@pytest.mark.parametrize("kind", ["gone", "nobody there", "altered", "of other names"])
def test_what_cannot_be_had_is_one_line(kind, served, monkeypatch, tmp_path):
    network, source, serve = served
    words = f"weights of {NAME} cannot be downloaded from .* to .*hub/checkpoints/net-.*pth: "
    if kind == "gone":
        source.unlink()
    if kind == "nobody there":
        url = f"http://127.0.0.1:9/{source.name}"  # the port of "discard"
        monkeypatch.setattr(models.get_model_weights(NAME).DEFAULT.value, "url", url)
    if kind == "altered":
        serve(network.state_dict(), hashed=False)
    if kind == "of other names":
        serve({f"theirs.{name}": tensor for name, tensor in network.state_dict().items()} | {"mine": torch.ones(1)})
        words = r"fits no tensor of the model; the file has theirs\.conv1\.0\.weight"
    with pytest.raises(ModelError, match=words) as error:
        published_weights(NAME, network)
    assert "\n" not in str(error.value)
    assert kind == "of other names" or not list((tmp_path / "hub/checkpoints").iterdir())


def test_models_without_published_weights():
    assert published_file("resnet50").name.startswith("resnet50-")
    for name in ("nodes.zoo.resnet:thin_resnet18", "resnet19"):
        with pytest.raises(ModelError, match=f"has no weights of '{name}'"):
            published_weights(name, torch.nn.Identity())
