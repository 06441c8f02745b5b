"""What each format is beyond two tensors: experiments, folders, tiles, whitening, notes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from small import coloured_source
from synthetic_sets import make_set
from torch.nn import functional as F

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats import export_set, import_set, listing
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.idc import padded_unpacked
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

SHAPE = (3, 8, 8)


def held(**options) -> SyntheticSet:
    return make_set(shape=SHAPE, **{"source": {"name": "cifar10"}, **options})


def test_one_of_several_experiments(tmp_path):
    sets = [held(pixels=number) for number in range(3)]
    torch.save({"data": [[one.images, one.labels] for one in sets], "accs_all_exps": {}}, tmp_path / "res.pt")
    like = replace(sets[0], preprocessing=standard(sets[0]))
    for number in range(3):
        context = ImportContext(like=like)
        found = import_set(tmp_path / "res.pt", format="datasetcondensation", context=context, experiment=number)
        assert torch.equal(found.images, sets[number].images)
        assert found.provenance.config["imported"]["options"] == {"experiment": number}
    for wrong, said in (
        (None, "holds 3 experiments; choose"),
        (3, "none numbered 3"),
        (-1, "numbered -1"),
        (True, "True"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            import_set(tmp_path / "res.pt", format="datasetcondensation", context=context, experiment=wrong)
        assert "--experiment 0 to 2" in str(caught.value)


def standard(of: SyntheticSet) -> Preprocessing:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return Preprocessing(mean=torch.tensor(mean), std=torch.tensor(std), image_shape=of.preprocessing.image_shape)


def decoded_literally(image: torch.Tensor, factor: int) -> list[torch.Tensor]:
    """The multi-formation of IDC, section 4, one tile after another: pad with 0.5, cut, enlarge."""
    channels, side, _ = image.shape
    small = math.ceil(side / factor)
    padded = torch.full((channels, small * factor, small * factor), 0.5)
    padded[:, :side, :side] = image
    tiles = []
    for row in range(factor):
        for column in range(factor):
            tile = padded[:, row * small : (row + 1) * small, column * small : (column + 1) * small]
            tiles.append(F.interpolate(tile[None], size=(side, side), mode="bilinear")[0])
    return tiles


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("side", [8, 9])
def test_idc_tiles(tmp_path, factor, side):
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0, 1, 0])
    expected = torch.stack([tile for image in images for tile in decoded_literally(image, factor)])
    if factor > 1:
        torch.testing.assert_close(padded_unpacked(images, factor), expected)
    torch.save([images, labels], tmp_path / "data.pt")
    context = ImportContext(class_names=("a", "b"))
    found = import_set(tmp_path, format="idc", context=context, factor=factor)  # the folder that holds data.pt
    order = labels.repeat_interleave(factor * factor).argsort(stable=True)
    torch.testing.assert_close(found.images, (images if factor == 1 else expected)[order])
    assert found.labels.tolist() == [0] * (2 * factor**2) + [1] * (2 * factor**2)
    for wrong in (0, 1.5, "2", True, side + 1):
        with pytest.raises(ConfigError, match="factor"):
            import_set(tmp_path, format="idc", context=context, factor=wrong)


def test_mtt_keeps_its_own_zca_and_undoes_others(tmp_path):
    source = coloured_source()
    for standardise, eps, kept in ((False, 0.1, True), (True, 0.1, False), (False, 0.01, False)):
        preprocessing = Preprocessing.fit(source.train.images, standardise=standardise, zca_eps=eps)
        one = replace(held(), preprocessing=preprocessing)
        for format in ("mtt", "dd-ranking"):
            path = tmp_path / f"{format}-{standardise}-{eps}"
            notes = export_set(one, path, format=format)
            found = import_set(path, format=format, context=ImportContext(like=one))
            assert torch.equal(found.images, one.images) == kept
            torch.testing.assert_close(found.true_colour(), one.true_colour(), rtol=1e-5, atol=1e-5)
            assert any("whitening was undone" in note for note in notes) != kept
    plain = replace(one, preprocessing=Preprocessing.fit(source.train.images, standardise=False, zca_eps=0.1))
    constants = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    export_set(plain, tmp_path / "constants", format="mtt", **constants)  # which say that it is not whitened
    context = ImportContext(like=plain, constants=((0.5,) * 3, (0.2,) * 3))
    found = import_set(tmp_path / "constants", format="mtt", context=context)
    assert found.preprocessing.whitening is None
    torch.testing.assert_close(found.true_colour(), plain.true_colour(), rtol=1e-5, atol=1e-5)
    notes = export_set(one, tmp_path / "forced", format="mtt", zca=True)
    assert "MTT whitens plain [0, 1] images with eps 0.1" in notes[0]


@pytest.mark.parametrize(("format", "plain"), [("mtt", True), ("dd-ranking", True), ("datasetcondensation", False)])
def test_zca_is_fitted_anew_on_the_source(tmp_path, format, plain):
    source = coloured_source()
    own = Preprocessing.fit(source.train.images, standardise=not plain, zca_eps=0.1)
    one = replace(held(source={"name": "coloured"}, classes=3), preprocessing=own)
    export_set(one, tmp_path / "set", format=format, zca=True)
    context = ImportContext(dataset="coloured", load_dataset=lambda: source)
    found = import_set(tmp_path / "set", format=format, context=context, zca=True)
    assert torch.equal(found.images, one.images)
    assert found.preprocessing.matches(own)
    assert found.provenance.source == {"name": "coloured", "options": {}, "fingerprint": source.fingerprint}


def test_whitened_files_need_a_zca(tmp_path):
    one = held(zca=True)
    export_set(one, tmp_path / "set", format="mtt", zca=True)
    with pytest.raises(ConfigError, match="need their ZCA; pass --like"):
        import_set(tmp_path / "set", format="mtt", context=ImportContext(class_names=one.class_names), zca=True)
    with pytest.raises(ConfigError, match="the set of --like is not"):
        import_set(tmp_path / "set", format="mtt", context=ImportContext(like=held()), zca=True)
    with pytest.raises(ConfigError, match="this set is not whitened"):
        export_set(held(), tmp_path / "other", format="mtt", zca=True)
    with pytest.raises(ConfigError, match="leave mean and std out"):
        export_set(one, tmp_path / "other", format="mtt", zca=True, mean=0.5, std=0.5)
    with pytest.raises(ConfigError, match="zca must be true or false, not 'yes'"):
        export_set(one, tmp_path / "other", format="mtt", zca="yes")
    assert not (tmp_path / "other").exists()


def test_mtt_keeps_the_learning_rate(tmp_path):
    export_set(held(), tmp_path / "set", format="mtt")
    torch.save(torch.tensor(0.0123), tmp_path / "set" / "lr_best.pt")
    context = ImportContext(like=held())
    found = import_set(tmp_path / "set", format="mtt", context=context)
    assert any("learning rate 0.0123" in note for note in context.notes)
    assert found.learned_lr == pytest.approx(0.0123)
    assert found.provenance.config["imported"]["files"] == 3
    torch.save(torch.tensor(-1.0), tmp_path / "set" / "lr_best.pt")
    assert import_set(tmp_path / "set", format="mtt", context=context).learned_lr is None
    assert any("lr_best.pt holds -1, which is not a learning rate above 0" in note for note in context.notes)
    torch.save([], tmp_path / "set" / "lr_best.pt")
    with pytest.raises(StoreError, match="expected one number, a learning rate"):
        import_set(tmp_path / "set", format="mtt", context=context)
    with pytest.raises(StoreError, match=r"contains lr_best\.pt, which was not written by an export"):
        export_set(held(), tmp_path / "set", format="mtt", force=True)  # its lr_best.pt would not fit the new images


def test_an_mtt_export_says_whose_evaluation_it_is_for(tmp_path):
    notes = export_set(make_set(), tmp_path / "mtt", format="mtt")
    assert [
        note for note in notes if "DATM and TESLA need soft labels and lr_best.pt, which --format datm writes" in note
    ]
    (row,) = (row for row in listing() if row.name == "datm")
    assert row.directions == ("export", "import")


def test_dd_ranking_without_labels(tmp_path):
    one = held()
    notes = export_set(one, tmp_path / "set", format="dd-ranking")
    assert not any("hard_labels" in note for note in notes)
    (tmp_path / "set" / "labels.pt").unlink()
    context = ImportContext(like=one)
    assert torch.equal(import_set(tmp_path / "set", format="dd-ranking", context=context).labels, one.labels)
    assert any("class by class" in note for note in context.notes)
    uneven = held(labels=torch.tensor([0, 1, 1, 2]))
    assert any("hard_labels" in note for note in export_set(uneven, tmp_path / "other", format="dd-ranking"))
    (tmp_path / "other" / "labels.pt").unlink()
    with pytest.raises(StoreError, match="4 images do not divide evenly among 3 classes"):
        import_set(tmp_path / "other", format="dd-ranking", context=context)


def test_dc_bench_finds_sets_in_its_tree(tmp_path):
    one, root = held(), tmp_path / "distilled_results"
    notes = export_set(one, root, format="dc-bench")
    assert "register one for ATOM" in notes[-1]
    export_set(held(pixels=1), root, format="dc-bench", method="DM")
    export_set(held(ipc=3), root, format="dc-bench", method="DM")
    export_set(held(pixels=3), root, format="dc-bench", method="DM", dataset="tinyimagenet")
    assert (root / "DM/tinyimagenet/IPC2/res_DM_tinyimagenet_ConvNetD4_2ipc.pt").is_file()

    def find(path=root, **options):
        return import_set(path, format="dc-bench", context=ImportContext(like=one), **options)

    assert find(method="atom").provenance.method == "ATOM"
    assert len(find(method="DM", ipc=3)) == 9
    assert len(find(root / "DM/CIFAR10", ipc=3)) == 9
    assert len(find(root / "DM/CIFAR10/IPC3")) == 9
    third = find(dataset="tinyimagenet")
    torch.testing.assert_close(
        third.true_colour(), held(pixels=3).preprocessing.inverse(held(pixels=3).images), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ConfigError, match=r"holds 4 sets \(ATOM/CIFAR10/IPC2, DM/CIFAR10/IPC2"):
        find()
    with pytest.raises(StoreError, match="holds no requested folder METHOD/DATASET/IPC<n>, 4 others"):
        find(ipc=7)
    with pytest.raises(StoreError, match="already exists"):
        export_set(one, root, format="dc-bench")
    export_set(one, root, format="dc-bench", force=True)


def test_dc_bench_takes_the_last_experiment_and_says_so(tmp_path):
    sets = [held(pixels=number) for number in range(2)]
    folder = tmp_path / "DSA" / "CIFAR10" / "IPC2"
    folder.mkdir(parents=True)
    torch.save({"data": [[one.images, one.labels] for one in sets]}, folder / "res.pt")
    context = ImportContext(like=replace(sets[0], preprocessing=standard(sets[0])))
    assert torch.equal(import_set(tmp_path, format="dc-bench", context=context).images, sets[1].images)
    assert any("last of 2 experiments" in note for note in context.notes)
    found = import_set(tmp_path, format="dc-bench", context=context, experiment=0)
    assert torch.equal(found.images, sets[0].images)
    (folder / "other.pt").touch()
    with pytest.raises(StoreError, match=r"found other.pt, res.pt, expected one result file"):
        import_set(tmp_path, format="dc-bench", context=context)


def test_dc_bench_needs_equal_classes_and_a_dataset(tmp_path):
    with pytest.raises(ConfigError, match=r"same number of images for each class, found \[1, 2\]"):
        export_set(held(labels=torch.tensor([0, 1, 1, 2])), tmp_path / "a", format="dc-bench")
    with pytest.raises(ConfigError, match="does not name its source"):
        export_set(held(source={}), tmp_path / "a", format="dc-bench")
    assert not (tmp_path / "a").exists()


def test_constants_of_the_callers_own(tmp_path):
    one = held(source={"name": "photos"})
    notes = export_set(one, tmp_path / "a", format="datasetcondensation", mean="0.5,0.4,0.3", std=[0.2, 0.2, 0.25])
    images = torch.load(tmp_path / "a", weights_only=True)["data"][0][0]
    plain = images * torch.tensor([0.2, 0.2, 0.25]).view(-1, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(-1, 1, 1)
    torch.testing.assert_close(plain, one.true_colour(), rtol=1e-5, atol=1e-5)
    assert "mean 0.500/0.400/0.300" in notes[0]
    for wrong, said in (
        ({"mean": 0.5}, "give both"),
        ({"mean": "a", "std": 1}, "mean must be finite numbers"),
        ({"mean": 0.5, "std": 0.5}, "mean has 1 values, but images have 3 channels"),
        ({"mean": [0, 0, 0], "std": [1, 0, 1]}, "std must be finite numbers above 0"),
        ({"mean": {}, "std": []}, "mean must be finite numbers"),
    ):
        with pytest.raises(ConfigError, match=said):
            export_set(one, tmp_path / "b", format="datasetcondensation", **wrong)
    notes = export_set(one, tmp_path / "b", format="datasetcondensation")
    assert any("has no constants for this source" in note for note in notes)


def test_hugging_face_card_and_metadata(tmp_path):
    """What datasets.load_dataset (seen with 5.2) needs: a split's pattern, features, file names beside the metadata."""
    names = ("cat", 'a "b"\\: c', "cat", "\x85né 😀")
    one = make_set(shape=SHAPE, class_names=names, classes=4, ipc=1)
    notes = export_set(one, tmp_path / "out", format="huggingface")
    assert "1 class names occur twice" in notes[0]
    rows = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text("utf-8").splitlines()]
    assert [row["label"] for row in rows] == [0, 1, 2, 3]
    assert all((tmp_path / "out/train" / row["file_name"]).is_file() for row in rows)
    head, _, text = (tmp_path / "out/README.md").read_text("utf-8").removeprefix("---\n").partition("\n---\n")
    yaml = pytest.importorskip("yaml")  # timm's own dependency
    card = yaml.safe_load(head)
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    features = {feature["name"]: feature["dtype"] for feature in card["configs"][0]["features"]}
    assert features["image"] == "image"
    assert features["label"]["class_label"]["names"] == {"0": "cat", "1": names[1], "2": "cat (2)", "3": names[3]}
    assert "4 images of 3 x 8 x 8 in 4 classes, made by atom from digits" in text


def test_class_folders_of_others(tmp_path):
    one = make_set(shape=SHAPE, class_names=("dog", "cat", "a/b"))
    export_set(one, tmp_path / "out", format="folder")
    (tmp_path / "out" / "classes.json").unlink()
    context = ImportContext()
    found = import_set(tmp_path / "out", format="folder", context=context)
    assert found.class_names == ("a_b", "cat", "dog")
    assert any("in the order of their folders" in note for note in context.notes)
    found = import_set(tmp_path / "out", format="folder", context=ImportContext(like=one))
    assert found.class_names == one.class_names
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ConfigError, match="has the folder 'a_b', which is not one of the given classes"):
        import_set(tmp_path / "out", format="folder", context=ImportContext(class_names=("dog", "cat")))


def test_classes_named_like_our_own_files(tmp_path):
    one = make_set(shape=SHAPE, class_names=("classes.json", "metadata.jsonl", "README.md"))
    for format in ("folder", "huggingface"):
        export_set(one, tmp_path / format, format=format)
        assert import_set(tmp_path / format, format=format, context=ImportContext()).class_names == one.class_names
