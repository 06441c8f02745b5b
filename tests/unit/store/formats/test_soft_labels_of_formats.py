"""Soft labels and learned learning rates, out and in again, and what stands in the files of those who take them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin.datasets.pixels import decode
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats import export_set, import_set, listing
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.soft_labels import KINDS, SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet

TENSORS = ["datasetcondensation", "mtt", "datm", "idc", "dc-bench", "dd-ranking"]


def held(kind: str = "logits", **options) -> SyntheticSet:
    return replace(make_set(shape=(3, 8, 8), soft=kind, source={"name": "cifar10"}, **options), learned_lr=0.015)


def written(path, format: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    """A file of somebody else's."""
    if format == "idc":
        torch.save([images, labels], path)
    elif format in ("datasetcondensation", "dc-bench"):
        if format == "dc-bench":
            path = path / "DM/CIFAR10/IPC2"
            path.mkdir(parents=True)
            path = path / "res.pt"
        torch.save({"data": [[images, labels]], "accs_all_exps": {}}, path)
    else:
        names = ("images.pt", "labels.pt") if format == "dd-ranking" else ("images_best.pt", "labels_best.pt")
        path.mkdir()
        for name, value in zip(names, (images, labels), strict=True):
            torch.save(value, path / name)


@pytest.mark.parametrize("format", ["npz", "pt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_set_comes_back_whole(tmp_path, format, kind):
    one = held(kind)
    assert not any("soft labels" in note for note in export_set(one, tmp_path / "set", format=format))
    back = import_set(tmp_path / "set", format=format, context=ImportContext())
    expected = replace(back.provenance, config=one.provenance.config)
    assert_equal_sets(replace(back, provenance=expected), one)


@pytest.mark.parametrize("missing", ["soft_labels", "soft_label_kind"])
def test_half_of_the_soft_labels_is_damage(tmp_path, missing):
    export_set(held(), tmp_path / "set.pt", format="pt")
    found = torch.load(tmp_path / "set.pt", weights_only=True)
    torch.save({key: value for key, value in found.items() if key != missing}, tmp_path / "half.pt")
    with pytest.raises(StoreError, match="expected both or none; it is damaged"):
        import_set(tmp_path / "half.pt", format="pt", context=ImportContext())
    for wrong, words in (
        ({"soft_labels": torch.zeros(6, 4)}, "soft_labels is"),
        ({"learned_lr": torch.tensor(-1.0).double()}, "learned_lr"),
    ):
        torch.save(found | wrong, tmp_path / "wrong.pt")
        with pytest.raises(StoreError, match=words):
            import_set(tmp_path / "wrong.pt", format="pt", context=ImportContext())


def test_what_an_export_to_datm_holds(tmp_path):
    one = held()
    mixed = one.at(torch.tensor([5, 0, 3, 1, 4, 2]))
    notes = export_set(mixed, tmp_path / "set", format="datm")
    images, labels, rate = (torch.load(tmp_path / "set" / f"{name}_best.pt") for name in ("images", "labels", "lr"))
    assert not any("not in it: the soft" in note or "lr=" in note for note in notes)
    assert images.shape == (6, 3, 8, 8) and float(rate) == 0.015
    by_class = mixed.at(mixed.labels.argsort(stable=True))
    assert torch.equal(labels, by_class.soft_labels.values)
    # The loss of DATM's evaluation on these is ours.
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    theirs = -(logits.log_softmax(1) * labels.softmax(1)).sum(1).mean()
    torch.testing.assert_close(theirs, torch.nn.functional.cross_entropy(logits, by_class.targets()))


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_set_through_datm(tmp_path, kind):
    one = held("logits")
    leaning = SoftLabels(values=one.soft_labels.values + 5 * one.with_class_labels("a test").targets(), kind="logits")
    one = replace(one, soft_labels=leaning if kind == "logits" else SoftLabels(values=leaning.targets(), kind=kind))
    notes = export_set(one, tmp_path / "set", format="datm")
    assert any("probabilities were converted to logits" in note for note in notes) == (kind == "probabilities")
    context = ImportContext(like=one)
    back = import_set(tmp_path / "set", format="datm", context=context)
    assert back.soft_labels.kind == "logits"
    assert back.learned_lr == 0.015
    torch.testing.assert_close(back.targets(), one.targets())
    torch.testing.assert_close(back.true_colour(), one.true_colour(), rtol=1e-5, atol=1e-5)
    if kind == "logits":
        assert torch.equal(back.soft_labels.values, one.soft_labels.values)
    assert any("soft labels over 3 classes were kept as logits" in note for note in context.notes)
    assert torch.equal(import_set(tmp_path / "set", format="mtt", context=ImportContext(like=one)).images, back.images)


def test_probabilities_of_nought_are_finite_logits(tmp_path):
    sure = replace(held(), soft_labels=SoftLabels(values=torch.eye(3).repeat_interleave(2, 0), kind="probabilities"))
    export_set(sure, tmp_path / "set", format="datm")
    back = import_set(tmp_path / "set", format="datm", context=ImportContext(like=sure))
    torch.testing.assert_close(back.targets(), sure.targets())


def test_what_datm_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="DATM's labels are soft, and the set has none; export it as mtt"):
        export_set(make_set(), tmp_path / "set", format="datm")
    with pytest.raises(ConfigError, match="are scores, which DATM's softmax cannot use"):
        export_set(held("scores"), tmp_path / "set", format="datm")
    without = replace(held(), learned_lr=None)
    notes = export_set(without, tmp_path / "set", format="datm")
    assert any("there is no lr_best.pt, which DATM's evaluation needs: --option lr=0.01" in note for note in notes)
    assert not (tmp_path / "set" / "lr_best.pt").exists()
    export_set(without, tmp_path / "other", format="datm", lr=0.02)
    assert float(torch.load(tmp_path / "other" / "lr_best.pt")) == 0.02
    for wrong in (0, "fast", float("nan")):
        with pytest.raises(ConfigError, match="lr must be a number above 0"):
            export_set(without, tmp_path / "more", format="datm", lr=wrong)


@pytest.mark.parametrize("format", TENSORS)
@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_soft_labels_of_others_are_kept(tmp_path, format, kind):
    one = held(kind)
    # As MTT's family leaves them: with gradient, of float64, not in our order.
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    values = one.soft_labels.values[order].double().requires_grad_()
    written(tmp_path / "set", format, one.images[order], values)
    context = ImportContext(like=one)
    found = import_set(tmp_path / "set", format=format, context=context)
    largest = values.detach().argmax(1)
    assert torch.equal(found.labels, largest.sort(stable=True).values)
    assert torch.equal(found.soft_labels.values, values.detach().float()[largest.argsort(stable=True)])
    assert found.soft_labels.kind == kind
    assert any(f"kept as {kind}, judged by their values; --option label_kind=" in note for note in context.notes)
    as_scores = import_set(tmp_path / "set", format=format, context=ImportContext(like=one), label_kind="scores")
    assert as_scores.soft_labels.kind == "scores"


def test_images_that_stand_class_by_class_keep_their_class(tmp_path):
    values = torch.eye(3).repeat_interleave(2, 0) * 4 + 0.5
    values[3] = torch.tensor([9.0, 0.0, 0.0])  # an image of class 1 that looks like one of class 0
    written(tmp_path / "set", "datm", held().images, values)
    context = ImportContext(like=held())
    found = import_set(tmp_path / "set", format="datm", context=context)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(found.soft_labels.values, values)
    assert any("class by class: 5 of 6 soft labels" in note for note in context.notes)


def test_rows_with_a_single_one_are_class_ids(tmp_path):
    written(tmp_path / "set", "idc", held().images, torch.eye(3, dtype=torch.int64)[[0, 0, 1, 1, 2, 2]])
    context = ImportContext(like=held())
    found = import_set(tmp_path / "set", format="idc", context=context)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] and found.soft_labels is None
    assert any("labels are class ids, stored as rows of 3 values" in note for note in context.notes)


def test_tiles_have_the_soft_labels_of_their_images(tmp_path):
    one = held()
    written(tmp_path / "set", "idc", one.images, one.soft_labels.values)
    found = import_set(tmp_path / "set", format="idc", context=ImportContext(like=one), factor=2)
    largest = one.soft_labels.values.argmax(1).argsort(stable=True)
    assert torch.equal(found.soft_labels.values, one.soft_labels.values[largest].repeat_interleave(4, 0))


def test_a_class_map_turns_columns_too(tmp_path):
    one = held()
    written(tmp_path / "set", "datm", one.images, one.soft_labels.values)
    theirs = {0: "class 2", 1: "class 0", 2: "class 1"}
    found = import_set(tmp_path / "set", format="datm", context=ImportContext(like=one, class_map=theirs))
    ours = one.soft_labels.values[:, [1, 2, 0]]  # column "class 0" of theirs is 1, and so on
    assert torch.equal(found.soft_labels.values, ours[ours.argmax(1).argsort(stable=True)])
    for wrong, words in (
        ({0: "class 2", 1: "class 0"}, "no name for the id 2"),
        ({0: "class 2", 1: "class 0", 2: "class 0"}, "gives two ids of the file the same class"),
    ):
        with pytest.raises(ConfigError, match=words):
            import_set(tmp_path / "set", format="datm", context=ImportContext(like=one, class_map=wrong))


def test_numbered_files_have_their_own_learning_rate(tmp_path):
    one = held()
    (tmp_path / "run").mkdir()
    for name, value in (("images", one.images), ("labels", one.soft_labels.values), ("lr", torch.tensor(0.25))):
        torch.save(value, tmp_path / "run" / f"{name}_2000.pt")
    torch.save(torch.tensor(0.5), tmp_path / "run" / "lr_best.pt")
    found = import_set(tmp_path / "run", format="datm", context=ImportContext(like=one), iteration=2000)
    assert found.learned_lr == 0.25


def test_other_formats_hold_classes_and_say_so(tmp_path):
    one = held()
    for row in listing():
        if "export" in row.directions and row.name not in ("npz", "pt", "datm"):
            notes = export_set(one, tmp_path / row.name, format=row.name)
            assert any("the soft labels (logits) are not in it" in note for note in notes), row.name
            assert any("the learned learning rate, 0.015, is not in it" in note for note in notes), row.name
    assert torch.load(tmp_path / "mtt" / "labels_best.pt").tolist() == [0, 0, 1, 1, 2, 2]


def test_folders_that_rded_finds(tmp_path):
    one = held(class_names=("żółw", "a/b", "c"))
    notes = export_set(one, tmp_path / "set", format="folder", layout="rded")
    assert any("--ipc 2 --factor 1, and takes soft labels only from its teacher" in note for note in notes)
    # As its loader goes: a folder of five digits for each class, the first files that the system lists.
    for label in range(3):
        files = sorted((tmp_path / "set" / str(label).zfill(5)).iterdir())
        assert len(files) == 2
        shown = torch.from_numpy(np.stack([decode(file) for file in files])).float() / 255
        expected = one.true_colour()[one.labels == label].clamp(0, 1)
        torch.testing.assert_close(shown, expected, rtol=0, atol=0.5 / 255 + 1e-6)
    back = import_set(tmp_path / "set", format="folder", context=ImportContext())
    assert back.class_names == one.class_names and torch.equal(back.labels, one.labels)
    with pytest.raises(ConfigError, match="equally many images of every class, found 1 to 2"):
        export_set(make_set(labels=torch.tensor([0, 0, 1, 2])), tmp_path / "no", format="folder", layout="rded")
    with pytest.raises(ConfigError, match="layout must be names or rded, not 'sre2l'"):
        export_set(one, tmp_path / "no", format="folder", layout="sre2l")
