"""npz files, written member by member, and what is refused."""

import struct
import zipfile
from pathlib import Path

import pytest
from data_sets import assert_refused, npy, pictures, write_cifar, write_npz

from nodes.data.datasets import check_dataset, load_dataset, recorded_name


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
        ({"train_images": b"nonsense"}, "expected an npz with train_images"),
        ({"train_images": npy("|O", (4,), bytes(32))}, "Python objects"),
        ({"train_labels": npy("|u1", (4, 2), bytes(8))}, "train_labels: rows of 2 numbers, expected a 1 in each"),
        ({"name": npy("|u1", (3,), bytes(3))}, "name is uint8"),
        ({"name": npy("<U1", (), "\n".encode("utf-32-le"))}, "name is '.n', expected printable characters"),
    ],
)
def test_npz_that_is_broken(tmp_path: Path, changed: dict[str, bytes | None], message: str) -> None:
    write_npz(tmp_path / "mine.npz", **changed)
    assert_refused(f"npz:mine: .*mine.npz: .*{message}", "npz:mine", tmp_path)


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
    assert_refused(message, name, tmp_path)


def test_npz_that_is_no_zip_lies_about_its_sizes_or_has_damaged_pixels(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    assert_refused("expected an npz with train_images", "npz:mine", tmp_path, call=check_dataset)
    write_npz(path, packed=True, train_images=npy("|u1", (10**6, 32, 32, 3), b""))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02", 0, content.index(b"train_images.npy", content.index(b"PK\x01\x02")))
    struct.pack_into("<I", content, directory + 24, 128 + 3072 * 10**6)  # the size once unpacked
    path.write_bytes(content)
    assert_refused(
        r"train_images.npy declares 3,072,000,128 bytes, more or fewer", "npz:mine", tmp_path, call=check_dataset
    )
    images = {f"{part}_images": npy("|u1", (n, 60, 60), bytes(n * 3600)) for part, n in (("train", 4), ("test", 2))}
    write_npz(path, **images)
    content = bytearray(path.read_bytes())
    content[14000] ^= 1
    path.write_bytes(content)
    assert_refused(r"mine.npz: expected arrays that can be read", "npz:mine", tmp_path)


def patched(path: Path, member: bytes, field: int, value: int) -> None:
    """Change a 32-bit field of ``member``'s entry in the directory of the archive."""
    content = bytearray(path.read_bytes())
    named = content.index(member, content.index(b"PK\x01\x02"))
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02", 0, named) + field, value)
    path.write_bytes(content)


def test_npz_that_lies_about_what_it_takes_in_the_file_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    write_npz(path, packed=True, train_images=npy("|u1", (10**6, 32, 32, 3), b""))
    patched(path, b"train_images.npy", 24, 128 + 3072 * 10**6)  # unpacked
    patched(path, b"train_images.npy", 20, 3072 * 10**4)  # packed
    assert_refused(r"train_images.npy is said to take .* than the file has", "npz:mine", tmp_path, call=check_dataset)


def test_npz_of_a_huge_array_with_two_members_of_a_name_or_in_lzma_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.npz"
    write_npz(path)
    monkeypatch.setattr("nodes.data.npz.MOST_ARRAY_BYTES", 200)
    assert_refused(r"train_images.npy declares 560 bytes, expected at most 200", "npz:mine", tmp_path)
    monkeypatch.undo()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_labels", npy("|u1", (4,), bytes(4)))
    assert_refused(r"holds train_labels twice", "npz:mine", tmp_path, call=check_dataset)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("train_labels.npy", npy("|u1", (4,), bytes(4)))
    assert_refused(r"method 14; expected deflate or none", "npz:mine", tmp_path, call=check_dataset)


def test_keras_names(tmp_path: Path) -> None:
    names = {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels"}
    grey = pictures(4, 28, 28)[..., 0]
    keras = {
        "x_train": npy("|u1", (4, 28, 28), grey.tobytes()),
        "y_train": npy("|u1", (4,), bytes([3, 0, 1, 2])),
        "x_test": npy("|u1", (2, 28, 28), grey[:2].tobytes()),
        "y_test": npy("|u1", (2,), bytes([3, 2])),
    }
    write_npz(tmp_path / "mnist.npz", **dict.fromkeys(names.values()), **keras)
    check_dataset("mnist", tmp_path)
    for name in ("mnist", "npz:mnist"):
        found = load_dataset(name, tmp_path)
        assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([3, 0, 1, 2], [3, 2])
        assert (found.train.images[:] == grey[..., None]).all()
    write_npz(tmp_path / "mnist.npz", **dict.fromkeys(names.values()), **keras | {"y_test": None})
    assert_refused("no array y_test; expected train_images, .* or x_train, ", "mnist", tmp_path, call=check_dataset)
