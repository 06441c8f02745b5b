"""Default folders, digest, and the split that is the same everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from atom_plugin.datasets import SourceRequest, Split
from atom_plugin.datasets.common import cache_home, content_digest, downloads_dir, stored_options, stratified_holdout
from atom_plugin.errors import SourceError

NAMES = ("a", "b", "c")


def split(seed: int = 0, count: int = 4) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(
        images=torch.randint(0, 256, (count, 1, 2, 2), generator=generator).to(torch.uint8),
        labels=torch.arange(count) % 2,
    )


def test_cache_home_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "atom_plugin"
    assert downloads_dir() == tmp_path / "atom_plugin" / "data"
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_home() == Path.home() / ".cache" / "atom_plugin"


def test_cache_home_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_home().is_absolute()


def test_digest_depends_on_pixels_labels_and_names_only() -> None:
    train, test = split(0), split(1)
    digest = content_digest(train, test, NAMES)
    assert digest == content_digest(split(0), split(1), list(NAMES))
    strided = Split(images=train.images.repeat_interleave(2, 0)[::2], labels=train.labels)
    assert digest == content_digest(strided, test, NAMES)

    other_pixel = train.images.clone()
    other_pixel[0, 0, 0, 0] ^= 1
    assert len(digest) == 64
    assert digest != content_digest(Split(images=other_pixel, labels=train.labels), test, NAMES)
    assert digest != content_digest(Split(images=train.images, labels=1 - train.labels), test, NAMES)
    assert digest != content_digest(train, test, ("a", "b", "x"))
    assert digest != content_digest(test, train, NAMES)


def test_holdout_matches_a_literal_reading_of_its_rule() -> None:
    keys = [f"{name}/{number}.png" for name in "ab" for number in range(10)]
    labels = [0] * 10 + [1] * 10
    held_out = stratified_holdout(keys, labels, fraction=0.3, seed=7, class_names=NAMES)
    for label in (0, 1):
        members = [key for key, of in zip(keys, labels, strict=True) if of == label]
        first = sorted(members, key=lambda key: hashlib.sha256(f"7/{key}".encode()).digest())[:3]
        assert {key for key, out in zip(keys, held_out, strict=True) if out and key in members} == set(first)


def test_holdout_ignores_order_and_other_classes_but_not_the_seed() -> None:
    keys, labels = [f"{number}" for number in range(40)], [number % 2 for number in range(40)]

    def held(keys: list[str], labels: list[int], seed: int = 0) -> set[str]:
        flags = stratified_holdout(keys, labels, fraction=0.25, seed=seed, class_names=NAMES)
        return {key for key, out in zip(keys, flags, strict=True) if out}

    assert held(keys, labels) == held(keys[::-1], labels[::-1])
    assert held(keys[::2], labels[::2]) == {key for key in held(keys, labels) if int(key) % 2 == 0}
    assert held(keys, labels) != held(keys, labels, seed=1)


@pytest.mark.parametrize(("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (3, 0.5, 2), (10, 0.2, 2)])
def test_holdout_leaves_something_on_both_sides(count: int, fraction: float, expected: int) -> None:
    flags = stratified_holdout(
        [str(index) for index in range(count)], [2] * count, fraction=fraction, seed=0, class_names=NAMES
    )
    assert sum(flags) == expected


def test_holdout_of_a_single_image() -> None:
    with pytest.raises(SourceError, match="class 'b' has one image"):
        stratified_holdout(["x", "y", "z"], [0, 0, 1], fraction=0.2, seed=0, class_names=NAMES)


def test_stored_options_leave_out_what_was_not_given() -> None:
    assert stored_options(SourceRequest(), data_dir=None) == {}
    assert stored_options(SourceRequest(image_size=8), seed=0) == {"image_size": 8, "seed": 0}
