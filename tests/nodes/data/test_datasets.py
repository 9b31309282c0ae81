"""Every layout is written here byte by byte, by hand, and must be read back as the pixels that were meant."""

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nodes.data import datasets as data
from nodes.data.datasets import check_dataset, load_dataset, recorded_name, resolve_dataset
from nodes.data.images import Files, resize, stratified
from nodes.errors import DataError


def refused(words: str, name: str, folder: Path | None, call: Callable[..., object] = load_dataset, **options) -> None:
    with pytest.raises(DataError, match=words):
        call(name, folder, **options)


def pixel(picture: int, row: int, column: int, channel: int) -> int:
    """A value that differs along every axis, so that swapped axes show."""
    return (picture * 101 + row * 7 + column * 3 + channel * 59) % 256


def pictures(count: int, height: int, width: int) -> np.ndarray:
    picture, row, column, channel = np.indices((count, height, width, 3))
    return ((picture * 101 + row * 7 + column * 3 + channel * 59) % 256).astype(np.uint8)


def cifar_file(labels: list[int]) -> bytes:
    content = bytearray()
    for picture, label in enumerate(labels):
        content.append(label)
        for channel in range(3):
            for row in range(32):
                content += bytes(pixel(picture, row, column, channel) for column in range(32))
    return bytes(content)


def write_cifar(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_file([number, 9]))
    (folder / "test_batch.bin").write_bytes(cifar_file([4, 0, 7]))


def write_stl(folder: Path) -> None:
    folder.mkdir()
    for part, labels in (("train", [1, 10]), ("test", [3])):
        content = bytearray()
        for picture in range(len(labels)):
            for channel in range(3):
                for column in range(96):
                    content += bytes(pixel(picture, row, column, channel) for row in range(96))
        (folder / f"{part}_X.bin").write_bytes(content)
        (folder / f"{part}_y.bin").write_bytes(bytes(labels))


def write_idx(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True)
    for part, labels in (("train", [9, 0, 3]), ("t10k", [1])):
        grey = bytes(pixel(n, row, column, 0) for n in range(len(labels)) for row in range(28) for column in range(28))
        images = bytes([0, 0, 8, 3]) + struct.pack(">III", len(labels), 28, 28) + grey
        numbers = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels)) + bytes(labels)
        for kind, content in (("images-idx3", images), ("labels-idx1", numbers)):
            write_maybe_packed(folder / f"{part}-{kind}-ubyte", content, packed)


def write_maybe_packed(path: Path, content: bytes, packed: bool) -> None:
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)


def npy(descr: str, shape: tuple[int, ...], content: bytes) -> bytes:
    """An npy file of version 1.0."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def write_npz(path: Path, packed: bool = False, **changed: bytes | None) -> None:
    """MedMNIST's layout with labels (N, 1); ``changed`` replaces whole members, None leaves one out."""
    members: dict[str, bytes | None] = {
        "train_images": npy("|u1", (4, 6, 6, 3), pictures(4, 6, 6).tobytes()),
        "train_labels": npy("|u1", (4, 1), bytes([0, 1, 2, 1])),
        "val_images": npy("|u1", (1, 6, 6, 3), bytes(108)),
        "val_labels": npy("|u1", (1, 1), bytes(1)),
        "test_images": npy("|u1", (2, 6, 6, 3), pictures(2, 6, 6).tobytes()),
        "test_labels": npy("<i8", (2, 1), struct.pack("<qq", 2, 0)),
        **changed,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_ham(folder: Path, lesions: int = 20, per_lesion: int = 2) -> dict[str, str]:
    """Two pictures a lesion, each of its own shade, spread over both folders; returns picture -> lesion."""
    rows, lesion_of = ["lesion_id,image_id,dx,dx_type,age,sex,localization"], {}
    for number in range(lesions * per_lesion):
        lesion, name = f"HAM_{number % lesions:07d}", f"ISIC_{number:07d}"
        rows.append(f"{lesion},{name},{'nv' if number % lesions % 2 else 'mel'},histo,50,male,back")
        save(folder / f"HAM10000_images_part_{1 + number % 2}" / f"{name}.jpg", (number, number, number))
        lesion_of[name] = lesion
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return lesion_of


def test_digits_are_the_whole_embedded_set_split_by_class_the_same_way_every_time() -> None:
    digits = load_dataset("digits", None)
    assert (digits.name, digits.input_shape, digits.classes) == ("digits", (3, 32, 32), tuple("0123456789"))
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.labels.dtype == np.int64
    assert np.bincount(digits.test.labels).min() >= 34
    stored = load_dataset("digits", None, side=8)
    from sklearn.datasets import load_digits  # noqa: PLC0415

    found = np.sort(np.concatenate([stored.train.images[:], stored.test.images[:]])[..., 1].reshape(-1, 64), 0)
    expected = np.sort(np.rint(load_digits().data * 255 / 16), 0)
    assert (found == expected).all()
    assert np.asarray(digits.train.images[:]).mean() == pytest.approx(np.mean(stored.train.images[:]), abs=0.5)
    again = load_dataset("digits", None)
    assert (again.train.images[:] == digits.train.images[:]).all()
    assert (again.test.labels == digits.test.labels).all()


def test_resolve_names_optional_ones_only_where_their_files_are(tmp_path: Path) -> None:
    assert resolve_dataset("auto(cifar10)", None) == "digits"
    assert resolve_dataset("auto(cifar10)", Path("x")) == "cifar10"
    assert resolve_dataset("stl10", None) == "stl10"
    assert resolve_dataset("npz:mine", None) == "npz:mine"
    for wrong in ("cifar", "auto(cifar)", "npz:../x", "auto(auto(digits))"):
        refused(r"no data set .*digits, cifar10, stl10", wrong, None, call=resolve_dataset)
    assert resolve_dataset("optional(stl10)", None) == "digits"
    assert resolve_dataset("optional(stl10)", tmp_path) == "digits"
    assert resolve_dataset("optional(digits)", tmp_path) == "digits"
    assert resolve_dataset("auto(stl10)", tmp_path) == "stl10"
    write_stl(tmp_path / "stl10_binary")
    assert resolve_dataset("optional(stl10)", tmp_path) == resolve_dataset("perhaps(stl10)", tmp_path) == "stl10"
    assert resolve_dataset("optional(imagenet100)", tmp_path) == "digits"
    (tmp_path / "stl10_binary/test_y.bin").unlink()
    assert resolve_dataset("optional(stl10)", tmp_path) == "stl10"
    refused("no test_y", "optional(stl10)", tmp_path, call=check_dataset)
    refused("absent is not a folder", "optional(stl10)", tmp_path / "absent", call=check_dataset)
    refused("no data set 'stl'", "optional(stl)", tmp_path, call=resolve_dataset)


def test_check_needs_a_folder_only_where_files_are_needed(tmp_path: Path) -> None:
    check_dataset("digits", None)
    check_dataset("auto(cifar10)", None)
    refused("cifar10: needs a folder", "cifar10", None, call=check_dataset)
    refused("absent is not a folder", "cifar10", tmp_path / "absent", call=check_dataset)
    for name in data.dataset_names()[1:]:
        refused(f"^{name}: not found in .*expected .*{name}.npz", name, tmp_path, call=check_dataset)


def test_importing_is_cheap() -> None:
    code = "import sys, nodes.data.datasets; print({'sklearn', 'PIL', 'pandas'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert found.strip() == "set()"


@pytest.mark.parametrize("inside", ["cifar-10-batches-bin", "."])
def test_cifar10_binary(tmp_path: Path, inside: str) -> None:
    write_cifar(tmp_path / inside)
    check_dataset("cifar10", tmp_path)
    found = load_dataset("cifar10", tmp_path)
    assert (found.name, found.input_shape, found.classes[9]) == ("cifar10", (3, 32, 32), "truck")
    assert found.train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert found.test.labels.tolist() == [4, 0, 7]
    assert (found.train.images[2:4] == pictures(2, 32, 32)).all()
    assert (found.test.images[np.array([2, 0])] == pictures(3, 32, 32)[[2, 0]]).all()


def test_cifar10_that_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar(folder)
    (folder / "test_batch.bin").write_bytes(cifar_file([4, 0])[:-1])
    refused(r"cifar10: .*test_batch.bin: 6,145 bytes, .*multiple of 3,073", "cifar10", tmp_path)
    (folder / "test_batch.bin").write_bytes(cifar_file([4, 10]))
    refused(r"test_batch.bin: label 10, expected 0 to 9", "cifar10", tmp_path)
    (folder / "data_batch_3.bin").unlink()
    refused(r"no data_batch_3.bin in", "cifar10", tmp_path, call=check_dataset)


def test_stl10_is_column_major_and_counts_from_one(tmp_path: Path) -> None:
    write_stl(tmp_path / "stl10_binary")
    found = load_dataset("stl10", tmp_path)
    assert found.input_shape == (3, 96, 96)
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 9], [2])
    assert (found.train.images[:] == pictures(2, 96, 96)).all()


def test_stl10_that_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    write_stl(folder)
    (folder / "train_y.bin").write_bytes(bytes([0, 10]))
    refused(r"train_y.bin: label 0, expected 1 to 10", "stl10", tmp_path)
    (folder / "train_y.bin").write_bytes(bytes([1, 2, 3]))
    refused(r"train_y.bin: 3 labels for 2 pictures", "stl10", tmp_path)
    (folder / "test_X.bin").write_bytes(b"")
    (folder / "train_y.bin").write_bytes(bytes([1, 2]))
    refused(r"test_X.bin: 0 bytes, expected a multiple of 27,648", "stl10", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["FashionMNIST/raw", "FashionMNIST"])
def test_fashionmnist(tmp_path: Path, packed: bool, inside: str) -> None:
    write_idx(tmp_path / inside, packed)
    check_dataset("fashionmnist", tmp_path)
    found = load_dataset("fashionmnist", tmp_path)
    assert (found.input_shape, found.classes[9]) == ((3, 28, 28), "Ankle boot")
    assert found.train.labels.tolist() == [9, 0, 3]
    for channel in range(3):
        assert (found.train.images[:][..., channel] == pictures(3, 28, 28)[..., 0]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes([0, 0, 8, 1]) + bytes(12), "magic number 00000801, expected 00000803"),
        (bytes([0, 0]), "magic number 0000, expected 00000803"),
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 2**31, 2**31, 2**31), "more than the file can hold"),
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 1, 2, 4) + bytes(7), "expected 1x2x4 = 8 bytes .* found 7"),
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 1, 2, 4) + bytes(9), "expected 1x2x4 = 8 bytes .* found more"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_that_is_broken(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    write_idx(tmp_path / "FashionMNIST", packed)
    write_maybe_packed(tmp_path / "FashionMNIST/train-images-idx3-ubyte", content, packed)
    refused(f"fashionmnist: .*train-images-idx3-ubyte.*{message}", "fashionmnist", tmp_path)


def test_gz_that_is_cut_short(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST", packed=True)
    path = tmp_path / "FashionMNIST/t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    refused(r"t10k-images-idx3-ubyte.gz: expected a readable idx file", "fashionmnist", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_npz(tmp_path: Path, packed: bool) -> None:
    write_npz(tmp_path / "mine.npz", packed)
    check_dataset("npz:mine", tmp_path)
    found = load_dataset("npz:mine", tmp_path)
    assert (found.name, found.classes, found.input_shape) == ("mine", ("0", "1", "2"), (3, 6, 6))
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 1, 2, 1], [2, 0])
    assert (found.train.images[:] == pictures(4, 6, 6)).all()
    assert found.train.mean == pytest.approx(pictures(4, 6, 6).reshape(-1, 3).mean(0) / 255)
    assert found.test.std == pytest.approx(pictures(4, 6, 6).reshape(-1, 3).std(0) / 255)


def test_npz_stands_in_for_a_known_set_and_may_name_itself(tmp_path: Path) -> None:
    write_npz(tmp_path / "cifar10.npz", name=npy("<U12", (), "cifar10-jpeg".encode("utf-32-le")))
    write_npz(tmp_path / "dermamnist.npz")
    found = load_dataset("cifar10", tmp_path)
    assert (found.name, found.classes[0], found.train.mean[0]) == ("cifar10-jpeg", "airplane", 0.4914)
    assert load_dataset("ham10000", tmp_path).name == "dermamnist"
    assert [recorded_name(name, tmp_path) for name in ("cifar10", "npz:dermamnist")] == ["cifar10-jpeg", "dermamnist"]
    assert recorded_name("auto(cifar10)", None) == "digits"
    write_cifar(tmp_path / "cifar-10-batches-bin")
    assert load_dataset("cifar10", tmp_path).name == "cifar10"


def test_grey_npz_gets_three_channels(tmp_path: Path) -> None:
    grey = pictures(4, 6, 6)[..., 0]
    train, test = npy("|u1", (4, 6, 6), grey.tobytes()), npy("|u1", (2, 6, 6, 1), grey[:2].tobytes())
    write_npz(tmp_path / "grey.npz", train_images=train, test_images=test)
    found = load_dataset("npz:grey", tmp_path)
    assert found.train.images.shape == (4, 6, 6, 3)
    assert (found.train.images[:] == grey[..., None]).all()
    assert (found.test.images[:] == grey[:2, ..., None]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_labels": None}, "no array test_labels"),
        ({"train_images": npy("<f4", (4, 6, 6), bytes(576))}, "train_images is float32"),
        ({"train_images": npy("|u1", (4, 6, 6, 2), bytes(288))}, "train_images is uint8 .*expected uint8"),
        (
            {"train_images": npy("|u1", (4, 5, 6, 3), bytes(360))},
            "train_images of 5x6, test_images of 6x6",
        ),
        ({"train_images": npy("|u1", (10**12, 6, 6, 3), bytes(9))}, "declares .* more or fewer than it holds"),
        ({"train_images": npy("|u1", (4, 6, 6, 3), bytes(433))}, "declares .* more or fewer than it holds"),
        ({"train_images": npy("|u1", (0, 6, 6, 3), b"")}, "train_images is uint8"),
        ({"train_images": b"nonsense"}, "expected an npz in MedMNIST's layout"),
        ({"train_images": npy("|O", (4,), bytes(32))}, "Python objects"),
        ({"train_labels": npy("|u1", (4, 2), bytes(8))}, "train_labels is uint8 .*expected integers"),
        ({"name": npy("|u1", (3,), bytes(3))}, "name is uint8"),
        ({"name": npy("<U1", (), "\n".encode("utf-32-le"))}, "name is '.n', expected printable characters"),
    ],
)
def test_npz_that_is_broken(tmp_path: Path, changed: dict[str, bytes | None], message: str) -> None:
    write_npz(tmp_path / "mine.npz", **changed)
    refused(f"npz:mine: .*mine.npz: .*{message}", "npz:mine", tmp_path)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("cifar10", bytes([0, 1, 10, 0]), "train_labels: label 10, expected 0 to 9"),
        ("cifar10", bytes([0, 1, 2]), "train_labels: 3 labels for 4 pictures"),
        ("npz:mine", bytes([0, 1, 200, 0]), "label 200, expected fewer classes"),
    ],
)
def test_npz_labels_that_cannot_be(tmp_path: Path, name: str, labels: bytes, message: str) -> None:
    path = tmp_path / f"{name.removeprefix('npz:')}.npz"
    write_npz(path, train_labels=npy("|u1", (len(labels),), labels))
    refused(message, name, tmp_path)


def test_npz_that_is_no_zip_lies_about_its_sizes_or_has_damaged_pixels(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    refused("expected an npz in MedMNIST's layout", "npz:mine", tmp_path, call=check_dataset)
    write_npz(path, packed=True, train_images=npy("|u1", (10**6, 32, 32, 3), b""))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02", 0, content.index(b"train_images.npy", content.index(b"PK\x01\x02")))
    struct.pack_into("<I", content, directory + 24, 128 + 3072 * 10**6)  # the size once unpacked
    path.write_bytes(content)
    refused(r"train_images.npy declares 3,072,000,128 bytes, more or fewer", "npz:mine", tmp_path, call=check_dataset)
    images = {f"{part}_images": npy("|u1", (n, 60, 60), bytes(n * 3600)) for part, n in (("train", 4), ("test", 2))}
    write_npz(path, **images)
    content = bytearray(path.read_bytes())
    content[14000] ^= 1
    path.write_bytes(content)
    refused(r"mine.npz: expected arrays that can be read", "npz:mine", tmp_path)


def test_imagenet100_in_parts(tmp_path: Path) -> None:
    save(tmp_path / "imagenet100/train.X1/n02/a.JPEG", (200, 0, 0))
    save(tmp_path / "imagenet100/train.X2/n01/b.JPEG", (0, 200, 0))
    save(tmp_path / "imagenet100/train.X2/n02/c.JPEG", (0, 0, 200))
    save(tmp_path / "imagenet100/val.X/n02/d.JPEG", (90, 90, 90))
    (tmp_path / "imagenet100/train.X1/n02/notes.txt").write_text("no picture")
    check_dataset("imagenet100", tmp_path)
    found = load_dataset("imagenet100", tmp_path, side=16)
    assert (found.classes, found.input_shape) == (("n01", "n02"), (3, 16, 16))
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 1, 1], [1])
    colours = found.train.images[:].mean((1, 2))
    assert np.abs(colours - [[0, 200, 0], [200, 0, 0], [0, 0, 200]]).max() < 4
    directly = load_dataset("imagenet100", tmp_path / "imagenet100")
    assert (directly.name, directly.input_shape) == ("imagenet100", (3, 224, 224))
    renamed = (tmp_path / "imagenet100").rename(tmp_path / "mine")
    assert load_dataset("imagenet100", renamed).name == "imagenet100"


def test_folder_with_its_own_parts(tmp_path: Path) -> None:
    for part, name in (("train", "cat"), ("train", "ant"), ("test", "cat")):
        save(tmp_path / f"pets/{part}/{name}/1.png", (1, 2, 3))
    found = load_dataset("folder:pets", tmp_path)
    assert (found.name, found.classes, found.test.labels.tolist()) == ("pets", ("ant", "cat"), [1])
    assert (found.train.images[:] == [1, 2, 3]).all()
    save(tmp_path / "pets/test/dog/1.png", (1, 2, 3))
    refused("class dog is in test, not in train", "folder:pets", tmp_path)


def test_folder_of_classes_is_split_by_class(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / f"pets/{'cat' if number < 10 else 'ant'}/{number}.png", (number, 0, 0))
    found, again = load_dataset("folder:pets", tmp_path, side=8), load_dataset("folder:pets", tmp_path, side=8)
    assert np.bincount(found.test.labels).tolist() == [2, 2]
    reds = [part.images[:][:, 0, 0, 0].tolist() for part in (found.train, found.test)]
    assert sorted(reds[0] + reds[1]) == list(range(20))
    for part, red in zip((found.train, found.test), reds, strict=True):
        assert [int(value < 10) for value in red] == part.labels.tolist()
    assert again.test.images[:][:, 0, 0, 0].tolist() == reds[1]


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    save(tmp_path / "pets/train/cat/1.png", (1, 2, 3))
    refused(r"folder:pets: .*no pictures in test/CLASS", "folder:pets", tmp_path)
    save(tmp_path / "one/cat/1.png", (1, 2, 3))
    refused("at least two classes", "folder:one", tmp_path)
    (tmp_path / "pets/test/cat").mkdir(parents=True)
    (tmp_path / "pets/test/cat/1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataError, match=r"1.png: expected a picture that can be decoded"):
        load_dataset("folder:pets", tmp_path).test.images[:]


def test_ham10000_keeps_a_lesion_on_one_side(tmp_path: Path) -> None:
    lesion_of = write_ham(tmp_path / "ham10000")
    check_dataset("ham10000", tmp_path)
    found = load_dataset("ham10000", tmp_path, side=8)
    assert (found.name, len(found.classes), found.input_shape) == ("ham10000", 7, (3, 8, 8))
    shades = [np.rint(part.images[:].mean((1, 2, 3))).astype(int) for part in (found.train, found.test)]
    assert sorted([*shades[0], *shades[1]]) == list(range(40))
    lesions = [{lesion_of[f"ISIC_{shade:07d}"] for shade in part} for part in shades]
    assert not lesions[0] & lesions[1]
    assert (len(lesions[0]), len(lesions[1])) == (16, 4)
    assert (found.test.labels == np.where(shades[1] % 20 % 2, 5, 4)).all()
    assert load_dataset("ham10000", tmp_path).input_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("HAM_1,ISIC_0000000,mole,,,,", r"csv:2: dx is 'mole', expected one of akiec"),
        ("HAM_1,ISIC_9999999,nv,,,,", "no picture ISIC_9999999.jpg"),
        (",ISIC_0000000,nv,,,,", "csv:2: no lesion_id"),
        ("", "expected rows with the columns"),
        ("HAM_1,ISIC_0000000,nv,,,,", "0 training and 1 test pictures"),
    ],
)
def test_ham10000_table_that_is_wrong(tmp_path: Path, row: str, message: str) -> None:
    write_ham(tmp_path, lesions=2)
    table = tmp_path / "HAM10000_metadata.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n" + row + "\n")
    refused(message, "ham10000", tmp_path)
    (tmp_path / "HAM10000_metadata.csv").unlink()
    refused(r"no HAM10000_metadata.csv in", "ham10000", tmp_path, call=check_dataset)


def test_side_scales_the_centre_square(tmp_path: Path) -> None:
    wide = np.zeros((1, 4, 8, 3), np.uint8)
    wide[:, :, 2:6] = [10, 20, 30]
    assert (resize(wide, 2) == [10, 20, 30]).all()
    assert (resize(wide, 4) == [10, 20, 30]).all()
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8).reshape(1, 4, 4, 1), 3, axis=3)
    ours, theirs = resize(ramp, 9), Image.fromarray(ramp[0]).resize((9, 9), Image.Resampling.BILINEAR)
    assert np.abs(ours[0].astype(int) - np.asarray(theirs)).max() <= 1
    write_npz(tmp_path / "mine.npz")
    found = load_dataset("npz:mine", tmp_path, side=3)
    assert found.input_shape == (3, 3, 3)
    assert (found.train.images[np.array([2])] == resize(pictures(4, 6, 6)[2:3], 3)).all()
    refused("side 0", "npz:mine", tmp_path, side=0)


def test_files_are_decoded_when_asked_for_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        save(path, (number, 0, 0))
    kept = Files(paths, side=4)
    monkeypatch.setattr("nodes.data.images.KEPT_BYTES", 4 * 48 - 1)
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


def test_stratified_keeps_shares_and_is_nested() -> None:
    labels = np.repeat([3, 1, 8], [70, 20, 10])
    small, large = stratified(labels, 10, seed=1), stratified(labels, 53, seed=1)
    assert np.unique(labels[small], return_counts=True)[1].tolist() == [2, 7, 1]
    assert (len(large), set(small) <= set(large)) == (53, True)
    assert stratified(labels, 100, seed=1).tolist() == list(range(100))
    assert stratified(labels, 10, seed=2).tolist() != small.tolist()
