"""Short names of models: which network each means, and that none hides one of torchvision's."""

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import make_job
from torch import nn
from torchvision import models

from nodes.errors import ModelError
from nodes.imports import load_callable
from nodes.model.factory import BUILT_IN, build_model, import_path
from nodes.spec.job import Job, ModelSpec


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


def made(width: int = 4, depth: int = 1, num_classes: int = 3) -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)], nn.Linear(width, num_classes))


def hands_on(kind: str, **rest: int) -> nn.Module:
    return {"made": made, "plain": nn.Identity}[kind](**rest)


def widths(network: nn.Module) -> list[int]:
    return [module.out_features for module in network.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("made", {}, [4, 10]),
        ("made", {"width": 2, "depth": 2}, [2, 2, 10]),
        ("made", {"num_classes": 7}, [4, 7]),
        ("hands_on", {"kind": "made", "depth": 2}, [4, 4, 10]),
        ("hands_on", {"kind": "plain"}, []),  # takes no classes, and so gets none
    ],
)
def test_options_are_keyword_arguments_beside_the_classes(name: str, options: dict, expected: list[int]) -> None:
    spec = ModelSpec(name=f"{__name__}:{name}", options=options)
    for model in (spec, str(spec)):
        assert widths(build_model(model, 10, (3, 8, 8))) == expected


def test_an_option_of_torchvisions_network_reaches_it() -> None:
    spec = ModelSpec(name="resnet18", options={"width_per_group": 64, "num_classes": 4})
    assert build_model(spec, 10, (3, 32, 32)).fc.out_features == 4
    with pytest.raises(ModelError, match=r"resnet18.*cannot be built"):
        build_model(ModelSpec(name="resnet18", options={"no_such": 1}), 10, (3, 32, 32))


@given(st.dictionaries(st.text(), st.recursive(st.booleans() | st.integers(0, 9) | st.text(), st.lists), max_size=3))
def test_the_text_of_a_specification_stands_for_it(options: dict) -> None:
    spec = ModelSpec(name="mine:net", options=options)
    assert ModelSpec.read(str(spec)) == ModelSpec.read(spec) == spec
    job = make_job("x", ()), make_job(spec, ())
    assert [msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Job).model for one in job] == ["x", spec]


def test_a_text_that_is_no_specification_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mine:net.*JSON object"):
        ModelSpec.read("mine:net{depth: 2}")
