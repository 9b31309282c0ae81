"""VGG-11's cuts as the paper numbers them, and its size."""

import pytest

from nodes.model.factory import outline
from nodes.zoo.vgg import layers_before


@pytest.mark.parametrize(
    ("cut", "shape"),
    [(0, (3, 32, 32)), (5, (128, 8, 8)), (6, (256, 8, 8)), (7, (256, 8, 8)), (9, (512, 4, 4)), (14, (512, 1, 1))],
)
def test_cuts_count_pools(cut, shape):
    chain = outline("nodes.zoo.vgg:vgg11", 10, (3, 32, 32))
    ((_, boundary),) = chain.shapes(layers_before(cut)).items()
    assert tuple(boundary.shape[1:]) == shape


def test_parameters_of_the_whole_and_of_narrower_networks():
    counts = [
        sum(parameter.numel() for parameter in outline(f"nodes.zoo.vgg:{name}", 10, (3, 32, 32)).model.parameters())
        for name in ("vgg11", "half_vgg11", "small_vgg11", "tiny_vgg11")
    ]
    assert counts[0] == 128_812_810
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("cut", [-1, 1, 15])
def test_cuts_that_are_none(cut):
    with pytest.raises(ValueError, match="cut"):
        layers_before(cut)
