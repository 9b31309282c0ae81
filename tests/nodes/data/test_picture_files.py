"""Decoding of picture files, and damage."""

import io
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_sets import assert_refused, pictures, save
from PIL import Image

from nodes.data.batching import subset
from nodes.data.datasets import check_dataset, load_dataset
from nodes.data.picture_files import Files, damaged, decode, pictures_below
from nodes.errors import DataError


def test_files_are_decoded_when_asked_for_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        save(path, (number, 0, 0))
    kept = Files(paths, side=4)
    monkeypatch.setattr("nodes.data.picture_files.KEPT_BYTES", 4 * 48 - 1)
    unkept = Files(paths, side=4)
    wanted = np.array([2, 0, 2])
    for images in (kept, unkept):
        assert images[wanted][:, 0, 0, 0].tolist() == [2, 0, 2]
        assert images[np.array([], np.int64)].shape == (0, 4, 4, 3)
    for path in paths:
        path.unlink()
    assert kept[wanted[:2]][:, 0, 0, 0].tolist() == [2, 0]
    with pytest.raises(DataError, match=r"[02].png"):
        unkept[wanted]


def test_large_jpeg_decoded_small_looks_the_same(tmp_path: Path) -> None:
    picture = Image.fromarray(pictures(1, 96, 128)[0]).resize((640, 480), Image.Resampling.BICUBIC)
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(packed.getvalue())
    square = picture.crop((80, 0, 560, 480)).resize((200, 200), Image.Resampling.BILINEAR)
    difference = Files([tmp_path / "a.jpg"], 200)[:][0].astype(int) - np.asarray(square)
    assert np.abs(difference).mean() < 1.5


def as_read(path: Path) -> np.ndarray:
    """The pixels of a square picture at its own size."""
    with Image.open(path) as picture:
        side = picture.width
    return decode(path, side)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, ending: str) -> None:
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(grey).save(tmp_path / f"a.{ending}")
    found = as_read(tmp_path / f"a.{ending}")
    assert found.mean() == pytest.approx(127.5, abs=0.01)
    assert (found[0, 0].tolist(), found[-1, -1].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert np.abs(found[..., 1] * 257.0 - grey).max() <= 128.5


def test_palettes_grey_and_cmyk_become_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(np.array([[[200, 10, 30], [0, 120, 250]], [[9, 9, 9], [255, 255, 0]]], np.uint8))
    colours.quantize(4).save(tmp_path / "palette.png")
    assert (as_read(tmp_path / "palette.png") == np.asarray(colours)).all()
    Image.fromarray(np.array([[3, 200], [90, 0]], np.uint8)).save(tmp_path / "grey.png")
    assert as_read(tmp_path / "grey.png").tolist() == [[[3] * 3, [200] * 3], [[90] * 3, [0] * 3]]
    Image.fromarray(np.array([[True, False], [False, True]])).save(tmp_path / "bits.png")
    assert as_read(tmp_path / "bits.png")[..., 2].tolist() == [[255, 0], [0, 255]]
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)  # red, in inks
    assert np.abs(as_read(tmp_path / "cmyk.jpg").astype(int) - [255, 0, 0]).max() <= 3


def test_transparent_pixels_are_laid_on_white(tmp_path: Path) -> None:
    hidden, half, opaque = (10, 20, 30, 0), (100, 0, 200, 128), (1, 2, 3, 255)
    Image.fromarray(np.array([[hidden, half], [opaque, opaque]], np.uint8)).save(tmp_path / "rgba.png")
    found = as_read(tmp_path / "rgba.png").astype(int)
    assert (found[0, 0].tolist(), found[1, 0].tolist()) == ([255, 255, 255], [1, 2, 3])
    assert np.abs(found[0, 1] - [178, 127, 227.5]).max() <= 1  # by hand: 255 + (c - 255) 128 / 255
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 1), 1)
    picture.save(tmp_path / "p.png", transparency=0)
    assert as_read(tmp_path / "p.png").tolist() == [[[255] * 3, [255] * 3], [[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_pictures_are_turned_upright_as_exif_says(
    tmp_path: Path, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    pixels = pictures(1, 6, 6)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert (as_read(tmp_path / "a.png") == upright(pixels)).all()


def test_pixels_of_other_types_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "wide.tif")
    assert damaged(pictures_below(tmp_path), whole=True) == [
        f"{tmp_path}/float.tif (pixels are 32-bit floats; expected 8 or 16 bits a channel)",
        f"{tmp_path}/wide.tif (pixels from 70000 to 70000; expected 8 or 16 bits a channel)",
    ]


def test_links_are_followed_but_not_back_to_a_folder_that_holds_them(tmp_path: Path) -> None:
    for name in ("set/cat/0.png", "set/cat/deep/1.png", "elsewhere/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(1, 4, 4)[0]).save(tmp_path / name)
    (tmp_path / "set/cat/all").symlink_to(tmp_path / "set")
    (tmp_path / "set/cat/deep/up").symlink_to("..")
    (tmp_path / "set/cat/more").symlink_to(tmp_path / "elsewhere")
    found = [path.relative_to(tmp_path).as_posix() for path in pictures_below(tmp_path / "set")]
    assert found == ["set/cat/0.png", "set/cat/deep/1.png", "set/cat/more/2.png"]


def damage_some(folder: Path) -> list[str]:
    """Twelve pictures a class of noise, some damaged; the names of these."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 40, 40, 3), dtype=np.uint8)
    endings = ("jpg", "png", "bmp", "webp")
    for number, pixels in enumerate(noise):
        path = folder / f"{'cat' if number < 12 else 'dog'}/{number}.{endings[number % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "cat/0.jpg").write_bytes((folder / "cat/0.jpg").read_bytes()[:200])
    for path in (folder / "cat/4.jpg", folder / "cat/5.png", folder / "cat/6.bmp", folder / "cat/7.webp"):
        path.write_bytes(path.read_bytes()[:-300])
    (folder / "dog/12.jpg").write_bytes(b"")
    (folder / "dog/13.png").write_text("<html>not found</html>")
    (folder / "dog/gone.jpg").symlink_to(folder / "nowhere.jpg")
    kept = (folder / "dog/16.jpg").read_bytes()
    (folder / "dog/16.jpg").write_bytes(kept + b"behind the end of the picture" * 9)  # as some cameras write
    return [
        "cat/0.jpg",
        "cat/4.jpg",
        "cat/5.png",
        "cat/6.bmp",
        "cat/7.webp",
        "dog/12.jpg",
        "dog/13.png",
        "dog/gone.jpg",
    ]


@pytest.mark.parametrize("whole", [False, True])
def test_damaged_pictures_are_all_found(tmp_path: Path, whole: bool) -> None:
    names = damage_some(tmp_path)
    found = damaged(pictures_below(tmp_path), whole)
    assert sorted(line.partition(" (")[0] for line in found) == sorted(f"{tmp_path}/{name}" for name in names)
    assert f"{tmp_path}/dog/12.jpg (empty)" in found
    assert f"{tmp_path}/dog/13.png (no picture of a known format)" in found


def test_damaged_pictures_are_found_before_training(tmp_path: Path) -> None:
    names = damage_some(tmp_path / "pets")
    listed = ".*; .*".join(names)
    assert_refused(
        f"^folder:pets: 8 of 25 pictures cannot be decoded: .*{listed} ", "folder:pets", tmp_path, check_dataset
    )
    for name in names:
        (tmp_path / "pets" / name).unlink()
    check_dataset("folder:pets", tmp_path)
    for name in ("cat/1.png", "dog/21.png"):  # whose headers and ends are good
        content = bytearray((tmp_path / "pets" / name).read_bytes())
        content[1000] ^= 255
        (tmp_path / "pets" / name).write_bytes(content)
    shutil.copytree(tmp_path / "pets", tmp_path / "imagenet100/train")
    (tmp_path / "pets").rename(tmp_path / "imagenet100/val")
    check_dataset("imagenet100", tmp_path)
    found = load_dataset("imagenet100", tmp_path, side=8)
    for part in (found.train, found.test):
        with pytest.raises(DataError, match=r"^2 of 17 pictures cannot be decoded: .*cat/1.png .*; .*dog/21.png "):
            subset(part, 16, seed=0)


def test_a_picture_that_says_it_is_huge_is_refused_before_its_pixels_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of a PNG of 60,000 x 60,000 pixels with the data of one of 4 x 4, and one a pixel above the cap."""
    small = io.BytesIO()
    Image.new("RGB", (4, 4)).save(small, "PNG")
    head = b"IHDR" + (60_000).to_bytes(4) * 2 + small.getvalue()[24:29]
    huge = small.getvalue()[:12] + head + zlib.crc32(head).to_bytes(4) + small.getvalue()[33:]
    path = tmp_path / "huge.png"
    path.write_bytes(huge)
    with pytest.raises(DataError, match=r"huge\.png"):
        decode(path, 4)
    Image.new("RGB", (5, 4)).save(tmp_path / "wide.png")
    monkeypatch.setattr("nodes.data.picture_files.MOST_PIXELS", 20)
    assert decode(tmp_path / "wide.png", 4).shape == (4, 4, 3)
    monkeypatch.setattr("nodes.data.picture_files.MOST_PIXELS", 19)
    with pytest.raises(DataError, match=r"wide\.png \(5 x 4 pixels, expected at most 19\)"):
        decode(tmp_path / "wide.png", 4)
