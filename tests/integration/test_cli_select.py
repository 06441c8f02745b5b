"""`atom-cli select` as a user runs it: every method, the network behind it, and what the file says of both."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from small import coloured_source

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.store.synthetic_set import SyntheticSet

METHODS = [
    ("random", ()),
    ("herding", ()),
    ("herding", ("--embedding", "trained:1")),
    ("k-center", ("--embedding", "trained:1")),
    ("forgetting", ("--forgetting-epochs", "2")),
]


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Fifteen 8x8 images each of three classes: digits would train for seconds."""
    folder = tmp_path_factory.mktemp("photos")
    made = coloured_source(per_class=15).train
    for number, (image, label) in enumerate(zip(made.images, made.labels.tolist(), strict=True)):
        (folder / f"class{label}").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"class{label}" / f"{number}.png")
    return folder


def select(*arguments) -> int:
    return main(["select", "--precision", "float32", *map(str, arguments)])


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[" ".join((name, *more)) for name, more in METHODS])
def test_real_images_of_every_class_and_the_same_bytes_again(inside, capsys, photos, method, options):
    source = ("--dataset", "folder", "--data-dir", photos)
    for name in ("a.h5", "b.h5"):
        assert select(*source, "--method", method, *options, "--ipc", 3, "--seed", 5, "-o", name, "-q") == 0
    assert capsys.readouterr().err == ""
    assert (inside / "a.h5").read_bytes() == (inside / "b.h5").read_bytes()
    held = SyntheticSet.load("a.h5")
    real = load_source("folder", SourceRequest(data_dir=photos)).train
    assert held.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    pixels = (held.true_colour() * 255).round().to(torch.uint8)
    found = [int((real.images == image).flatten(1).all(1).nonzero().item()) for image in pixels]
    assert real.labels[found].tolist() == held.labels.tolist()
    assert len(set(found)) == 9
    made = held.provenance
    assert (made.method, made.seed, made.iterations, made.final_loss) == (method, 5, 0, None)
    trained = {"augmentation"} if options else set()
    asked = {"herding": {"embedding"}, "k-center": {"embedding"}, "forgetting": {"forgetting_epochs"}}.get(
        method, set()
    )
    used = {"ipc", "factor", "storage", "method", "seed", "standardise", "zca_eps", "network", "precision"}
    assert set(made.config) == used | asked | trained
    assert made.config.get("embedding", "random") == (options[1] if options[:1] == ("--embedding",) else "random")
    assert made.config.get("forgetting_epochs", 2) == 2
    assert (made.source["name"], len(made.source["fingerprint"])) == ("folder", 64)


def test_consumers_take_a_selection_by_forgetting(inside, capsys, photos):
    source = ("--dataset", "folder", "--data-dir", str(photos))
    precision = ("--precision", "float32")
    choice = ("--forgetting-epochs", "2", "--ipc", "1", "-q", *precision)
    assert select(*source, "--method", "forgetting", *choice, "-o", "set.h5") == 0
    capsys.readouterr()
    for command in (
        ("store", "verify", "set.h5"),
        ("store", "show", "set.h5"),
        ("store", "export", "set.h5", "--format", "npz", "-o", "a.npz"),
        ("consume", "evaluate", "set.h5", "--epochs", "1", "--repeats", "1", "-q", *precision),
        ("distill", *source, *choice, "--image-init", "forgetting", "--iterations", "1", "--width", "4", "-o", "b.h5"),
    ):
        assert main(list(command)) == 0, capsys.readouterr().err
    assert SyntheticSet.load("b.h5").provenance.config["image_init"] == "forgetting"


def test_json(inside, capsys):
    assert select("--method", "k-center", "--ipc", 2, "--json", "-q") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["method"] == "k-center"
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--method", "forgeting"), 2, "forgeting"),
        (("--method", "herding", "--embedding", "trained"), 2, "random or trained:EPOCHS (trained:3), not 'trained'"),
        (("--method", "herding", "--embedding", "trained:0"), 2, "random or trained:EPOCHS"),
        (("--embedding", "trained:2"), 2, "embedding (trained:2) is only for herding and k-center"),
        (
            ("--method", "forgetting", "--embedding", "trained:2"),
            2,
            "embedding (trained:2) is only for herding and k-center",
        ),
        (("--method", "forgetting", "--forgetting-epochs", "1"), 2, "--forgetting-epochs must be at least 2, not 1"),
        (("--method", "herding", "--forgetting-epochs", "3"), 2, "forgetting_epochs (3) is only for forgetting"),
        (("--method", "forgetting", "--ipc", "500"), 1, "lower --ipc to"),
        (("--method", "herding", "--embedding", "trained:9", "--ipc", "500"), 1, "lower --ipc to"),
        (("--device", "tpu"), 2, "tpu"),
    ],
)
def test_one_line_for_what_does_not_fit(inside, capsys, arguments, code, part):
    assert select("--ipc", 1, "-q", *arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert part in captured.err
    assert not list(inside.iterdir())


@pytest.mark.parametrize("options", [(), ("--zca",), ("--no-zca",), ("--zca-eps", "0.3"), ("--no-standardise",)])
def test_the_preprocessing_is_that_of_distill_with_the_same_options(inside, capsys, photos, options):
    """At 32 pixels, where the recipe whitens by default."""
    source = ("--dataset", "folder", "--data-dir", str(photos), "--image-size", "32", *options, "-q")
    assert select(*source, "--ipc", 2, "-o", "a.h5") == 0
    quick = ("--width", "4", "--depth", "2", "--iterations", "1", "--real-batch", "2", "--precision", "float32")
    assert main(["distill", *source, *quick, "--ipc", "2", "-o", "b.h5"]) == 0
    chosen, distilled = (SyntheticSet.load(name).preprocessing for name in ("a.h5", "b.h5"))
    assert chosen.matches(distilled)
    assert (chosen.whitening is None) == (options == ("--no-zca",))
