"""Published files of arrays are written here by hand, and must be read back as the pixels that were meant."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_sets import (
    assert_refused,
    batch,
    cifar_file,
    pictures,
    write_cifar,
    write_cifar_pickles,
    write_idx,
    write_maybe_packed,
    write_stl,
)
from scipy.io import savemat

from nodes.data.datasets import check_dataset, load_dataset
from nodes.data.stored import contents
from nodes.errors import DataError


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
    assert_refused(r"cifar10: .*test_batch.bin: 6,145 bytes, .*multiple of 3,073", "cifar10", tmp_path)
    (folder / "test_batch.bin").write_bytes(cifar_file([4, 10]))
    assert_refused(r"test_batch.bin: label 10, expected 0 to 9", "cifar10", tmp_path)
    (folder / "data_batch_3.bin").unlink()
    assert_refused(r"no data_batch_3.bin in", "cifar10", tmp_path, call=check_dataset)


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
    assert_refused(r"train_y.bin: label 0, expected 1 to 10", "stl10", tmp_path)
    (folder / "train_y.bin").write_bytes(bytes([1, 2, 3]))
    assert_refused(r"train_y.bin: 3 labels for 2 pictures", "stl10", tmp_path)
    (folder / "test_X.bin").write_bytes(b"")
    (folder / "train_y.bin").write_bytes(bytes([1, 2]))
    assert_refused(r"test_X.bin: 0 bytes, expected a multiple of 27,648", "stl10", tmp_path)


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
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 3, 2, 4) + bytes(23), "expected 3x2x4 = 24 bytes .* found 23"),
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 3, 2, 4) + bytes(25), "expected 3x2x4 = 24 bytes .* found more"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_that_is_broken(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    write_idx(tmp_path / "FashionMNIST", packed)
    write_maybe_packed(tmp_path / "FashionMNIST/train-images-idx3-ubyte", content, packed)
    assert_refused(f"fashionmnist: .*train-images-idx3-ubyte.*{message}", "fashionmnist", tmp_path)


def test_gz_that_is_cut_short(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST", packed=True)
    path = tmp_path / "FashionMNIST/t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(r"t10k-images-idx3-ubyte.gz: expected a readable idx file", "fashionmnist", tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifar10_of_torchvision_is_that_of_the_binary_version(tmp_path: Path, protocol: int) -> None:
    write_cifar(tmp_path / "binary/cifar-10-batches-bin")
    write_cifar_pickles(tmp_path / "cifar-10-batches-py", protocol)
    expected = load_dataset("cifar10", tmp_path / "binary")
    check_dataset("cifar10", tmp_path)
    for place in (tmp_path, tmp_path / "cifar-10-batches-py"):
        found = load_dataset("cifar10", place)
        assert (found.name, found.classes[0]) == ("cifar10", "plane")
        for part, other in ((found.train, expected.train), (found.test, expected.test)):
            assert part.labels.tolist() == other.labels.tolist()
            assert (part.images[:] == other.images[:]).all()


@pytest.mark.parametrize(
    ("write", "inside", "archive"),
    [
        (write_cifar, "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        (write_cifar_pickles, "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ],
)
def test_cifar10_in_the_archive_that_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, inside: str, archive: str
) -> None:
    write(tmp_path / "unpacked" / inside)
    with tarfile.open(tmp_path / archive, "w:gz") as packed:
        packed.add(tmp_path / "unpacked" / inside, inside)
    check_dataset("cifar10", tmp_path)
    found, expected = load_dataset("cifar10", tmp_path), load_dataset("cifar10", tmp_path / "unpacked")
    assert (found.train.images[:] == expected.train.images[:]).all()
    assert found.test.labels.tolist() == [4, 0, 7]
    monkeypatch.setattr("nodes.data.stored.MOST_BYTES", 6000)
    assert_refused(r"bytes, expected at most 6,000", "cifar10", tmp_path, call=check_dataset)
    assert_refused(r"bytes, expected at most 6,000", "cifar10", tmp_path / "unpacked", call=check_dataset)
    monkeypatch.undo()
    content = (tmp_path / archive).read_bytes()
    (tmp_path / archive).write_bytes(content[: len(content) // 2])
    assert_refused("expected a readable tar archive", "cifar10", tmp_path, call=check_dataset)
    (tmp_path / archive).write_text("<html>not found</html>")
    assert_refused(r"\A[^\n]*expected a readable tar archive[^\n]*\Z", "cifar10", tmp_path, call=check_dataset)
    with tarfile.open(tmp_path / archive, "w:gz") as packed:
        packed.add(next((tmp_path / "unpacked" / inside).glob("test*")), "a/test_batch")
    assert_refused("no data_batch_1", "cifar10", tmp_path, call=check_dataset)


def test_cifar10_pickles_that_are_broken(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar_pickles(folder)
    good = batch([4, 0], b"labels")
    for changed, message in (
        (good | {b"labels": [4]}, "1 labels for 2 pictures"),
        (good | {b"labels": [4, 10]}, "label 10, expected 0 to 9"),
        (good | {b"labels": [4, "x"]}, "expected a list labels of numbers"),
        (good | {b"data": good[b"data"][:, :-1]}, r"expected an array data of uint8 \(N, 3072\)"),
        (good | {b"data": [1]}, "expected an array data of uint8"),
        ([1, 2], "expected a dict"),
        (good | {b"filenames": print}, r"the pickle names .*print; expected plain data and arrays"),
    ):
        (folder / "test_batch").write_bytes(pickle.dumps(changed, 2))
        assert_refused(f"cifar10: .*test_batch: .*{message}", "cifar10", tmp_path, call=check_dataset)
    (folder / "test_batch").unlink()
    assert_refused("no test_batch in", "cifar10", tmp_path, call=check_dataset)


def test_cifar100_in_both_versions(tmp_path: Path) -> None:
    python, binary = tmp_path / "cifar-100-python", tmp_path / "binary/cifar-100-binary"
    python.mkdir()
    binary.mkdir(parents=True)
    for name, labels in (("train", [0, 99, 7]), ("test", [42])):
        (python / name).write_bytes(
            pickle.dumps(batch(labels, b"fine_labels") | {b"coarse_labels": [1] * len(labels)}, 2)
        )
        records = pictures(len(labels), 32, 32).transpose(0, 3, 1, 2).reshape(-1, 3072)
        content = b"".join(bytes([1, label]) + record.tobytes() for label, record in zip(labels, records, strict=True))
        (binary / f"{name}.bin").write_bytes(content)
    names = [f"class {number}" for number in range(100)]
    (python / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in names]}, 2))
    (binary / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    for place in (tmp_path, tmp_path / "binary"):
        found = load_dataset("cifar100", place)
        assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 99, 7], [42])
        assert (found.train.images[:] == pictures(3, 32, 32)).all()
        assert found.classes == tuple(names)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_with_either_spelling_of_its_files(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path / "MNIST/raw", packed)
    for path in (tmp_path / "MNIST/raw").glob("t10k*"):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    found = load_dataset("mnist", tmp_path)
    assert (found.name, found.classes, found.train.labels.tolist()) == ("mnist", tuple("0123456789"), [9, 0, 3])
    assert (found.test.images[:][..., 2] == pictures(1, 28, 28)[..., 0]).all()


def write_svhn(path: Path, labels: list[int], **changed: object) -> None:
    pixels = pictures(len(labels), 32, 32).transpose(1, 2, 3, 0)
    savemat(path, {"X": pixels, "y": np.array(labels, np.uint8)[:, None]} | changed, do_compression=True)


def test_svhn_counts_ten_as_zero(tmp_path: Path) -> None:
    write_svhn(tmp_path / "train_32x32.mat", [1, 9, 10])
    write_svhn(tmp_path / "test_32x32.mat", [10])
    check_dataset("svhn", tmp_path)
    found = load_dataset("svhn", tmp_path)
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([1, 9, 0], [0])
    assert (found.train.images[:] == pictures(3, 32, 32)).all()
    assert found.classes == tuple("0123456789")


def test_svhn_that_is_broken(tmp_path: Path) -> None:
    write_svhn(tmp_path / "train_32x32.mat", [1, 9, 10])
    for changed, message in (
        ({"y": np.array([[1], [2]], np.uint8)}, r"y is uint8 \(2, 1\), expected \(1, 1\)"),
        ({"y": np.array([[11]], np.uint8)}, "y: label 11, expected 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 1))}, r"X is double \(32, 32, 3, 1\), expected uint8"),
    ):
        write_svhn(tmp_path / "test_32x32.mat", [1], **changed)
        assert_refused(f"svhn: .*test_32x32.mat: {message}", "svhn", tmp_path, call=check_dataset)
    content = (tmp_path / "train_32x32.mat").read_bytes()
    (tmp_path / "test_32x32.mat").write_bytes(content[:300])
    assert_refused("svhn: .*test_32x32.mat: ", "svhn", tmp_path, call=check_dataset)
    (tmp_path / "test_32x32.mat").unlink()
    assert_refused("no test_32x32.mat in", "svhn", tmp_path, call=check_dataset)


def test_a_name_is_in_an_archive_once(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "two.tar", "w") as packed:
        for folder, text in (("a", b"1"), ("b", b"2")):
            member = tarfile.TarInfo(f"{folder}/labels")
            member.size = 1
            packed.addfile(member, io.BytesIO(text))
    assert contents(tmp_path / "two.tar", ["other"]) == {}
    with pytest.raises(DataError, match=r"two\.tar: holds labels twice"):
        contents(tmp_path / "two.tar", ["labels"])
