"""Sources on disk as a user meets them: the same sets as from memory, and memory that does not grow with the images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from small import coloured_source, small_config

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceData, SourceRequest, load_source, packed
from atom_plugin.datasets.packed import Contents, create
from atom_plugin.datasets.packed_writer import Packer
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import SourceError


def pack(folder: Path, data: SourceData) -> None:
    contents = Contents(
        class_names=data.class_names,
        train_labels=data.train.labels.tolist(),
        test_labels=data.test.labels.tolist(),
        image_shape=data.image_shape,
    )
    with Packer(folder / "unfinished", contents) as packer:
        packer.put(torch.cat([data.train.images, data.test.images]).numpy())
        packer.finish(folder / "images.h5")


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceData:
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    pack(tmp_path, coloured_source(per_class=30))
    return load_source("packed", SourceRequest(data_dir=tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"zca_eps": 0.1},
        {"zca_eps": 0.1, "iterations": 40},
        {"image_init": "herding", "network_state": "trained:1"},
        {"cluster_every": 2},
    ],
    ids=["plain", "whitened", "kept whitened", "herding, trained", "representative batches"],
)
def test_a_set_from_disk_is_that_from_memory(mapped: SourceData, config: dict[str, object]) -> None:
    memory = replace(coloured_source(per_class=30), fingerprint=mapped.fingerprint, name="packed")
    ours, theirs = (distill(small_config(**config), data, device="cpu") for data in (mapped, memory))
    assert ours.images.numpy().tobytes() == theirs.images.numpy().tobytes()


@pytest.mark.parametrize("iterations", [6, 40], ids=["read ahead", "kept whitened"])
def test_resumed_on_disk_gives_the_same_bytes(mapped: SourceData, tmp_path: Path, iterations: int) -> None:
    config = small_config(zca_eps=0.1, iterations=iterations)
    whole = distill(config, mapped, device="cpu")
    first = Distiller(config, mapped, device="cpu")
    with first.running():
        for _ in range(3):
            first.step()
    first.state().save(tmp_path / "run.checkpoint")
    second = Distiller(config, mapped, device="cpu")
    second.restore(Checkpoint.load(tmp_path / "run.checkpoint"), tmp_path / "run.checkpoint")
    while second.iteration < iterations:
        second.step()
    assert torch.equal(second.synthetic_set().images, whole.images)


def test_a_disk_that_fails_during_a_run_stops_it_in_one_line(mapped: SourceData, tmp_path: Path) -> None:
    distiller = Distiller(small_config(), mapped, device="cpu")
    with distiller.running():
        distiller.step()
        with (tmp_path / "images.h5").open("r+b") as file:
            file.truncate(100)
        with pytest.raises(SourceError, match="became shorter while it was in use"):
            for _ in range(3):
                distiller.step()


def test_the_command_line_takes_a_packed_source(
    mapped: SourceData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--ipc", "1", "--iterations", "2", "--width", "8", "--depth", "2", "--real-batch", "4", "--quiet"]
    quick += ["--precision", "float32"]
    command = ["distill", "--dataset", "packed", "--data-dir", str(tmp_path), *quick, "-o", str(tmp_path / "set.h5")]
    assert main(command) == 0
    assert main(["store", "verify", str(tmp_path / "set.h5")]) == 0
    (tmp_path / "images.h5").write_bytes((tmp_path / "images.h5").read_bytes()[:-10])
    capsys.readouterr()
    assert main([*command, "--force"]) == 1
    error = capsys.readouterr().err
    assert "images.h5" in error and "make it again" in error and len(error.strip().splitlines()) == 1


_RUN = """
import json, sys
from pathlib import Path
from small import coloured_source, small_config
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.datasets import SourceRequest, load_source, packed

packed.MAPPED_BYTES = 2**20

def resident():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}

def steps(data):
    distiller = Distiller(small_config(real_batch=8), data, device="cpu")
    with distiller.running():
        for _ in range(4):
            distiller.step()

steps(coloured_source(classes=10, size=64))  # what libraries take at their first use
before = resident()
data = load_source("packed", SourceRequest(data_dir=sys.argv[1]))
steps(data)
after = resident()
print(json.dumps({name: after[name] - before[name] for name in after} | {"source": data.train.images.numel() / 2**20}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_hold_the_images(tmp_path: Path) -> None:
    labels = torch.arange(10).repeat_interleave(2800).tolist()
    contents = Contents(class_names=tuple("abcdefghij"), train_labels=labels, test_labels=[0], image_shape=(3, 64, 64))
    create(tmp_path / "images.h5", contents)  # a file with holes: its pixels read as zeros and take no disk
    with h5py.File(tmp_path / "images.h5", "a") as file:
        file.attrs["digest"] = "0" * 64
    environment = {"PYTHONPATH": ":".join([str(Path(__file__).parent.parent), os.environ["PYTHONPATH"], *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert grown["source"] > 300
    assert grown["RssAnon"] < 50 and grown["RssFile"] < 50
