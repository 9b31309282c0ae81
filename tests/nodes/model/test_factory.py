"""Short names of models: which network each means, and that none hides one of torchvision's."""

import pytest
import torch
from torchvision import models

from nodes.errors import ModelError
from nodes.imports import load_callable
from nodes.model.factory import BUILT_IN, build_model, import_path


def test_no_short_name_hides_a_network_of_torchvision() -> None:
    assert not set(BUILT_IN) & set(models.list_models(module=models))
    assert all(load_callable(path) for path in BUILT_IN.values())


@pytest.mark.parametrize("name", ["small_cnn", "thin_resnet18", "tiny_vgg11"])
def test_a_short_name_is_the_network_of_its_import_path(name: str) -> None:
    path = import_path(name)
    assert path == f"nodes.zoo.{'vgg' if 'vgg' in name else name.replace('thin_resnet18', 'resnet')}:{name}"
    short, long = (build_model(one, 7, (3, 32, 32), seed=2).state_dict() for one in (name, path))
    assert short.keys() == long.keys()
    assert all(torch.equal(short[key], long[key]) for key in short)


def test_an_unknown_model_is_an_error() -> None:
    assert import_path("resnet18") is None
    with pytest.raises(ModelError, match="unknown model 'small_cn': neither small_cnn, "):
        build_model("small_cn", 10, (3, 32, 32))
