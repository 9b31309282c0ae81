"""Data sets under the names, in the tables and with the labels that people give them."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_sets import assert_refused, pictures, save, write_cifar, write_cifar_pickles, write_ham, write_stl

from nodes.data.datasets import check_dataset, examine_dataset, load_dataset, names_in


def write_parts(folder: Path, *parts: str) -> None:
    """Two classes; each part has pictures of a grey of its own."""
    for grey, part in enumerate(parts):
        for name in ("ant", "cat"):
            save(folder / part / name / "1.png", (grey, grey, grey))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "TEST"),
        ("training_set", "test_set"),
        ("training_set/training_set", "test_set/test_set"),
        ("train-images", "val-images"),
        ("seg_train", "seg_test"),
        ("01_train", "02_test"),
        ("train2017", "val2017"),
        ("Training Data", "Validation Data"),
        ("trainset", "dev"),
        ("train", "eval"),
    ],
)
def test_parts_however_they_are_spelt(tmp_path: Path, train: str, test: str) -> None:
    write_parts(tmp_path / "pets", train, test)
    found = load_dataset("folder:pets", tmp_path, side=4)
    assert (found.classes, len(found.train), len(found.test)) == (("ant", "cat"), 2, 2)
    assert [part.images[:].max() for part in (found.train, found.test)] == [0, 1]


def test_classes_that_hold_the_same_folders_are_told(tmp_path: Path) -> None:
    write_parts(tmp_path / "pets", "a", "b")
    assert any("a, b are taken as classes" in note for note in examine_dataset("folder:pets", tmp_path).notes)
    for name in ("n1", "n2"):
        save(tmp_path / f"plain/{name}/images/1.png", (1, 1, 1))
    assert not any("as classes" in note for note in examine_dataset("folder:plain", tmp_path).notes)


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        for number in range(5):
            save(tmp_path / f"vehicles/{name}/{number}.png", (1, 1, 1))
    found = load_dataset("folder:vehicles", tmp_path, side=4)
    assert (found.classes, len(found.train), len(found.test)) == (("bus", "car", "train"), 12, 3)


def test_a_class_of_one_name_in_two_unicode_forms(tmp_path: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        save(tmp_path / "pets" / part / unicodedata.normalize(form, "bébé") / "1.png", (1, 1, 1))
        save(tmp_path / "pets" / part / "cat/1.png", (1, 1, 1))
    assert load_dataset("folder:pets", tmp_path, side=4).test.labels.tolist() == [0, 1]


def test_wrapping_folders_beside_others_without_pictures(tmp_path: Path) -> None:
    write_parts(tmp_path / "my pets (1)/PetImages", "train", "test")
    save(tmp_path / "my pets (1)/sample.png", (9, 9, 9))
    (tmp_path / "my pets (1)/annotations").mkdir()
    assert names_in(tmp_path) == ["folder:my pets (1)"]
    assert len(load_dataset("folder:My pets (1)", tmp_path, side=4).train) == 2


def test_what_is_not_read_of_a_folder_is_told(tmp_path: Path) -> None:
    write_parts(tmp_path / "pets", "train", "test")
    save(tmp_path / "pets/train/cat/2.gif", (5, 5, 5))
    save(tmp_path / "pets/train/__pycache__/1.png", (5, 5, 5))
    save(tmp_path / "pets/train/#recycle/1.png", (5, 5, 5))
    save(tmp_path / "pets/train/loose.png", (5, 5, 5))
    (tmp_path / "pets/train/cat/1.HEIC").write_bytes(b"no picture that is read")
    notes = " ".join(examine_dataset("folder:pets", tmp_path).notes)
    assert load_dataset("folder:pets", tmp_path, side=4).train.labels.tolist() == [0, 1, 1]
    assert "1 pictures beside the folders of the classes" in notes
    assert "1 .heic files are not read" in notes


def test_a_pipe_among_the_pictures_is_damaged(tmp_path: Path) -> None:
    write_parts(tmp_path / "pets", "train", "test")
    os.mkfifo(tmp_path / "pets/train/cat/2.png")
    assert_refused(r"2.png \(no regular file\)", "folder:pets", tmp_path, call=check_dataset)


def test_labels_in_a_table_and_archives_are_named(tmp_path: Path) -> None:
    save(tmp_path / "pets/train/1.png", (1, 1, 1))
    save(tmp_path / "pets/test/1.png", (1, 1, 1))
    (tmp_path / "pets/train.csv").write_text("image,label\n1.png,cat\n")
    assert_refused(r"labels in train.csv are not read", "folder:pets", tmp_path)
    (tmp_path / "birds.zip").write_bytes(b"")
    assert_refused(r"not found .*unpack birds.zip first", "folder:birds", tmp_path)


@pytest.mark.parametrize(
    ("name", "write", "place"),
    [
        ("cifar10", write_cifar_pickles, "CIFAR-10-Batches-PY"),
        ("cifar10", write_cifar_pickles, "cifar-10-python/cifar-10-batches-py"),
        ("stl10", write_stl, "STL10_Binary"),
        ("ham10000", write_ham, "Ham10000"),
        ("imagenette", lambda folder: write_parts(folder, "train", "val"), "imagenette2/imagenette2"),
        ("tinyimagenet", lambda folder: write_parts(folder, "train", "val"), "Tiny-ImageNet-200"),
    ],
)
def test_known_sets_in_folders_of_other_case_or_one_deeper(
    tmp_path: Path, name: str, write: Callable[[Path], None], place: str
) -> None:
    write(tmp_path / place)
    found, directly = load_dataset(name, tmp_path), load_dataset(name, tmp_path / place)
    assert names_in(tmp_path) == [name]
    assert (found.train.images[:] == directly.train.images[:]).all()
    assert found.test.labels.tolist() == directly.test.labels.tolist()


def test_a_set_in_its_place_goes_before_one_in_a_deeper_folder(tmp_path: Path) -> None:
    write_cifar(tmp_path / "old/cifar-10-batches-bin")
    write_cifar_pickles(tmp_path / "cifar-10-batches-py")
    assert load_dataset("cifar10", tmp_path).classes[0] == "plane"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ";"),
        lambda text: "sep=;\r\n" + text.replace(",", ";").replace("\n", "\r\n"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", ", ").upper(),
        lambda text: "".join(f"{number},{line}\n" for number, line in enumerate(text.splitlines())),
        lambda text: "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()),
        lambda text: text.replace("0,n", "0.JPG,n").replace("\n", "\n\n"),
    ],
    ids=["semicolons", "sep", "tabs", "upper", "index", "quotes", "endings"],
)
def test_ham10000_table_in_any_form(tmp_path: Path, change: Callable[[str], str], encoding: str) -> None:
    write_ham(tmp_path / "plain", lesions=10, per_lesion=1)
    shutil.copytree(tmp_path / "plain", tmp_path / "other")
    table = tmp_path / "other/HAM10000_metadata.csv"
    table.write_text(change(table.read_text()), encoding=encoding, newline="")
    expected, found = (load_dataset("ham10000", tmp_path / name, side=4) for name in ("plain", "other"))
    assert found.train.labels.tolist() == expected.train.labels.tolist()
    assert (found.test.images[:] == expected.test.images[:]).all()


def test_error_in_a_table_names_the_line_of_the_file(tmp_path: Path) -> None:
    write_ham(tmp_path, lesions=4, per_lesion=1)
    table = tmp_path / "HAM10000_metadata.csv"
    text = "sep=,\n\n" + table.read_text().replace("0000003,nv", "0000003,wart")
    table.write_text(text)
    line = next(number for number, row in enumerate(text.splitlines(), start=1) if "wart" in row)
    assert_refused(rf"metadata.csv:{line}: dx is 'wart'", "ham10000", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_with_a_byte_order_mark_and_empty_lines(tmp_path: Path, encoding: str) -> None:
    for name in ("n01", "n02"):
        save(tmp_path / f"tiny/train/{name}/images/1.JPEG", (1, 1, 1))
        save(tmp_path / f"tiny/val/images/{name}.JPEG", (1, 1, 1))
    table = tmp_path / "tiny/val/val_annotations.txt"
    table.write_text("n02.JPEG\tn02\t0\n\nn01.JPEG\tn01\t0\n", encoding=encoding)
    assert load_dataset("tinyimagenet", tmp_path / "tiny", side=4).test.labels.tolist() == [0, 1]
    table.write_bytes(b"n02.JPEG\tn\xe9\n")
    assert_refused("val_annotations.txt: expected text in UTF-8", "tinyimagenet", tmp_path / "tiny")


NUMBERS = np.array([0, 2, 1, 2])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (NUMBERS.astype(np.float32), "012"),
        (NUMBERS[:, None].astype(">i4"), "012"),
        (NUMBERS.astype(str), "012"),
        (np.eye(3)[NUMBERS], "012"),
        (np.eye(3, dtype=bool)[NUMBERS], "012"),
        (np.array(["a", "c ", "b", "c"]), "abc"),
        (np.array([b"a", b"c", b"b", b"c"]), "abc"),
    ],
)
@pytest.mark.parametrize("keys", ["train_images train_labels test_images test_labels", "X_train Y_train X_test Y_test"])
def test_npz_with_labels_of_any_type(tmp_path: Path, keys: str, labels: np.ndarray, classes: str) -> None:
    shown = pictures(4, 5, 6)
    arrays = dict(
        zip(keys.split(), [shown.transpose(0, 3, 1, 2), labels, np.asfortranarray(shown), labels], strict=True)
    )
    np.savez(tmp_path / "mine.npz", **arrays, more=np.zeros(3))
    check_dataset("npz:mine", tmp_path)
    found = load_dataset("npz:mine", tmp_path)
    assert ("".join(found.classes), found.train.labels.tolist()) == (classes, NUMBERS.tolist())
    assert (found.train.images[:] == shown).all()
    assert (found.test.images[:] == shown).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (NUMBERS + 0.5, r"y_train: label 0.5, expected whole numbers"),
        (np.where(NUMBERS == 1, np.nan, NUMBERS), r"y_train: label nan, expected whole numbers"),
        (np.array([[1, 1, 0]] * 4), r"y_train: rows of 3 numbers, expected a 1 in each"),
        (np.array(["a", "b", "c", "d"], dtype=object), r"Python objects; save labels as numbers or as text"),
        (NUMBERS.astype(np.complex64), r"y_train is complex64"),
    ],
)
def test_npz_with_labels_that_are_none(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "mine.npz", x_train=pictures(4, 5, 6), y_train=labels, x_test=pictures(4, 5, 6), y_test=NUMBERS)
    assert_refused(message, "npz:mine", tmp_path, call=check_dataset)


def test_npz_with_names_of_known_classes(tmp_path: Path) -> None:
    names = np.array(["ship", "cat", "ship", "dog"])
    np.savez(tmp_path / "cifar10.npz", x_train=pictures(4, 5, 6), y_train=names, x_test=pictures(4, 5, 6), y_test=names)
    assert load_dataset("cifar10", tmp_path).train.labels.tolist() == [8, 3, 8, 5]


def test_npz_with_pixels_of_another_type_says_what_to_do(tmp_path: Path) -> None:
    pixels = (pictures(4, 5, 6) / 255).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x_train=pixels, y_train=NUMBERS, x_test=pixels, y_test=NUMBERS)
    assert_refused("x_train is float32 .*convert pixels to 0 to 255 in uint8", "npz:mine", tmp_path)
