"""The parts of benchmarks/gpu.py and together.py that need no GPU: where images come from, what is kept, who is compared."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import coloured_source, small_config

from atom_plugin import store
from atom_plugin.distillation.assembly import fit_preprocessing, selected_set
from atom_plugin.distillation.loop import distiller
from atom_plugin.errors import SourceError
from atom_plugin.evaluation.training import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu
import gpu_pieces
import images
import together


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            where = tmp_path / "cifar" / split / name
            where.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (8, 8), (number * 200, index * 50, 0)).save(where / f"{index}.png")
    return tmp_path / "cifar"


def test_images_come_from_a_folder_an_archive_or_arrays(folder, tmp_path):
    plain = images.load_images(str(folder))
    packed = images.load_images(shutil.make_archive(str(tmp_path / "packed"), "xztar", folder))
    nested = images.load_images(shutil.make_archive(str(tmp_path / "nested"), "zip", tmp_path, "cifar"))
    assert plain.fingerprint == packed.fingerprint == nested.fingerprint
    np.savez(
        tmp_path / "held.npz",
        trainx=plain.train.images.numpy(),
        trainy=plain.train.labels.numpy(),
        testx=plain.test.images.numpy(),
        testy=plain.test.labels.numpy(),
    )
    held = images.load_images(str(tmp_path / "held.npz"))
    assert torch.equal(held.train.images, plain.train.images)
    assert held.class_names == ("class 0", "class 1")


def test_files_without_images_are_one_line(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        images.load_images(str(tmp_path / "none"))
    (tmp_path / "a.txt").write_text("no archive")
    with pytest.raises(SourceError, match="neither a folder nor an archive"):
        images.load_images(str(tmp_path / "a.txt"))
    np.savez(tmp_path / "a.npz", trainx=np.zeros(1))
    with pytest.raises(SourceError, match="has no array 'trainy'"):
        images.load_images(str(tmp_path / "a.npz"))


def test_pieces_are_kept_as_they_come_and_not_done_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    out, ran, calls = tmp_path / "gpu.jsonl", [], []

    def piece(name):
        ran.append(name)
        if name == "step-b" and ran.count(name) == 1:
            raise RuntimeError("out of memory")
        return {"value": name}

    found = {name: lambda name=name: piece(name) for name in ("step-a", "step-b", "step-c", "set-d")}

    def call(names, minutes):
        calls.append(names)
        if names.startswith("step-c") and len(calls) == 2:
            return -6  # killed without a word
        return int(not gpu.run_all({name: found[name] for name in names.split(",")}, out, minutes))

    gpu.run_apart(list(found), out, 1.0, call=call)
    assert calls == ["step-a,step-b,step-c,set-d", "step-c,set-d", "set-d"]
    assert ran == ["step-a", "step-b"]
    assert [line.get("value") or line["error"] for line in gpu.records(out)] == [
        "step-a",
        "RuntimeError: out of memory",
        "the process ended with code -6",
    ]
    assert "set-d: left out" in capsys.readouterr().err
    with out.open("a") as file:
        file.write('{"piece": "set-d", "val')
    gpu.run_apart(list(found), out, 10.0, call=call)
    assert calls[3:] == ["step-b,step-c,set-d"]
    assert ran[2:] == ["step-b", "step-c", "set-d"]
    assert gpu.finished(out) == {"step-a", "step-b", "step-c", "set-d"}


@pytest.mark.auto_precision("float32")
def test_networks_in_turn_and_together_reach_the_same(monkeypatch):
    monkeypatch.setattr(together, "matrix_rate", lambda device: 1e11)
    data = coloured_source()
    chosen = selected_set(small_config(ipc=4), data)
    result = together.compare(chosen, data, TrainConfig(epochs=2), 2, torch.device("cpu"), turns=2)
    assert result["together"]["accuracies"] == pytest.approx(result["in turn"]["accuracies"], abs=0.12)
    assert result["ratio"] > 0


@pytest.fixture
def on_the_cpu(monkeypatch):
    """What runs on a GPU, run here at a tiny size, so that no mistake of ours waits for a GPU to show."""
    monkeypatch.setattr(gpu_pieces, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(distiller, "takes_device_step", lambda step, *others, **more: step == "captured")
    monkeypatch.setattr(gpu_pieces, "random_source", lambda: coloured_source(per_class=8))

    def measured(make, steps, *, warm_up):
        make()()
        return {"device_ms": 1.0, "host_ms": 2.0}

    monkeypatch.setattr(gpu_pieces, "measured", measured)


@pytest.mark.auto_precision("float32")
def test_a_set_is_made_stored_and_judged(on_the_cpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_pieces, "load_images", lambda path: coloured_source())
    result = gpu_pieces.set_piece(gpu_pieces.Images(None), "dm", 1, tmp_path, quick=True)
    assert len(result["accuracies"]) == 5
    assert store.read(tmp_path / "dm-ipc1.h5").provenance.method == "dm"
    assert result["config"]["iterations"] == 20
    assert json.dumps(result)


def test_the_step_piece_compares_what_it_says(on_the_cpu, monkeypatch):
    config = small_config(iterations=50)
    monkeypatch.setattr(
        gpu_pieces, "step_config", lambda *given, precision="float32": replace(config, precision=precision)
    )
    monkeypatch.setattr(gpu_pieces, "whitening_of_cifars_size", lambda: fit_preprocessing(config, coloured_source()))
    monkeypatch.setattr(gpu_pieces, "PlainStep", lambda *given: lambda: None)
    result = gpu_pieces.step_piece(10, 64, "instance", quick=True)
    assert result["largest relative difference of 10 losses, float32"] < 1e-3
    assert result["ratio to the baseline"] == 1.0
    assert result["device alone"]["recorded"] is False  # there are no graphs on a CPU
    assert json.dumps(result)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize("script", [gpu, together])
def test_a_missing_gpu_is_one_line(monkeypatch, script):
    monkeypatch.setattr(sys, "argv", ["script", *(["--device", "cuda"] if script is together else [])])
    with pytest.raises(SystemExit, match=r"^Error: device 'cuda' is not available here; available: cpu"):
        script.main()
