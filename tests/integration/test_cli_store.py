"""`atom-cli store …` as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin import store as library
from atom_plugin.cli.store import class_ids, store
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.synthetic_set import SyntheticSet, concatenate


@pytest.fixture
def held():
    return make_set(zca=True, class_names=("cat", "dog", "żółw"), final_loss=0.25, versions={"torch": "2.11"})


@pytest.fixture
def path(held, tmp_path):
    held.save(tmp_path / "set.h5")
    return tmp_path / "set.h5"


def run(*arguments):
    return CliRunner().invoke(store, [str(argument) for argument in arguments])


def done(*arguments) -> str:
    result = run(*arguments)
    assert result.exception is None, result.exception
    assert result.stderr == ""
    return result.stdout


def fails(kind, *arguments) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, kind)
    assert result.stdout == ""
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_info_for_people(path):
    lines = dict(line.split(":", 1) for line in done("info", path).splitlines())
    facts = {name: value.strip() for name, value in lines.items()}
    assert facts["images"] == "6 of 1 x 4 x 4, float32"
    assert facts["classes"] == "3 of 3, 2 each: cat, dog, żółw"
    assert facts["method"] == "atom, 7 iterations, seed 0, final loss 0.25"
    assert facts["source"] == "digits, fingerprint none"
    assert facts["ZCA"] == "eps 0.1"
    assert facts["made with"] == "torch 2.11"
    assert "atom-plugin" in facts["written by"]


def test_info_as_json(path, held):
    found = json.loads(done("info", path, "--json"))
    assert found["shape"] == [6, 1, 4, 4]
    assert found["classes"][2] == {"id": 2, "name": "żółw", "images": 2}
    assert found["preprocessing"]["zca_eps"] == 0.1
    assert found["provenance"]["config"] == held.provenance.config
    assert found["checksum"] == library.verify(path).checksum
    assert (found["format"], found["format_version"]) == ("atom-plugin/synthetic-set", 1)


def test_info_of_uneven_and_empty_sets(tmp_path):
    make_set(classes=20, labels=torch.arange(20).repeat_interleave(torch.arange(1, 21))).save(tmp_path / "a.h5")
    text = done("info", tmp_path / "a.h5")
    assert "20 of 20, 1 to 20 each: class 0, class 1" in text
    assert "(20 in all)" in text
    make_set(labels=torch.zeros(0, dtype=torch.int64)).save(tmp_path / "b.h5")
    assert "0 of 3, 0 each" in done("info", tmp_path / "b.h5")


def test_verify_has_a_line_for_each_file(path, tmp_path):
    assert done("verify", path).startswith(f"{path}: OK (6 images of 3 classes, version 1, sha256 ")
    damaged = tmp_path / "damaged.h5"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    result = run("verify", path, damaged, tmp_path / "absent.h5", path)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [": OK (" in line for line in lines] == [True, False, False, True]
    assert lines[1].startswith(f"{damaged}: ")
    assert "no such file" in lines[2]
    assert run("verify").exit_code == 2


def test_show_draws_beside_the_set(path, tmp_path):
    assert done("show", path) == f"{tmp_path / 'set.png'}\n"
    with Image.open(tmp_path / "set.png") as image:
        assert image.size[0] > 2 * 64
    assert "already exists" in fails(StoreError, "show", path)
    wide = done("show", path, "--force", "--per-class", "1", "-o", tmp_path / "one.png").strip()
    with Image.open(tmp_path / "set.png") as two, Image.open(wide) as one:
        assert one.size[1] > two.size[1]  # with a note on what was left out
    assert run("show", path, "--per-class", "0").exit_code == 2


def test_show_and_export_never_replace_the_set_itself(path, tmp_path):
    before = path.read_bytes()
    assert "is the set itself" in fails(ConfigError, "show", path, "-o", path, "--force")
    export = ("export", path, "--format", "npz", "--force", "-o")
    assert "is the set itself" in fails(ConfigError, *export, path)
    (tmp_path / "link").symlink_to(path)
    assert "is the set itself" in fails(ConfigError, *export, tmp_path / "link")
    assert path.read_bytes() == before


def test_export_in_every_format(path, held, tmp_path):
    assert done("export", path, "--format", "npz", "-o", tmp_path / "a.npz") == f"{tmp_path / 'a.npz'}\n"
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["images"], held.images.numpy())
    done("export", path, "--format", "pt", "-o", tmp_path / "a.pt", "--pixels", "true-colour")
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["images"], held.true_colour())
    done("export", path, "--format", "folder", "-o", tmp_path / "a")
    assert len(list((tmp_path / "a").glob("*/*.png"))) == 6
    folder = ("export", path, "--format", "folder", "-o", tmp_path / "a")
    assert "already exists" in fails(StoreError, *folder)
    done(*folder, "--force")
    assert "true colours only" in fails(ConfigError, *folder, "--force", "--pixels", "preprocessed")
    assert run("export", path, "--format", "gif", "-o", tmp_path / "b").exit_code == 2
    assert run("export", path, "--format", "npz").exit_code == 2


def test_subset_then_merge_gives_the_set_back(path, held, tmp_path):
    done("subset", path, "--classes", "żółw,0", "-o", tmp_path / "a.h5")
    assert SyntheticSet.load(tmp_path / "a.h5").labels.tolist() == [0, 0, 2, 2]
    done("subset", path, "--classes", "dog", "-o", tmp_path / "b.h5")
    assert done("merge", tmp_path / "a.h5", tmp_path / "b.h5", "-o", tmp_path / "c.h5") == f"{tmp_path / 'c.h5'}\n"
    merged = SyntheticSet.load(tmp_path / "c.h5")
    assert_equal_sets(replace(merged, provenance=held.provenance), held)
    parts = [SyntheticSet.load(tmp_path / name) for name in ("a.h5", "b.h5")]
    assert merged.provenance == concatenate(parts).provenance
    assert "already exists" in fails(StoreError, "merge", path, "-o", path)
    assert "already exists" in fails(StoreError, "subset", path, "--classes", "cat", "-o", path)
    done("subset", path, "--classes", "cat", "-o", path, "--force")
    assert SyntheticSet.load(path).classes == [0]


def test_merge_names_the_files_that_differ(path, tmp_path):
    make_set().save(tmp_path / "other.h5")
    line = fails(ConfigError, "merge", path, tmp_path / "other.h5", "-o", tmp_path / "out.h5")
    assert f"{path} and {tmp_path / 'other.h5'} differ in their class names" in line
    assert not (tmp_path / "out.h5").exists()


def test_subset_of_absent_classes(path, tmp_path):
    out = ("-o", tmp_path / "out.h5")
    assert "no class is called 'dgo'" in fails(ConfigError, "subset", path, "--classes", "dgo", *out)
    assert "did you mean 'dog'?" in fails(ConfigError, "subset", path, "--classes", "cat,dgo", *out)
    assert "ids run from 0 to 2" in fails(ConfigError, "subset", path, "--classes", "7", *out)
    assert "no class is called ''" in fails(ConfigError, "subset", path, "--classes", "cat,", *out)
    done("subset", path, "--classes", "cat", *out)
    line = fails(ConfigError, "subset", tmp_path / "out.h5", "--classes", "dog", "-o", tmp_path / "b.h5")
    assert "holds no images of class [1]" in line


def test_classes_by_name_or_id():
    names = ("cat", "a,b", "0", "same", "same", "x")
    assert class_ids(["cat, 5"], names) == [0, 5]
    assert class_ids(["a,b", "cat"], names) == [1, 0]
    assert class_ids(["0"], names) == [2]  # a name comes before an id
    with pytest.raises(ConfigError, match=r"'same' stands for the ids \[3, 4\]; give an id"):
        class_ids(["same"], names)
    assert class_ids(["3,4"], names) == [3, 4]
    for bad in ("-1", "6", "٣", "1.0", ""):
        with pytest.raises(ConfigError, match="no class is called"):
            class_ids([bad], names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "--json"],
        ["show"],
        ["export", "--format", "npz", "-o", "out"],
        ["export", "--format", "folder", "-o", "out"],
        ["merge", "-o", "out"],
        ["subset", "--classes", "0", "-o", "out"],
    ],
)
def test_bad_files_through_every_command(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.h5").write_bytes(b"not HDF5 at all")
    for bad in ("absent.h5", "bad.h5", "."):
        assert fails(StoreError, *arguments, bad).startswith(f"{bad}: ")
    assert [item.name for item in tmp_path.iterdir()] == ["bad.h5"]


def test_every_command_has_help():
    for name, command in store.commands.items():
        text = done(name, "--help")
        assert command.help is not None
        assert command.help.split("\n")[0][:40] in text
        assert all(getattr(option, "help", "") for option in command.params if option.param_type_name == "option")
