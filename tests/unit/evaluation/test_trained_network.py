"""A kept network predicts as it did when it was trained, and a file that is none is told in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation import evaluate
from atom_plugin.evaluation.trained_network import TrainedNetwork, train_network
from atom_plugin.evaluation.training import TrainConfig
from atom_plugin.store.synthetic_set import SyntheticSet

CPU = torch.device("cpu")
QUICK = TrainConfig(epochs=3, batch_size=4)
DATA = coloured_source()


def held(**options: Any) -> SyntheticSet:
    return selected_set(small_selection(**options), DATA)


def trained(model: str = "convnet", **options: Any) -> TrainedNetwork:
    return train_network(held(**options), QUICK, model=model, seed=5, device=CPU)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("convnet", {"zca": True}),
        ("convnet", {"network": {"normalisation": "batch"}}),
        ("vgg11", {}),
        ("timm:resnet10t", {}),
    ],
)
def test_a_file_gives_the_same_network_back(tmp_path: Path, model: str, options: dict[str, Any]) -> None:
    kept = trained(model, **options)
    kept.save(tmp_path / "a.safetensors")
    kept.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = TrainedNetwork.load(tmp_path / "a.safetensors")
    assert (again.model, again.network, again.class_names) == (kept.model, kept.network, kept.class_names)
    assert again.preprocessing.matches(kept.preprocessing) and again.decoding == kept.decoding
    assert dict(again.made) == json.loads(json.dumps(kept.made))
    images = kept.preprocess(DATA.test.images)
    assert torch.equal(again.probabilities(images), kept.probabilities(images))
    assert not any(module.training for module in again.module.modules())


def test_it_is_the_first_network_of_an_evaluation() -> None:
    kept = trained()
    found = evaluate(held(), DATA.test, QUICK, repeats=2, seed=5, device="cpu", precision="float32")
    shares = kept.probabilities(kept.preprocessing(DATA.test.images))
    assert shares.shape == (18, 3) and torch.allclose(shares.sum(1), torch.ones(18))
    right = float((shares.argmax(1) == DATA.test.labels).float().mean())
    assert right == pytest.approx(found.accuracies[0])
    other = train_network(held(), QUICK, seed=6, device=CPU)
    assert not torch.equal(shares, other.probabilities(kept.preprocessing(DATA.test.images)))


def test_what_it_was_trained_on_is_told() -> None:
    made = trained().made
    assert made["seed"] == 5 and made["training"]["epochs"] == 3 and made["precision"] == "float32"
    assert made["set"]["images"] == 6 and made["set"]["method"] == "random" and len(made["set"]["sha256"]) == 64
    assert "torch" in made["versions"]


def test_a_model_that_cannot_take_the_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="no model is called 'convnett'; did you mean 'convnet'"):
        trained("convnett")
    with pytest.raises(ConfigError, match="normalisation"):
        train_network(held(), QUICK, model="vit", normalisation="batch", device=CPU)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("kept") / "net.safetensors"
    trained(zca=True).save(file)
    return file.read_bytes()


def with_header(data: bytes, change: Any) -> bytes:
    """The file with ``change`` applied to what it says of itself."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"]["atom-plugin"])
    header["__metadata__"] = {"atom-plugin": json.dumps(change(about))}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda about: {**about, "format": "another"}, "not a network of this package"),
        (lambda about: [], "not a network of this package"),
        (lambda about: {**about, "format_version": 2}, "version 2.*update"),
        (lambda about: {**about, "image_shape": [3, 8]}, "damaged"),
        (lambda about: {**about, "image_shape": [3, 16, 16]}, "damaged.*zca"),
        (lambda about: {**about, "class_names": ["a"]}, "damaged"),
        (lambda about: {**about, "zca_eps": "x"}, "damaged"),
        (lambda about: {**about, "network": {**about["network"], "width": 4096}}, "more than the file has"),
        (lambda about: {**about, "network": {**about["network"], "width": -1}}, "width must be at least 1"),
        (lambda about: {**about, "network": {"name": "nothing"}}, "no model is called 'nothing'"),
        (lambda about: {**about, "network": {"name": "vgg11", "normalisation": "batch"}}, "more than the file has"),
        (lambda about: {key: value for key, value in about.items() if key != "model"}, "model"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_line(
    tmp_path: Path, whole: bytes, change: Any, told: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(with_header(whole, change))
    with pytest.raises(StoreError, match=told) as caught:
        TrainedNetwork.load(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value) and "x.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"GIF89a" + data, lambda data: data[:40]]
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, whole: bytes, damage: Any) -> None:
    (tmp_path / "x.safetensors").write_bytes(damage(whole))
    with pytest.raises(StoreError, match=r"cannot be read as a network.*consume train") as caught:
        TrainedNetwork.load(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_no_file_a_folder_and_an_existing_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such file"):
        TrainedNetwork.load(tmp_path / "nothing.safetensors")
    with pytest.raises(StoreError, match="is a folder, expected a network"):
        TrainedNetwork.load(tmp_path)
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        trained().save(tmp_path / "kept")
