"""Which files belong where: found by name alone, so these tests write empty files."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from atom_plugin.datasets.layouts import Layout, find_layout
from atom_plugin.errors import SourceError


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            (root / path).write_bytes(b"x")
        else:
            (root / path).mkdir(exist_ok=True)
    return root


def found(root: Path, *, seed: int = 0, test_fraction: float = 0.5, **options: Any) -> Layout:
    return find_layout(root, seed=seed, test_fraction=test_fraction, **options)


def labelled(layout: Layout) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    return (
        [(file.path, label) for file, label in zip(layout.train, layout.train_labels, strict=True)],
        [(file.path, label) for file, label in zip(layout.test, layout.test_labels, strict=True)],
    )


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_ready_split(tmp_path: Path, test: str) -> None:
    make(tmp_path, "train/dog/2.png", "train/dog/1.png", "train/cat/3.jpg", f"{test}/cat/4.png", f"{test}/dog/5.png")
    layout = found(tmp_path)
    assert layout.class_names == ("cat", "dog")
    assert labelled(layout) == (
        [("train/cat/3.jpg", 0), ("train/dog/1.png", 1), ("train/dog/2.png", 1)],
        [(f"{test}/cat/4.png", 0), (f"{test}/dog/5.png", 1)],
    )
    assert not layout.seeded
    assert layout.train[0].size == 1
    assert layout.train[0].mtime_ns == (tmp_path / "train/cat/3.jpg").stat().st_mtime_ns


def test_test_goes_before_val_unless_it_is_unlabelled(tmp_path: Path) -> None:
    both = make(tmp_path / "both", *(f"{split}/{name}/1.png" for split in ("train", "test", "val") for name in "ab"))
    assert labelled(found(both))[1] == [("test/a/1.png", 0), ("test/b/1.png", 1)]
    unlabelled = make(
        tmp_path / "unlabelled", "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/images/1.png"
    )
    assert labelled(found(unlabelled))[1] == [("val/a/1.png", 0), ("val/b/1.png", 1)]


def test_nested_files_and_what_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, "a/deep/er/1.PNG", "a/2.JpEg", "a/notes.txt", "a/.3.png", "a/.hidden/4.png", "a/png", "b/5.webp")
    make(tmp_path, "b/6.tif", ".git/7.png", "__MACOSX/a/8.png", "stray.png", "README.md")
    train, test = labelled(found(tmp_path))
    assert sorted(train + test) == [("a/2.JpEg", 0), ("a/deep/er/1.PNG", 0), ("b/5.webp", 1), ("b/6.tif", 1)]


def test_a_single_tree_is_split_by_the_seed(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{number:02}.png" for name in ("a", "b", "c") for number in range(20)))
    layout = found(tmp_path, test_fraction=0.2)
    train, test = labelled(layout)
    assert layout.seeded
    assert [label for _, label in train] == [0] * 16 + [1] * 16 + [2] * 16
    assert [label for _, label in test] == [0] * 4 + [1] * 4 + [2] * 4
    assert train == sorted(train) and test == sorted(test) and not set(train) & set(test)
    assert labelled(found(tmp_path, test_fraction=0.2)) == (train, test)
    assert labelled(found(tmp_path, test_fraction=0.2, seed=1)) != (train, test)


def test_the_split_does_not_depend_on_where_the_tree_is(tmp_path: Path) -> None:
    paths = [f"{name}/{number}.png" for name in "ab" for number in range(9)]
    assert labelled(found(make(tmp_path / "here", *paths))) == labelled(found(make(tmp_path / "there", *paths)))


def test_classes_may_be_links_but_not_loops(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "a/1.png", "a/2.png", ".stock/1.png", ".stock/2.png")
    (root / "b").symlink_to(root / ".stock")
    assert len(found(root).train) == 2
    (root / "a" / "again").symlink_to(root / "a")
    with pytest.raises(SourceError, match=r"again is a link to .*/a, which contains it"):
        found(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_are_not_images(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    os.mkfifo(tmp_path / "b" / "3.png")
    train, test = labelled(found(tmp_path))
    assert len(train + test) == 4


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (tmp_path / "b" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(SourceError, match=r"No such file or directory: .*3\.png"):
        found(tmp_path)


def test_classes_called_train_or_test(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{number}.png" for name in ("bus", "test", "train") for number in range(2)))
    with pytest.raises(SourceError, match="has images but no class folders"):
        found(tmp_path)  # train/ beside test/ is a split, whatever was meant
    for image in (tmp_path / "test").iterdir():
        image.unlink()
    (tmp_path / "test").rmdir()
    assert found(tmp_path).class_names == ("bus", "train")


def tiny(root: Path, *, annotations: str = "v0.JPEG\tn02\t0\t0\t9\t9\nv1.JPEG\tn01\t0\t0\t9\t9\n") -> Path:
    make(root, "train/n02/images/n02_0.JPEG", "train/n01/images/n01_0.JPEG", "train/n01/n01_boxes.txt")
    make(root, "val/images/v0.JPEG", "val/images/v1.JPEG", "test/images/test_0.JPEG", "wnids.txt")
    (root / "val" / "val_annotations.txt").write_text(annotations)
    (root / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tEgyptian cat\n")
    return root


def test_tiny_imagenet_as_it_comes(tmp_path: Path) -> None:
    layout = found(tiny(tmp_path))
    assert layout.class_names == ("goldfish", "Egyptian cat")
    assert labelled(layout) == (
        [("train/n01/images/n01_0.JPEG", 0), ("train/n02/images/n02_0.JPEG", 1)],
        [("val/images/v1.JPEG", 0), ("val/images/v0.JPEG", 1)],
    )
    assert not layout.seeded


def test_words_are_optional_and_may_be_shared(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "words.txt").write_text("n01\tcrane\nn02\tcrane, hoist\n")
    assert found(tmp_path).class_names == ("crane (n01)", "crane (n02)")
    (tmp_path / "words.txt").write_text("n02\tcrane\n")
    assert found(tmp_path).class_names == ("n01", "crane")
    (tmp_path / "words.txt").unlink()
    assert found(tmp_path).class_names == ("n01", "n02")
    (tmp_path / "words.txt").write_bytes(b"n01\t\xff\n")
    with pytest.raises(SourceError, match=r"cannot read .*words\.txt"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("v0.JPEG\tn02\nv1.JPEG\tn09\n", r"line 2: the class 'n09' has no folder in .*train"),
        ("v0.JPEG\tn02\nv7.JPEG\tn01\n", r"line 2: there is no image .*v7\.JPEG"),
        ("v0.JPEG n02\n", "line 1: the class '' has no folder"),
        ("\n", "names no image"),
    ],
)
def test_tiny_imagenet_annotations_that_do_not_fit(tmp_path: Path, annotations: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        found(tiny(tmp_path, annotations=annotations))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], r"has no images; expected DIR/train/<class>"),
        (["1.png", "2.png"], r"has images but no class folders.*pass /"),
        (["a/", "b/"], r"the class folder .*a contains no images \(known endings: \."),
        (["a/1.png", "a/2.png", "b/notes.txt"], r"the class folder .*b contains no images"),
        (["a/1.png", "b/1.png", "b/2.png"], "class 'a' has one image"),
        (["set/a/1.png", "set/b/1.png"], r"only one class folder \(set\).*pass .*set"),
        (["train/a/1.png", "train/b/1.png"], r"has train/ but neither test/ nor val/; add it, or pass .*train"),
        (["test/a/1.png", "test/b/1.png"], r"has test/ but no train/"),
        (["train/a/1.png", "val/a/1.png"], r"train has only one class folder \(a\)"),
        (["train/", "val/a/1.png", "val/b/1.png"], r"train has no images"),
        (["train/1.png", "val/a/1.png"], r"train has images but no class folders"),
        (["train/a/1.png", "train/b/", "val/a/1.png"], r"the class folder .*train/b contains no images"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/"], r"the class folder .*val/b contains no images"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"], r"val has 'c', which .*train lacks"),
        (["train/a/1.png", "train/b/1.png", "val/1.png"], r"no class of .*train \('a', 'b'\) has a folder in val/"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        found(make(tmp_path, *paths))


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        found(tmp_path / "nowhere")
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match="is a file"):
        found(tmp_path / "set.zip")


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    whole = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "b":  # permissions do not bind the administrator, who may run this test
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match=r"cannot look into .*b \(Permission denied"):
        found(tmp_path)


def test_a_class_without_test_images_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/1.png")
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        assert labelled(found(tmp_path))[1] == [("test/b/1.png", 1)]
    assert "no folder for 'a'" in caplog.text


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("train", "validation"), ("train", "valid")),
        *(("train", "dev"), ("Training", "Validation")),
    ],
)
def test_splits_by_other_names(tmp_path: Path, train: str, test: str) -> None:
    make(tmp_path, *(f"{split}/{name}/1.png" for split in (train, test) for name in ("cat", "dog")))
    layout = found(tmp_path)
    assert layout.class_names == ("cat", "dog") and not layout.seeded
    assert labelled(layout)[1] == [(f"{test}/cat/1.png", 0), (f"{test}/dog/1.png", 1)]


def test_two_folders_of_training_images_are_refused(tmp_path: Path) -> None:
    make(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "Training", "test") for name in "ab"))
    with pytest.raises(SourceError, match=r"'Training', 'train'.*keep one"):
        found(tmp_path)


@pytest.mark.parametrize("splits", [("train_images", "test_images"), ("train1", "train2"), ("val", "eval2020")])
def test_what_looks_like_splits_is_not_taken_for_classes(tmp_path: Path, splits: tuple[str, str]) -> None:
    make(tmp_path, *(f"{split}/{name}/{n}.png" for split in splits for name in "ab" for n in range(2)))
    with pytest.raises(SourceError, match=r"splits|has val/ but no train/"):
        found(tmp_path)


def test_classes_whose_names_begin_like_splits(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/images/{n}.png" for name in ("trainer", "valley") for n in range(2)))
    assert found(tmp_path).class_names == ("trainer", "valley")


NUMBERS = ("1", "2", "10")


def test_numbered_classes_keep_the_order_of_names_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "test") for name in NUMBERS))
    assert found(tmp_path).class_names == ("1", "10", "2")
    assert "1, 10, 2" in caplog.text and "--class-order natural: 1, 2, 10" in caplog.text
    caplog.clear()
    natural = found(tmp_path, class_order="natural")
    assert natural.class_names == NUMBERS
    assert labelled(natural)[1] == [("test/1/1.png", 0), ("test/2/1.png", 1), ("test/10/1.png", 2)]
    assert found(tmp_path, class_order="name").class_names == ("1", "10", "2")
    assert not caplog.text


def test_the_natural_order_of_mixed_names(tmp_path: Path) -> None:
    names = ["a10b2", "a10b10", "a2", "b", "007", "7"]
    make(tmp_path, *(f"{name}/{n}.png" for name in names for n in range(2)))
    assert found(tmp_path, class_order="natural").class_names == ("007", "7", "a2", "a10b2", "a10b10", "b")


def test_other_files_are_counted_in_one_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, *(f"{name}/{n}{end}" for name in "ab" for n in range(3) for end in (".jfif", ".JPE", ".heic")))
    make(tmp_path, "a/clip.mp4", "a/notes.txt", "a/Thumbs.db", "a/noending", "b/.DS_Store")
    layout = found(tmp_path)
    assert len(layout.train) + len(layout.test) == 12
    assert len(caplog.records) == 1
    for said in ("6 .heic", "1 .mp4", "1 .txt", "1 without an ending"):
        assert said in caplog.text
    assert "thumbs" not in caplog.text.lower().split("(known endings:")[0]


def test_text_beside_images_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "a/boxes.txt", "b/1.png", "b/2.png")
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        found(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["class", "folder", "file"])
def test_links_out_of_the_folder_are_followed_only_when_asked(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "secret", "1.png", "2.png")
    root = make(tmp_path / "root", *(f"{name}/{n}.png" for name in "abc" for n in range(2)))
    link = {"class": root / "d", "folder": root / "a" / "deep", "file": root / "b" / "9.png"}[kind]
    link.symlink_to(tmp_path / "secret" / "1.png" if kind == "file" else tmp_path / "secret")
    with pytest.raises(SourceError, match=rf"{link} is a link out of .*secret.*--follow-links"):
        found(root)
    layout = found(root, follow_links=True)
    assert len(layout.train) + len(layout.test) == 6 + (1 if kind == "file" else 2)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (tmp_path / "b" / "3.png").symlink_to("../a/1.png")
    layout = found(tmp_path)
    assert len(layout.train) + len(layout.test) == 5


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_loop_is_named_by_the_link_itself(tmp_path: Path, target: str) -> None:
    root = make(tmp_path / "photos", "red bus/1.png", "red bus/2.png", "tram/1.png", "tram/2.png")
    (root / "red bus" / "loop").symlink_to(target)
    with pytest.raises(SourceError) as caught:
        found(root, follow_links=True)
    # To delete what is named must delete the link, never the class behind it.
    assert str(caught.value).startswith(f"{root / 'red bus' / 'loop'} is a link to ")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_names_that_look_the_same_are_refused(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{n}.png" for name in (COMPOSED, DECOMPOSED) for n in range(2)))
    with pytest.raises(SourceError, match=r"caf\\xe9.*|cafe\\u0301"):
        found(tmp_path)


def test_names_that_differ_in_case_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, *(f"{name}/{n}.png" for name in ("Cat", "cat") for n in range(2)))
    assert found(tmp_path).class_names == ("Cat", "cat")
    assert "'Cat' and 'cat'" in caplog.text and "only in case" in caplog.text


def test_splits_from_two_systems_fit_each_other(tmp_path: Path) -> None:
    make(tmp_path, f"train/{COMPOSED}/1.png", "train/tea/1.png", f"test/{DECOMPOSED}/1.png", "test/tea/1.png")
    layout = found(tmp_path)
    assert layout.class_names == (COMPOSED, "tea") and layout.test_labels == [0, 1]


def test_a_test_class_in_another_case_is_named(tmp_path: Path) -> None:
    make(tmp_path, "train/Cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    with pytest.raises(SourceError, match=r"'cat'.*lacks.*'Cat'.*case only"):
        found(tmp_path)
