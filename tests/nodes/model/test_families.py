"""The smallest network of each torchvision family, cut in many places, against plain PyTorch."""

import pytest
import torch
from crossing import assert_equals_plain

from nodes.model.chain import Chain
from nodes.model.factory import build_model, outline

SIDES = {  # pixels of a picture's side, as small as the network permits
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vgg11_bn": 32,
    "vit_b_32": 32,
    "wide_resnet50_2": 32,
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.nightly
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", SIDES)
def test_a_network_of_each_family_in_parts_equals_plain_pytorch(name, channels_last):
    side = SIDES[name]
    model = build_model(name, 10, (3, side, side), seed=1)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    layers = len(outline(name, 10, (3, side, side)))
    singles = [[layers * part // 12] for part in range(1, 12)]
    assert_equals_plain(model, side, [[done for (done,) in singles], *singles])


def test_convnext_in_parts_equals_plain_pytorch():
    model = build_model("convnext_tiny", 10, (3, 32, 32), seed=1)
    layers = len(Chain(build_model("convnext_tiny", 10, (3, 32, 32)), (3, 32, 32)))
    assert_equals_plain(model, 32, [[layers * part // 5 for part in range(1, 5)]])
