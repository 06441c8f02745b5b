"""`atom-cli store …` as a user runs it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from synthetic_sets import assert_equal_sets, make_set

import atom_plugin
from atom_plugin import store as library
from atom_plugin.cli.main import main
from atom_plugin.cli.store import store
from atom_plugin.errors import ConfigError, SourceError, StoreError
from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.formats import FORMATS
from atom_plugin.store.synthetic_set import SyntheticSet


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


def noted(*arguments) -> str:
    """What a command that succeeds says on stderr; on stdout is the name of what it wrote, and only that."""
    result = run(*arguments)
    assert result.exception is None, result.exception
    assert result.stdout == f"{arguments[list(arguments).index('-o') + 1]}\n"
    assert all(line.startswith("note: ") for line in result.stderr.splitlines())
    return result.stderr


def fails(kind, *arguments) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, kind)
    assert result.stdout == ""
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_info_for_people(path):
    lines = dict(line.split(":", 1) for line in done("info", path).splitlines())
    facts = {name: value.strip() for name, value in lines.items()}
    assert facts["images"] == "6 of 1 x 4 x 4, float32; 384 bytes, 4 of as many real ones"
    assert facts["classes"] == "3 of 3, 2 each: cat, dog, żółw"
    assert facts["method"] == "atom, 7 iterations, seed 0, final loss 0.25"
    assert facts["source"] == "digits, fingerprint none"
    assert facts["ZCA"] == "eps 0.1"
    assert facts["made with"] == "torch 2.11"
    assert "atom-plugin" in facts["written by"]
    loaded, transform = facts["in Python"], facts["own images"].partition(", ")[0]
    batch, labels = next(iter(eval(loaded, {"atom_plugin": atom_plugin})))
    assert batch.shape == (6, 1, 4, 4) and sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
    prepared = eval(transform, {"atom_plugin": atom_plugin})(torch.zeros(1, 9, 7, dtype=torch.uint8))
    assert prepared.shape == (1, 4, 4)


def test_info_as_json(path, held):
    found = json.loads(done("info", path, "--json"))
    assert found["shape"] == [6, 1, 4, 4]
    assert found["classes"][2] == {"id": 2, "name": "żółw", "images": 2}
    assert found["preprocessing"]["zca_eps"] == 0.1
    assert found["provenance"]["config"] == held.provenance.config
    assert found["checksum"] == library.verify(path).checksum
    assert (found["format"], found["format_version"]) == ("atom-plugin/synthetic-set", 1)


def test_info_counts_soft_labels(tmp_path):
    replace(make_set(soft="logits"), learned_lr=0.015).save(tmp_path / "set.h5")
    text = done("info", tmp_path / "set.h5")
    assert re.search(
        r"^soft labels: +logits; 72 bytes, with the images 456, 4.75 of as many real ones$", text, re.MULTILINE
    )
    assert re.search(r"^learned lr: +0.015$", text, re.MULTILINE)
    found = json.loads(done("info", tmp_path / "set.h5", "--json"))
    assert (found["soft_labels"], found["learned_lr"]) == ({"kind": "logits", "bytes": 72}, 0.015)
    make_set().save(tmp_path / "hard.h5")
    assert json.loads(done("info", tmp_path / "hard.h5", "--json"))["soft_labels"] is None


def test_subset_and_merge_keep_soft_labels(tmp_path):
    held = replace(make_set(soft="scores"), learned_lr=0.015)
    held.save(tmp_path / "set.h5")
    done("subset", tmp_path / "set.h5", "--class-ids", "0", "-o", tmp_path / "a.h5")
    done("subset", tmp_path / "set.h5", "--class-ids", "1,2", "-o", tmp_path / "b.h5")
    done("merge", tmp_path / "b.h5", tmp_path / "a.h5", "-o", tmp_path / "c.h5")
    whole = library.read(tmp_path / "c.h5")
    assert torch.equal(whole.soft_labels.values, held.soft_labels.values)
    assert whole.learned_lr == 0.015
    replace(library.read(tmp_path / "a.h5"), soft_labels=None).save(tmp_path / "hard.h5")
    words = fails(ConfigError, "merge", tmp_path / "b.h5", tmp_path / "hard.h5", "-o", tmp_path / "d.h5")
    assert "hard.h5 has no soft labels; join sets that have the same kind" in words


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
    assert "which the command reads; choose another name" in fails(ConfigError, "show", path, "-o", path, "--force")
    export = ("export", path, "--format", "npz", "--force", "-o")
    assert "which the command reads; choose another name" in fails(ConfigError, *export, path)
    (tmp_path / "link").symlink_to(path)
    assert "which the command reads; choose another name" in fails(ConfigError, *export, tmp_path / "link")
    assert path.read_bytes() == before


def test_export_in_every_format(path, held, tmp_path):
    assert done("export", path, "--format", "npz", "-o", tmp_path / "a.npz") == f"{tmp_path / 'a.npz'}\n"
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["images"], held.images.numpy())
    done("export", path, "--format", "pt", "-o", tmp_path / "a.pt", "--pixels", "true-colour")
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["images"], held.true_colour())
    folder = ("export", path, "--format", "folder", "-o", tmp_path / "a")
    assert "note: images hold 8 bits per channel" in noted(*folder)
    assert len(list((tmp_path / "a").glob("*/*.png"))) == 6
    assert "already exists" in fails(StoreError, *folder)
    noted(*folder, "--force")
    assert "only true colours" in fails(ConfigError, *folder, "--force", "--pixels", "preprocessed")
    assert run("export", path, "--format", "gif", "-o", tmp_path / "b").exit_code == 2
    assert run("export", path, "--format", "npz").exit_code == 2


def test_formats_are_listed_without_anything_else():
    for direction in ("export", "import"):
        lines = done(direction, "--list-formats").splitlines()
        assert [line.split()[0] for line in lines] == sorted(FORMATS.names())
        can = {line.split()[0]: " ".join(line.split()[1:3]) for line in lines}
        assert can.pop("arrays").startswith("import")
        assert set(can.values()) == {"export, import"}
        assert "unusable" not in "".join(lines)


@pytest.mark.parametrize(
    "format", ["datasetcondensation", "mtt", "idc", "dc-bench", "dd-ranking", "folder", "huggingface"]
)
def test_export_then_import_like_the_set(path, held, tmp_path, format):
    noted("export", path, "--format", format, "-o", tmp_path / "out")
    noted(
        "import", tmp_path / "out", "--format", format, "--like", path, "-o", tmp_path / "back.h5", "--method", "atom"
    )
    back = SyntheticSet.load(tmp_path / "back.h5")
    exact = format not in ("folder", "huggingface")
    expected = held.true_colour() if exact else held.true_colour().clamp(0, 1)
    torch.testing.assert_close(back.true_colour(), expected, rtol=1e-5, atol=1e-5 if exact else 0.5 / 255 + 1e-5)
    assert back.class_names == held.class_names
    assert back.provenance.method == "atom"
    assert (
        json.loads(done("info", tmp_path / "back.h5", "--json"))["provenance"]["config"]["imported"]["format"] == format
    )


@pytest.mark.parametrize("format", ["npz", "pt"])
def test_export_then_import_of_what_carries_all(path, held, tmp_path, format):
    done("export", path, "--format", format, "-o", tmp_path / "out")
    done("import", tmp_path / "out", "--format", format, "-o", tmp_path / "back.h5")
    back = SyntheticSet.load(tmp_path / "back.h5")
    assert torch.equal(back.images, held.images)
    assert back.provenance.final_loss == held.provenance.final_loss
    line = fails(ConfigError, "import", tmp_path / "out", "--format", format, "--like", path, "-o", tmp_path / "b.h5")
    assert "already contains what --like would give" in line
    assert not (tmp_path / "b.h5").exists()


def test_import_with_names_and_constants_by_hand(path, held, tmp_path):
    noted("export", path, "--format", "datasetcondensation", "-o", tmp_path / "r.pt")
    out = ("--format", "datasetcondensation", "-o", tmp_path / "b.h5")
    assert "pass --like FILE.h5" in fails(ConfigError, "import", tmp_path / "r.pt", *out)
    hand = ("--classes", "cat, dog,żółw", "--mean", str(float(held.preprocessing.mean)))
    assert "give both" in fails(ConfigError, "import", tmp_path / "r.pt", *out, *hand)
    hand = (*hand, "--std", str(float(held.preprocessing.std)))
    done("import", tmp_path / "r.pt", *out, *hand)
    back = SyntheticSet.load(tmp_path / "b.h5")
    assert back.class_names == held.class_names
    torch.testing.assert_close(back.true_colour(), held.true_colour(), rtol=1e-5, atol=1e-5)
    assert "already exists" in fails(StoreError, "import", tmp_path / "r.pt", *out, *hand)
    done("import", tmp_path / "r.pt", *out, *hand, "--force", "--classes", "dog", "--classes", "a,b")
    assert SyntheticSet.load(tmp_path / "b.h5").class_names == ("cat, dog,żółw", "dog", "a,b")


def test_import_of_a_named_dataset_can_be_evaluated(tmp_path):
    from atom_plugin.datasets import SourceRequest, load_source
    from atom_plugin.evaluation import find_test_source

    data = load_source("digits", SourceRequest())
    images = data.train.images[:20].float() / 255
    torch.save([images, data.train.labels[:20]], tmp_path / "data.pt")
    stderr = noted("import", tmp_path / "data.pt", "--format", "idc", "--dataset", "digits", "-o", tmp_path / "i.h5")
    assert "sorted by class" in stderr
    held = SyntheticSet.load(tmp_path / "i.h5")
    assert find_test_source(held, "i.h5", SourceRequest()).fingerprint == data.fingerprint
    line = run("import", tmp_path / "data.pt", "--format", "idc", "--image-size", "8", "-o", tmp_path / "j.h5")
    assert "--image-size has no effect without --dataset" in line.stderr
    both = ("--dataset", "digits", "--like", tmp_path / "i.h5")
    line = fails(ConfigError, "import", tmp_path / "data.pt", "--format", "idc", *both, "-o", tmp_path / "j.h5")
    assert "both --like and --dataset" in line


def test_import_refuses_code_until_told_to_trust_it(path, tmp_path):
    class Maker:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "created"),)

    held = SyntheticSet.load(path)
    torch.save({"data": [[held.images, held.labels]], "accs_all_exps": Maker()}, tmp_path / "r.pt")
    command = ("import", tmp_path / "r.pt", "--format", "datasetcondensation", "--like", path, "-o", tmp_path / "b.h5")
    assert "no code was run; if you trust whoever made it, pass --trust-pickle" in fails(StoreError, *command)
    assert not (tmp_path / "created").exists()
    done(*command, "--trust-pickle", "--experiment", "0")
    assert (tmp_path / "created").exists()
    origin = SyntheticSet.load(tmp_path / "b.h5").provenance.config["imported"]
    assert origin["options"] == {"experiment": 0, "trust_pickle": True}


def test_import_joins_the_parts_of_one_set(path, held, tmp_path):
    parts = []
    for label in range(3):
        parts.append(tmp_path / f"part{label}.npz")
        of = held.labels == label
        np.savez(parts[-1], images=held.true_colour()[of].clamp(0, 1).numpy(), labels=held.labels[of].numpy())
    plain = ("--format", "arrays", "--classes", ",".join(held.class_names), "-o", tmp_path / "whole.h5")
    said = noted("import", *parts, *plain)
    assert said.count("true colours on the [0, 1] scale") == 1
    whole = SyntheticSet.load(tmp_path / "whole.h5")
    assert torch.equal(whole.images, held.true_colour().clamp(0, 1)) and torch.equal(whole.labels, held.labels)
    imported = [part["config"]["imported"] for part in whole.provenance.config["merged"]]
    assert [part["file"] for part in imported] == [part.name for part in parts]
    assert all(part["files"] == 1 for part in imported) and len({part["sha256"] for part in imported}) == 3
    assert "which the command reads" in fails(
        ConfigError, "import", parts[0], parts[1], *plain[:-1], parts[1], "--force"
    )


def test_import_with_a_class_map(path, held, tmp_path):
    noted("export", path, "--format", "datasetcondensation", "-o", tmp_path / "res.pt")
    (tmp_path / "map.txt").write_text("0 dog\n1 żółw\n2 cat\n")
    command = (
        "import",
        tmp_path / "res.pt",
        "--format",
        "datasetcondensation",
        "--like",
        path,
        "-o",
        tmp_path / "a.h5",
    )
    assert "mapped by name" in noted(*command, "--class-map", tmp_path / "map.txt")
    assert torch.equal(SyntheticSet.load(tmp_path / "a.h5").labels, held.labels)
    noted("export", path, "--format", "npz", "-o", tmp_path / "set.npz")
    line = fails(
        *(ConfigError, "import", tmp_path / "set.npz", "--format", "npz", "-o", tmp_path / "b.h5"),
        *("--class-map", tmp_path / "map.txt"),
    )
    assert "already contains what --class-map would give" in line


@pytest.mark.parametrize(("order", "second"), [("name", "10"), ("natural", "2")])
def test_the_order_of_classes_that_an_import_assumes(tmp_path, order, second):
    for split in ("train", "test"):
        for number in (1, 2, 10):
            (tmp_path / "data" / split / str(number)).mkdir(parents=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "data" / split / str(number) / "0.png")
    torch.save([torch.rand(3, 3, 8, 8), torch.arange(3)], tmp_path / "data.pt")
    result = run(
        *("import", tmp_path / "data.pt", "--format", "idc", "--dataset", "folder", "--data-dir", tmp_path / "data"),
        *("--class-order", order, "--cache-dir", tmp_path / "cache", "-o", tmp_path / "a.h5"),
    )
    assert result.exception is None
    held = SyntheticSet.load(tmp_path / "a.h5")
    assert held.class_names[1] == second and held.provenance.source["options"]["class_order"] == order


def test_format_options_on_the_command_line(path, tmp_path):
    out = ("-o", tmp_path / "out")
    assert "takes the options" in fails(ConfigError, "export", path, "--format", "idc", "--option", "factor=2", *out)
    assert "takes the options" in fails(ConfigError, "export", path, "--format", "idc", "--pixels", "true-colour", *out)
    for wrong in ("factor", "=2"):
        result = run("export", path, "--format", "idc", "--option", wrong, *out)
        assert "--option must be KEY=VALUE" in result.stderr
    result = run("import", path, "--format", "idx", *out)
    assert result.exit_code == 2
    assert "no format is called 'idx'; did you mean 'idc'" in result.stderr
    noted("export", path, "--format", "mtt", "--option", "zca=true", *out)
    assert torch.equal(
        torch.load(tmp_path / "out" / "images_best.pt", weights_only=True), SyntheticSet.load(path).images
    )


def test_subset_then_merge_gives_the_set_back(path, held, tmp_path):
    done("subset", path, "--class-ids", "2,0", "-o", tmp_path / "a.h5")
    assert SyntheticSet.load(tmp_path / "a.h5").labels.tolist() == [2, 2, 0, 0]
    done("subset", path, "--classes", "dog", "-o", tmp_path / "b.h5")
    assert done("merge", tmp_path / "a.h5", tmp_path / "b.h5", "-o", tmp_path / "c.h5") == f"{tmp_path / 'c.h5'}\n"
    merged = SyntheticSet.load(tmp_path / "c.h5")
    assert_equal_sets(replace(merged, provenance=held.provenance), held)
    parts = [SyntheticSet.load(tmp_path / name) for name in ("a.h5", "b.h5")]
    assert merged.provenance == concatenate(parts).provenance
    before = path.read_bytes()
    for command in (("merge", path), ("subset", path, "--classes", "cat")):
        assert "which the command reads" in fails(ConfigError, *command, "-o", path, "--force")
        assert "already exists" in fails(StoreError, *command, "-o", tmp_path / "c.h5")
        done(*command, "-o", tmp_path / "c.h5", "--force")
    assert path.read_bytes() == before
    assert SyntheticSet.load(tmp_path / "c.h5").classes == [0]


@pytest.mark.parametrize("form", [{}, {"storage": "uint8", "factor": 2}, {"storage": "float16"}, {"zca": True}])
def test_five_part_files_of_one_release_give_the_whole_back(tmp_path, form):
    whole = make_set(classes=4, ipc=10, **form)
    for number in range(5):
        rows = torch.arange(len(whole)).view(4, 5, 2)[:, number].flatten()
        part = replace(whole, images=whole.images[rows], labels=whole.labels[rows])
        part.save(tmp_path / f"part-{number}.h5")
    done("merge", *(tmp_path / f"part-{number}.h5" for number in range(5)), "-o", tmp_path / "whole.h5")
    merged = SyntheticSet.load(tmp_path / "whole.h5")
    assert_equal_sets(replace(merged, provenance=whole.provenance), whole)
    assert merged.images.numpy().tobytes() == whole.images.numpy().tobytes()
    assert len(merged.provenance.config["merged"]) == 5
    for label in range(4):
        done("subset", tmp_path / "whole.h5", "--class-ids", label, "-o", tmp_path / f"class-{label}.h5")
    done("merge", *(tmp_path / f"class-{label}.h5" for label in (3, 1, 0, 2)), "-o", tmp_path / "again.h5")
    again = SyntheticSet.load(tmp_path / "again.h5")
    assert again.images.numpy().tobytes() == whole.images.numpy().tobytes()
    assert torch.equal(again.labels, whole.labels)


def test_the_first_images_of_each_class_are_cut_and_said_to_be_a_part_where_they_are(tmp_path):
    held = replace(make_set(classes=3, ipc=5), prefixes=(1, 2, 5))
    held.save(tmp_path / "set.h5")
    assert "nested at:   1, 2, 5 images per class" in done("info", tmp_path / "set.h5")
    result = run("subset", tmp_path / "set.h5", "--ipc", "2", "--classes", "class 2,class 0", "-o", tmp_path / "two.h5")
    assert (result.exit_code, result.stderr) == (0, "")
    cut = SyntheticSet.load(tmp_path / "two.h5")
    assert (cut.labels.tolist(), cut.prefixes) == ([2, 2, 0, 0], (1, 2))
    assert torch.equal(cut.images[2:], held.images[:2])
    result = run("subset", tmp_path / "set.h5", "--ipc", "3", "-o", tmp_path / "three.h5")
    assert (
        "is nested at 1, 2, 5 images: its first 3 images per class were not optimised to be used alone" in result.stderr
    )
    make_set(ipc=5).save(tmp_path / "plain.h5")
    assert "is not nested" in run("subset", tmp_path / "plain.h5", "--ipc", "1", "-o", tmp_path / "one.h5").stderr
    assert "expected 6 or more" in fails(
        ConfigError, "subset", tmp_path / "set.h5", "--ipc", "6", "-o", tmp_path / "six.h5"
    )


def test_merge_names_the_files_that_differ(path, tmp_path):
    make_set().save(tmp_path / "other.h5")
    line = fails(ConfigError, "merge", path, tmp_path / "other.h5", "-o", tmp_path / "out.h5")
    assert f"{path} and {tmp_path / 'other.h5'} differ in their class names" in line
    assert not (tmp_path / "out.h5").exists()


def test_a_name_that_is_a_number_is_no_id_and_the_order_is_kept(tmp_path):
    held = make_set(classes=3, class_names=("2", "1", "0"))
    held.save(tmp_path / "set.h5")
    for flag, given, labels in (("--classes", "0,2", [2, 2, 0, 0]), ("--class-ids", "0,2", [0, 0, 2, 2])):
        done("subset", tmp_path / "set.h5", flag, given, "-o", tmp_path / "part.h5", "--force")
        part = SyntheticSet.load(tmp_path / "part.h5")
        assert part.labels.tolist() == labels
        assert torch.equal(part.images[:2], held.images[held.labels == labels[0]])
        assert done("verify", tmp_path / "part.h5").count("OK") == 1
    twins = make_set(classes=3, class_names=("a", "b", "a"))
    twins.save(tmp_path / "twins.h5")
    out = ("-o", tmp_path / "one.h5")
    assert "ids [0, 2]; choose with --class-ids" in fails(
        ConfigError, "subset", tmp_path / "twins.h5", "--classes", "a", *out
    )
    done("subset", tmp_path / "twins.h5", "--class-ids", "2", *out)


def test_subset_of_absent_classes(path, tmp_path):
    out = ("-o", tmp_path / "out.h5")
    assert "no class is called 'dgo'" in fails(ConfigError, "subset", path, "--classes", "dgo", *out)
    assert "did you mean 'dog'?" in fails(ConfigError, "subset", path, "--classes", "cat,dgo", *out)
    assert "ids are given with --class-ids" in fails(ConfigError, "subset", path, "--classes", "0", *out)
    assert "from 0 to 2" in fails(ConfigError, "subset", path, "--class-ids", "7", *out)
    assert "names are given with --classes" in fails(ConfigError, "subset", path, "--class-ids", "cat", *out)
    assert "'cat' (id 0) is named twice" in fails(ConfigError, "subset", path, "--classes", "cat,dog,cat", *out)
    for none in ((), ("--classes", "cat", "--class-ids", "0")):
        result = run("subset", path, *none, *out)
        assert result.exit_code == 2 and "--class-ids" in result.stderr
    assert "no class is called ''" in fails(ConfigError, "subset", path, "--classes", "cat,", *out)
    done("subset", path, "--classes", "cat", *out)
    line = fails(ConfigError, "subset", tmp_path / "out.h5", "--classes", "dog", "-o", tmp_path / "b.h5")
    assert "has no images of class [1]" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "--json"],
        ["show"],
        ["export", "--format", "npz", "-o", "out"],
        ["export", "--format", "folder", "-o", "out"],
        ["import", "--format", "mtt", "-o", "out"],
        ["import", "--format", "idc", "-o", "out"],
        ["merge", "-o", "out"],
        ["subset", "--class-ids", "0", "-o", "out"],
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


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """Two digits of each class."""
    path = tmp_path_factory.mktemp("selected") / "digits.h5"
    assert main(["select", "--ipc", "2", "-q", "--precision", "float32", "-o", str(path)]) == 0
    return path


QUICK = ("--network-state", "random", "--per-class", "5", "-q", "--precision", "float32")


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_show_embedding_draws_the_set_among_its_source(selected, projection, capsys):
    capsys.readouterr()
    target = selected.with_suffix(f".{projection}.png")
    assert done("show", selected, "--embedding", projection, *QUICK) == f"{target}\n"
    first = target.read_bytes()
    assert "already exists" in fails(StoreError, "show", selected, "--embedding", projection, *QUICK)
    done("show", selected, "--embedding", projection, *QUICK, "--force")
    assert target.read_bytes() == first
    done("show", selected, "--embedding", projection, *QUICK, "--force", "--seed", "1")
    assert target.read_bytes() != first


def test_show_only_some_classes(selected, tmp_path):
    done("show", selected, "--classes", "3,5", "-o", tmp_path / "two.png")
    done("show", selected, "-o", tmp_path / "all.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "all.png") as whole:
        assert two.size[1] < whole.size[1] / 3
    done("show", selected, "--embedding", "pca", "--classes", "3", "--classes", "5", *QUICK, "-o", tmp_path / "a.png")
    assert "no class is called 'x'" in fails(ConfigError, "show", selected, "--classes", "x", "-o", tmp_path / "b.png")


def test_show_embedding_of_what_does_not_fit(path, selected, tmp_path):
    out = ("-o", tmp_path / "a.png")
    for idle in (("--seed", "1"), ("--dataset", "digits"), ("--network-state", "random"), ("--device", "cpu"), ("-q",)):
        result = run("show", selected, *idle, *out)
        assert result.exit_code == 2
        assert "has no effect without --embedding; give that as well" in result.stderr
    embedded = ("--embedding", "pca", "--precision", "float32", *out)
    assert run("show", selected, "--embedding", "umap", *out).exit_code == 2
    assert "--network-state must be random or trained:EPOCHS" in fails(
        ConfigError, "show", selected, *embedded, "--network-state", "trained"
    )
    assert "fingerprint" in fails(SourceError, "show", path, *embedded)
    assert "has images of 1x4x4" in fails(ConfigError, "show", path, *embedded, "--dataset", "digits")
    few = ("--classes", "3", "--per-class", "2", "--network-state", "random")
    assert "draw more classes" in fails(ConfigError, "show", selected, *embedded, *few)
    assert not (tmp_path / "a.png").exists()
