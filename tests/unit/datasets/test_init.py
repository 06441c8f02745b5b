"""The interface of the sources: requests, loaded data, reloading, and sources of third parties."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from atom_plugin.datasets import SOURCES, SourceData, SourceRequest, Split, load_source, reload_source
from atom_plugin.errors import ConfigError, PluginError, SourceError


def split(count: int = 2, *, shape: tuple[int, ...] = (1, 4, 4), labels: list[int] | None = None) -> Split:
    return Split(
        images=torch.zeros(count, *shape, dtype=torch.uint8),
        labels=torch.tensor(list(range(count)) if labels is None else labels, dtype=torch.int64),
    )


def source(**changes: Any) -> SourceData:
    return SourceData(
        **{
            "name": "mine",
            "train": split(),
            "test": split(),
            "class_names": ("a", "b"),
            "fingerprint": "00",
            "options": {},
            **changes,
        }
    )


def recording(monkeypatch: pytest.MonkeyPatch) -> list[SourceRequest]:
    """Offer a source "mine" by entry point, as an installed distribution would; its requests are collected."""
    seen: list[SourceRequest] = []

    def load(request: SourceRequest) -> SourceData:
        """Images of my own making."""
        seen.append(request)
        return source(options={"image_size": request.image_size})

    module = type(sys)("their_sources")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_sources", module)
    point = metadata.EntryPoint(name="mine", value="their_sources:load", group="atom_plugin.sources")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "atom_plugin.sources" else [])
    return seen


def test_all_named_sources_are_offered() -> None:
    expected = {"digits", "mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "folder"}
    assert expected <= set(SOURCES.names())
    for name in expected:
        assert callable(SOURCES.get(name))
        assert len(SOURCES.describe(name)) > 10


def test_unknown_source_suggests_a_near_one() -> None:
    with pytest.raises(PluginError, match="did you mean 'cifar10'"):
        load_source("cifar-10", SourceRequest())


def test_a_third_party_adds_a_source_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recording(monkeypatch)
    data = load_source("mine", SourceRequest(image_size=16))
    assert seen[0].image_size == 16
    assert data.class_names == ("a", "b")
    assert data.image_shape == (1, 4, 4)
    assert SOURCES.describe("mine") == "Images of my own making."


def test_reload_passes_on_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recording(monkeypatch)
    stored = {"data_dir": "/there", "image_size": 32, "seed": 5, "test_fraction": 0.25}
    reload_source("mine", json.loads(json.dumps(stored)), SourceRequest(progress=True, workers=2))
    images = {"image_size": 32, "seed": 5, "test_fraction": 0.25}
    assert seen[-1] == SourceRequest(data_dir=Path("/there"), offline=True, progress=True, workers=2, **images)
    reload_source("mine", {"image_size": None})
    assert seen[-1] == SourceRequest(offline=True)


def test_a_stored_folder_is_never_fetched_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recording(monkeypatch)
    reload_source("mine", {"data_dir": "/there"})
    assert (seen[-1].data_dir, seen[-1].offline) == (Path("/there"), True)
    reload_source("mine", {"data_dir": "/there"}, SourceRequest(data_dir=Path("/here")))
    assert (seen[-1].data_dir, seen[-1].offline) == (Path("/here"), False)
    reload_source("mine", {"data_dir": "/there"}, SourceRequest(download=True))
    assert (seen[-1].data_dir, seen[-1].offline) == (None, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour_space": "lab"}, "colour_space"),
        ({"image_size": "32"}, "image_size = '32'"),
        ({"seed": True}, "seed = True"),
        ({"data_dir": 7}, "data_dir = 7"),
    ],
)
def test_reload_refuses_options_it_does_not_understand(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        reload_source("digits", options)


@pytest.mark.parametrize(
    "bad",
    [
        {"image_size": 0},
        {"workers": 0},
        {"test_fraction": 0.0},
        {"test_fraction": 1.0},
        {"test_fraction": float("nan")},
    ],
)
def test_impossible_requests(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SourceRequest(**bad)


def test_folders_may_be_strings_with_a_tilde() -> None:
    request = SourceRequest(data_dir="~/pictures", cache_dir="/c")  # type: ignore[arg-type]
    assert request.data_dir == Path.home() / "pictures"
    assert request.cache_dir == Path("/c")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\(N, C, H, W\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "int64"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\(2,\)"),
    ],
)
def test_a_split_of_the_wrong_kind(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Split(images=images, labels=labels)


def test_splits_that_do_not_fit() -> None:
    with pytest.raises(SourceError, match="one shape"):
        source(test=split(shape=(3, 4, 4)))
    with pytest.raises(SourceError, match="labels run from 0 to 2, but there are 2 class names"):
        source(test=split(labels=[0, 2]))
    with pytest.raises(SourceError, match="training split has no images"):
        source(train=split(0))


def test_a_decoding_process_does_not_import_torch() -> None:
    program = "import sys, atom_plugin.datasets.decoding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", ["nul\0byte", "lone \udcff surrogate"])
def test_class_names_that_no_file_could_hold(name: str) -> None:
    with pytest.raises(SourceError, match=r"a set cannot store the class name .*: it .*; rename that class"):
        source(class_names=("żółw", name))
