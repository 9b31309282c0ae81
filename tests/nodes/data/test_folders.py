"""Folders of picture files as people have them."""

from pathlib import Path

import numpy as np
import pytest
from data_sets import assert_refused, save, write_ham

from nodes.data.datasets import check_dataset, load_dataset
from nodes.errors import DataError


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
    assert_refused("class dog is in test, not in train", "folder:pets", tmp_path)


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
    assert_refused(r"folder:pets: .*no pictures in test/CLASS", "folder:pets", tmp_path)
    save(tmp_path / "one/cat/1.png", (1, 2, 3))
    assert_refused("at least two classes", "folder:one", tmp_path)
    (tmp_path / "pets/test/cat").mkdir(parents=True)
    (tmp_path / "pets/test/cat/1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataError, match=r"1 of 1 pictures cannot be decoded: .*1.png \(no picture of a known format\)"):
        load_dataset("folder:pets", tmp_path).test.images[:]
    (tmp_path / "flat").mkdir()
    save(tmp_path / "flat/1.png", (1, 2, 3))
    assert_refused(
        r"0 folders with pictures; expected train/CLASS/\* and test/CLASS/\* .*or CLASS/\*", "folder:flat", tmp_path
    )


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
    assert_refused(message, "ham10000", tmp_path)
    (tmp_path / "HAM10000_metadata.csv").unlink()
    assert_refused(r"no HAM10000_metadata.csv in", "ham10000", tmp_path, call=check_dataset)


@pytest.mark.parametrize("layout", ["kaggle", "dataverse", "one folder", "no folder", "small letters"])
def test_ham10000_in_every_layout_that_is_downloaded(tmp_path: Path, layout: str) -> None:
    write_ham(tmp_path / "kaggle")
    first = load_dataset("ham10000", tmp_path / "kaggle", side=8)
    expected = [(part.labels, part.images[:]) for part in (first.train, first.test)]
    folder = (tmp_path / "kaggle").rename(tmp_path / "HAM10000")
    table, pictures = folder / "HAM10000_metadata.csv", sorted(folder.glob("*/*.jpg"))
    if layout == "dataverse":
        table.rename(folder / "HAM10000_metadata").write_text(table_with_tabs(folder / "HAM10000_metadata"))
    elif layout == "one folder":
        (folder / "images").mkdir()
        for number, path in enumerate(pictures):
            path.rename(folder / "images" / path.with_suffix((".JPG", ".jpg", ".jpeg", ".JPEG")[number % 4]).name)
    elif layout == "no folder":
        for path in pictures:
            path.rename(folder / path.name)
    elif layout == "small letters":  # Kaggle's archive has these folders beside those in capital letters
        for part in (1, 2):
            (folder / f"HAM10000_images_part_{part}").rename(folder / f"ham10000_images_part_{part}")
    found = load_dataset("ham10000", tmp_path, side=8)
    for part, (labels, images) in zip((found.train, found.test), expected, strict=True):
        assert (part.labels == labels).all()
        assert (part.images[:] == images).all()


def table_with_tabs(path: Path) -> str:
    """The table of commas in ``path`` with tabs and quotes."""
    return "".join("\t".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in path.read_text().splitlines())


def test_ham10000_without_some_pictures(tmp_path: Path) -> None:
    write_ham(tmp_path)
    for number in (3, 4):
        next(tmp_path.glob(f"*/ISIC_000000{number}.jpg")).unlink()
    assert_refused(r"no picture ISIC_0000003.jpg, 2 of 40 are missing", "ham10000", tmp_path, call=check_dataset)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(10):
            save(tmp_path / f"pets/{name}/{number}.png", (number, 0, 0))
        (tmp_path / f"pets/{name}/._0.png").write_bytes(b"\0\x05\x16\x07 resource fork")
        for stray in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (tmp_path / f"pets/{name}/{stray}").write_bytes(b"no picture")
        save(tmp_path / f"pets/{name}/.ipynb_checkpoints/0-checkpoint.png", (0, 0, 0))
    for folder in (".ipynb_checkpoints", "__MACOSX", "__MACOSX/cat", ".Trash-0", "@eaDir"):
        save(tmp_path / f"pets/{folder}/0.png", (0, 0, 0))
    check_dataset("folder:pets", tmp_path)
    found = load_dataset("folder:pets", tmp_path, side=4)
    assert (found.classes, len(found.train), len(found.test)) == (("cat", "dog"), 16, 4)
    assert sorted(part.images[:][:, 0, 0, 0].sum() for part in (found.train, found.test))[-1] > 0
    assert sum(int(part.images[:][:, 0, 0, 0].sum()) for part in (found.train, found.test)) == 2 * sum(range(10))


def test_tiny_imagenet_reads_classes_of_its_validation_pictures_in_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(("n01", "n02")):
        save(folder / f"train/{wnid}/images/{wnid}_0.JPEG", (0, 100 * number, 0))
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t8\t8\n")
    for number in (0, 1, 2):
        save(folder / f"val/images/val_{number}.JPEG", (60 * number, 0, 0))
        save(folder / f"test/images/test_{number}.JPEG", (0, 0, 0))  # without classes
    table = "val_0.JPEG\tn02\t0\t0\t8\t8\nval_1.JPEG\tn01\t0\t0\t8\t8\nval_2.JPEG\tn02\t0\t0\t8\t8\n"
    (folder / "val/val_annotations.txt").write_text(table)
    for name, place in (("tiny-imagenet", tmp_path), ("folder:tiny-imagenet-200", tmp_path), ("tinyimagenet", folder)):
        found = load_dataset(name, place, side=8)
        assert (found.classes, found.train.labels.tolist(), found.test.labels.tolist()) == (
            ("n01", "n02"),
            [0, 1],
            [0, 1, 1],
        )
        assert np.abs(found.test.images[:].mean((1, 2)) - [[60, 0, 0], [0, 0, 0], [120, 0, 0]]).max() < 4
    (folder / "val/val_annotations.txt").write_text(table + "val_3.JPEG\tn01\n")
    assert_refused("val_annotations.txt:4: no picture val_3.JPEG", "tinyimagenet", tmp_path, call=check_dataset)
    (folder / "val/val_annotations.txt").write_text("val_0.JPEG n02\n")
    assert_refused("val_annotations.txt:1: expected a file and its class", "tinyimagenet", tmp_path, call=check_dataset)


def test_imagenette_and_folders_with_val_for_test(tmp_path: Path) -> None:
    for part, name in (("train", "n01440764"), ("train", "n02102040"), ("val", "n02102040")):
        save(tmp_path / f"imagenette2-160/{part}/{name}/1.JPEG", (1, 2, 3))
        save(tmp_path / f"pets/{part.title()}/{name}/deeper/1.JPG", (1, 2, 3))
    (tmp_path / "imagenette2-160/noisy_imagenette.csv").write_text("path\n")
    for name in ("imagenette", "folder:imagenette2-160", "folder:pets"):
        found = load_dataset(name, tmp_path, side=8)
        assert (found.classes, found.test.labels.tolist()) == (("n01440764", "n02102040"), [1])
    assert load_dataset("imagenette", tmp_path / "imagenette2-160").input_shape == (3, 160, 160)


def test_a_folder_in_a_folder_as_archives_unpack(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(5):
            save(tmp_path / f"pets/pets/{name}/{number}.png", (number, 0, 0))
    assert load_dataset("folder:pets", tmp_path, side=4).classes == ("cat", "dog")


def test_folders_without_pictures_and_val_beside_test_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "test", "val"):
        save(tmp_path / f"pets/{part}/cat/1.png", (1, 2, 3))
        (tmp_path / f"pets/{part}/bird").mkdir()
    save(tmp_path / "pets/train/dog/1.png", (1, 2, 3))
    check_dataset("folder:pets", tmp_path)
    assert load_dataset("folder:pets", tmp_path).classes == ("cat", "dog")
    told = "\n".join(record.getMessage() for record in caplog.records)
    for words in (
        "no picture in bird/: not taken as a class",
        "test is used, val is not",
        "no test picture of class dog",
    ):
        assert told.count(words) == (2 if "bird" in words else 1), told
