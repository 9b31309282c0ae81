"""The detector in layers finds what torchvision's does in one piece, cut wherever it may be."""

import pytest
import torch
from torchvision.models.detection import FasterRCNN

from nodes.model.chain import Chain
from nodes.seeds import seed_generators
from nodes.zoo.faster_rcnn import DETECTIONS, FasterRcnn

SIDE = 64


@pytest.fixture(scope="module")
def detector() -> FasterRcnn:
    seed_generators(0)
    return FasterRcnn(classes=3).eval()


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_finds_what_torchvisions_does(detector, picture):
    network, heads = detector.propose.network, detector.classify.heads
    propose = {"rpn_anchor_generator": network.anchor_generator, "rpn_head": network.head}
    classify = {name: getattr(heads, name) for name in ("box_roi_pool", "box_head", "box_predictor")}
    pictures = {"min_size": SIDE, "max_size": SIDE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    whole = FasterRCNN(detector.backbone, **propose, **classify, **pictures).eval()
    with torch.no_grad():
        (expected,) = whole(list(picture))
        found = detector(picture)
    count = len(expected["boxes"])
    assert 0 < count <= DETECTIONS
    assert torch.allclose(found[:count, :4], expected["boxes"], atol=1e-4)
    assert torch.allclose(found[:count, 4], expected["scores"], atol=1e-6)
    assert torch.equal(found[:count, 5].long(), expected["labels"])


def test_cut_in_its_backbone_and_between_its_two_parts(detector, picture):
    chain = Chain(detector, (3, SIDE, SIDE), "module")
    assert chain.names[-2:] == ["propose", "classify"]
    with torch.no_grad():
        whole = detector.eval()(picture)
        for cut in (10, len(chain) // 2, len(chain) - 1):
            first, second = chain.part(0, cut).eval(), chain.part(cut, len(chain)).eval()
            (result,) = second(first({chain.input: picture})).values()
            assert torch.equal(result, whole)
