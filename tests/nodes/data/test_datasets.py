"""Data sets by name: what a name means, what is told, and what all layouts share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_sets import assert_refused, npy, pictures, save, write_npz, write_stl
from PIL import Image

from nodes.data import datasets as data
from nodes.data.datasets import check_dataset, load_dataset, resolve_dataset
from nodes.data.images import resize, stratified


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
        assert_refused(r"no data set .*digits, cifar10, .*npz:NAME or folder:NAME", wrong, None, call=resolve_dataset)
    assert resolve_dataset("optional(stl10)", None) == "digits"
    assert resolve_dataset("optional(stl10)", tmp_path) == "digits"
    assert resolve_dataset("optional(digits)", tmp_path) == "digits"
    assert resolve_dataset("auto(stl10)", tmp_path) == "stl10"
    write_stl(tmp_path / "stl10_binary")
    assert resolve_dataset("optional(stl10)", tmp_path) == resolve_dataset("perhaps(stl10)", tmp_path) == "stl10"
    assert resolve_dataset("optional(imagenet100)", tmp_path) == "digits"
    (tmp_path / "stl10_binary/test_y.bin").unlink()
    assert resolve_dataset("optional(stl10)", tmp_path) == "stl10"
    assert_refused("no test_y", "optional(stl10)", tmp_path, call=check_dataset)
    assert_refused("absent is not a folder", "optional(stl10)", tmp_path / "absent", call=check_dataset)
    assert_refused("no data set 'stl'", "optional(stl)", tmp_path, call=resolve_dataset)


def test_check_needs_a_folder_only_where_files_are_needed(tmp_path: Path) -> None:
    check_dataset("digits", None)
    check_dataset("auto(cifar10)", None)
    assert_refused("cifar10: needs a folder", "cifar10", None, call=check_dataset)
    assert_refused("absent is not a folder", "cifar10", tmp_path / "absent", call=check_dataset)
    for name in data.dataset_names()[1:]:
        assert_refused(f"^{name}: not found in .*expected .*{name}.npz", name, tmp_path, call=check_dataset)


def test_importing_is_cheap() -> None:
    code = "import sys, nodes.data.datasets; print({'sklearn', 'PIL', 'pandas'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert found.strip() == "set()"


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
    assert_refused("side 0", "npz:mine", tmp_path, side=0)


def test_stratified_keeps_shares_and_is_nested() -> None:
    labels = np.repeat([3, 1, 8], [70, 20, 10])
    small, large = stratified(labels, 10, seed=1), stratified(labels, 53, seed=1)
    assert np.unique(labels[small], return_counts=True)[1].tolist() == [2, 7, 1]
    assert (len(large), set(small) <= set(large)) == (53, True)
    assert stratified(labels, 100, seed=1).tolist() == list(range(100))
    assert stratified(labels, 10, seed=2).tolist() != small.tolist()


def test_names_are_known_in_the_spellings_that_people_use() -> None:
    for spelling, name in {
        "CIFAR-10": "cifar10",
        "Fashion-MNIST": "fashionmnist",
        "tiny_imagenet": "tinyimagenet",
    }.items():
        assert resolve_dataset(spelling, None) == name
        assert resolve_dataset(f"auto({spelling})", Path("x")) == name


@pytest.mark.parametrize(
    ("train", "test", "first", "classes", "told"),
    [
        ([1, 2, 3, 1], [3, 1], 1, 3, ["labels run from 1 to 3: taken as classes 0 to 2", "no test picture of class 1"]),
        ([0, 1, 2, 1], [2, 0], 0, 3, ["no test picture of class 1"]),
        ([1, 2, 3, 1], [0, 3], 0, 4, ["no training picture of class 0", "no test picture of class 1, 2"]),
        ([2, 3, 2, 3], [3, 2], 0, 4, ["no training picture of class 0, 1", "no test picture of class 0, 1"]),
        ([0, 3, 0, 3], [3, 0], 0, 4, ["no training picture of class 1, 2", "no test picture of class 1, 2"]),
    ],
)
def test_labels_from_one_and_classes_without_pictures_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, train: list, test: list, first: int, classes: int, told: list
) -> None:
    labels = {"train_labels": npy("|u1", (4,), bytes(train)), "test_labels": npy("|u1", (2,), bytes(test))}
    write_npz(tmp_path / "mine.npz", **labels)
    check_dataset("npz:mine", tmp_path)
    found = load_dataset("npz:mine", tmp_path)
    assert [*found.train.labels, *found.test.labels] == [label - first for label in [*train, *test]]
    assert found.classes == tuple(map(str, range(classes)))
    messages = [record.getMessage() for record in caplog.records]
    assert [message.rpartition("_labels: ")[2] for message in messages] == told
    assert all(message.startswith(f"npz:mine: {tmp_path}/mine.npz: ") for message in messages)


def test_labels_of_a_known_set_run_from_one_only_if_they_end_at_its_number_of_classes(tmp_path: Path) -> None:
    def write(highest: int) -> None:
        labels = npy("|u1", (4,), bytes([1, 2, 3, highest]))
        write_npz(tmp_path / "cifar10.npz", train_labels=labels, test_labels=npy("|u1", (2,), bytes([1, 2])))

    write(10)
    assert load_dataset("cifar10", tmp_path).train.labels.tolist() == [0, 1, 2, 9]
    write(9)
    assert load_dataset("cifar10", tmp_path).train.labels.tolist() == [1, 2, 3, 9]
    write(11)
    assert_refused("label 11, expected 0 to 9", "cifar10", tmp_path, call=check_dataset)


def test_what_a_folder_holds_is_listed_and_examined(tmp_path: Path) -> None:
    write_stl(tmp_path / "stl10_binary")
    write_npz(tmp_path / "mine.npz")
    for number in range(4):
        save(tmp_path / f"pets/{'cat' if number % 2 else 'dog'}/{number}.png", (number, 0, 0))
    save(tmp_path / "__MACOSX/cat/0.png", (0, 0, 0))
    (tmp_path / "notes").mkdir()
    save(tmp_path / "flat/0.png", (0, 0, 0))
    assert data.names_in(tmp_path) == ["stl10", "folder:pets", "npz:mine"]
    assert data.names_in(tmp_path / "stl10_binary") == ["stl10"]
    assert data.names_in(tmp_path / "pets") == ["folder:pets"]
    assert load_dataset("folder:pets", tmp_path / "pets").classes == ("cat", "dog")
    assert_refused(
        "not found in .*; expected nosuch/ with .*; it holds stl10, folder:pets, npz:mine", "folder:nosuch", tmp_path
    )
    assert_refused(
        "these are files of stl10: name that, with .*stl10_binary as the folder", "folder:stl10_binary", tmp_path
    )
    assert data.examine_dataset("npz:mine", tmp_path)[:2] == (6, [])
    (tmp_path / "pets/dog/2.png").write_bytes(b"")
    found = data.examine_dataset("folder:pets", tmp_path)
    assert (found.pictures, found.damaged) == (4, [f"{tmp_path}/pets/dog/2.png (empty)"])
    assert_refused("1 of 4 pictures cannot be decoded: .*2.png", "folder:pets", tmp_path, call=check_dataset)
