"""Pictures as files: pixels that are the same or near, bytes of the files themselves, and what is no such file."""

import io

import numpy as np
import pytest
import torch
from oracle import staged_job
from PIL import Image

from nodes.errors import ModelError
from nodes.spec.job import StageSpec
from nodes.stages.picture_codec import PictureCodec
from nodes.training.segment import Segment

BOUNDARY = {"x": torch.empty(1, 3, 16, 16, device="meta")}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def smooth_pixels() -> np.ndarray:
    """uint8 (4, 16, 16, 3), in which neighbours differ little."""
    ramp = np.add.outer(np.arange(16), 2 * np.arange(16))
    return np.stack([np.stack([ramp + 20 * i, 90 - ramp // 2 + i, ramp * 3 + i], -1) for i in range(4)]).astype(
        np.uint8
    )


def as_input(pixels: np.ndarray) -> torch.Tensor:
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (whole - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def file_of(pixels: np.ndarray, format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(("format", "quality"), [("raw", None), ("png", None), ("jpeg", 90), ("webp", 90)])
def test_pixels_come_back_and_bytes_are_those_of_files(format, quality):
    stage, pixels = PictureCodec(BOUNDARY, format, quality, MEAN, STD), smooth_pixels()
    value = as_input(pixels)
    wire = stage.encode(stage.compress({"x": value})[0])
    back = stage.restore(stage.decode(wire))["x"]
    assert wire["sizes"].shape == (4, 3)
    if format == "raw":
        expected = [one.tobytes() for one in pixels]
    else:
        options = {"optimize": True} if format != "webp" else {}
        expected = [file_of(one, format, **options | ({"quality": quality} if quality else {})) for one in pixels]
    assert wire["x"].numpy().tobytes() == b"".join(expected)
    assert (wire["sizes"].long() @ torch.tensor([1, 256, 65536])).tolist() == [len(one) for one in expected]
    if quality is None:
        assert torch.allclose(back, value, atol=1e-5)
    else:
        assert 0 < (back - value).abs().mean() < 0.1


def test_a_lower_quality_takes_fewer_bytes():
    value = as_input(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8))
    for format in ("jpeg", "webp"):
        sizes = [PictureCodec(BOUNDARY, format, quality).encode({"x": value})["x"].nbytes for quality in (90, 30, 5)]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 3


def test_what_is_no_such_file_is_refused():
    stage = PictureCodec(BOUNDARY, "png", None, MEAN, STD)
    wire = stage.encode({"x": as_input(smooth_pixels())})
    damaged = wire["x"].clone()
    damaged[:8] = 0
    small = torch.frombuffer(bytearray(file_of(np.zeros((8, 8, 3), np.uint8), "png")), dtype=torch.uint8)
    one = torch.tensor([[small.numel(), 0, 0]], dtype=torch.uint8)
    for changed, words in [
        ({"x": damaged}, "damaged png"),
        ({"x": wire["x"][:-1]}, "by their sizes"),
        ({"x": small, "sizes": one}, "expected"),
    ]:
        with pytest.raises(ValueError, match=words):
            stage.decode(wire | changed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "gif"}, "expected raw"),
        ({"format": "jpeg"}, "1 to 100"),
        ({"format": "png", "quality": 5}, "none for"),
    ],
)
def test_wrong_options_are_one_error(options, words):
    job = staged_job(StageSpec(name="picture", options=options), splits=(0,))
    with pytest.raises(ModelError, match=words):
        Segment(job, 0)


def test_a_server_learns_from_pictures_that_come_as_files():
    job = staged_job(StageSpec(name="picture", options={"format": "webp", "quality": 80}), splits=(0,))
    ue, server = Segment(job, 0), Segment(job, 1)
    generator, losses = torch.Generator().manual_seed(0), []
    pictures, labels = torch.rand(24, 3, 16, 16, generator=generator), torch.arange(24) % 3
    for step in range(6):
        returned = server.forward(ue.source(pictures, labels, assignment=0, step=step, train=True))
        assert returned.tensors == {}
        ue.backward(returned)
        losses.append(returned.metrics["loss"])
    assert losses[-1] < losses[0]
