"""Sets that are grown: what they held stays, and what is added is matched with it."""

import functools
import logging
import os
from dataclasses import replace

import pytest
import stopped
import torch
from groups import in_processes
from small import coloured_source, small_config, small_selection

from atom_plugin import store
from atom_plugin.datasets import Split
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation import distiller
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation import network_of
from atom_plugin.runtime import distributed
from atom_plugin.store.soft_labels import SoftLabels

DATA = coloured_source(per_class=40)
FORMS = [{}, {"storage": "float16"}, {"factor": 2, "storage": "uint8"}, {"zca_eps": 0.1}, {"standardise": False}]


@pytest.fixture
def old(tmp_path):
    """A set of two images of each of three classes."""
    distill(small_config(), DATA, device="cpu").save(tmp_path / "old.h5")
    return tmp_path / "old.h5"


def grown(path, data=DATA, **options):
    return distill(small_config(extend=str(path), **{"ipc": 5, **options}), data, device="cpu")


def test_a_set_with_soft_labels_does_not_grow(old):
    held = store.read(old)
    soft = SoftLabels(values=torch.zeros(len(held), 3), kind="logits")
    replace(held, soft_labels=soft).save(old, force=True)
    with pytest.raises(ConfigError, match=r"old\.h5: has soft labels, .*--image-init set:"):
        grown(old)


def by_class(made, classes=3):
    return made.images.unflatten(0, (classes, -1))


def moved_classes(names):
    """DATA with a fourth class, its classes in the order of ``names``."""
    data = coloured_source(classes=4, per_class=40)
    order = torch.tensor([names.index(name) for name in data.class_names])
    train = Split(images=data.train.images, labels=order[data.train.labels])
    return replace(data, train=train, class_names=tuple(names), fingerprint="grown")


@pytest.mark.parametrize("form", FORMS)
def test_what_it_held_keeps_every_byte_and_what_is_added_moves(tmp_path, form):
    held = distill(small_config(**form), DATA, device="cpu")
    held.save(tmp_path / "old.h5")
    run = Distiller(small_config(extend=str(tmp_path / "old.h5"), ipc=5), DATA, device="cpu")
    start = by_class(run.synthetic_set())
    with run.running():
        for _ in range(6):
            run.step()
    run.synthetic_set().save(tmp_path / "new.h5")
    made = store.read(tmp_path / "new.h5")
    assert by_class(made)[:, :2].numpy().tobytes() == by_class(held).numpy().tobytes()
    assert (made.storage, made.factor) == (held.storage, held.factor)
    assert made.preprocessing.matches(held.preprocessing)
    moved = (by_class(made)[:, 2:].float() - start[:, 2:].float()).abs().flatten(2).amax(2)
    assert bool((moved > 0).all())
    assert made.prefixes == (2, 5)
    assert torch.equal(made.first(2).images, held.images)
    assert DistillConfig.from_json(made.provenance.config).to_json() == made.provenance.config


def test_thawed_images_move_too_and_only_the_whole_is_a_set(old):
    made, held = grown(old, thaw=True), store.read(old)
    moved = (by_class(made)[:, :2] - by_class(held)).abs().flatten(2).amax(2)
    assert bool((moved > 0).all())
    assert (made.prefixes, made.provenance.config["thaw"]) == ((), True)


@pytest.mark.parametrize("options", [{}, {"network": {"normalisation": "batch"}}, {"nested": "some"}])
def test_old_and_new_are_matched_as_one_class(old, options):
    """Frozen or not, the first step has the loss and the gradient of a plain run on all the images."""
    extending = {"extend": str(old), "image_init": "random", "ipc": 5}
    thawed = Distiller(small_config(thaw=True, **extending, **options), DATA, device="cpu")
    plain = Distiller(small_config(ipc=5, **options), DATA, device="cpu", preprocessing=thawed.preprocessing)
    plain.images.copy_(thawed.images)
    with thawed.running(), plain.running():
        assert thawed.step() == plain.step()
    assert torch.equal(thawed.images, plain.images)
    if "nested" in options:
        return  # of which frozen images match fewer prefixes
    frozen = Distiller(small_config(**extending, **options), DATA, device="cpu")
    with frozen.running():
        assert frozen.step() == plain.loss
    assert torch.equal(frozen.images.unflatten(0, (3, -1))[:, 2:], thawed.images.unflatten(0, (3, -1))[:, 2:])


@pytest.mark.parametrize("form", FORMS[:4])
def test_the_captured_step_equals_the_plain_one(monkeypatch, tmp_path, form):
    distill(small_config(**form), DATA, device="cpu").save(tmp_path / "old.h5")
    plain = grown(tmp_path / "old.h5", storage=form.get("storage"))
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    captured = grown(tmp_path / "old.h5")
    assert torch.equal(by_class(captured)[:, :2], by_class(plain)[:, :2])
    torch.testing.assert_close(captured.decoded().images, plain.decoded().images, rtol=1e-2, atol=2e-2)


def test_new_images_start_from_others_than_the_old_ones_did(tmp_path):
    for method in ("random", "herding"):
        chosen = selected_set(small_selection(ipc=2, method=method), DATA)
        chosen.save(tmp_path / "old.h5", force=True)
        for seed in (0, 1, 2):
            config = small_config(extend=str(tmp_path / "old.h5"), ipc=20, image_init=method, seed=seed)
            for own in by_class(Distiller(config, DATA, device="cpu").synthetic_set()):
                assert len(own.flatten(1).unique(dim=0)) == 20


def test_new_classes_come_beside_the_old_ones_whose_names_tell_them(old, caplog):
    held = store.read(old)
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        made = grown(old, moved_classes(["class 0", "class 1", "class 2", "class 3"]))
    assert not [record for record in caplog.records if "class ids" in record.message]
    assert made.labels.tolist() == [label for label in range(4) for _ in range(5)]
    assert torch.equal(by_class(made, 4)[:3, :2], by_class(held))
    assert made.prefixes == ()  # the fourth class's first two were never meant to stand alone
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        other = grown(old, moved_classes(["class 0", "class 3", "class 1", "class 2"]), nested="2,4")
    (told,) = [record.message for record in caplog.records if "class ids" in record.message]
    assert "'class 1' is 2 here, and was 1" in told and "2 classes have another id" in told
    assert other.class_names == ("class 0", "class 3", "class 1", "class 2")
    assert torch.equal(by_class(other, 4)[[0, 2, 3], :2], by_class(held))
    assert other.prefixes == (2, 4, 5)
    assert other.provenance.config["extended"][0]["images"] == {f"class {label}": 2 for label in range(3)}


def test_classes_of_a_part_grow_to_one_number(old, tmp_path):
    held = store.read(old)
    uneven = store.concatenate([held, held.subset([1])])
    uneven.save(tmp_path / "uneven.h5")
    made = by_class(grown(tmp_path / "uneven.h5"))
    assert torch.equal(made[1, :4], uneven.images[uneven.labels == 1])
    assert torch.equal(made[2, :2], uneven.images[uneven.labels == 2])
    held.subset([2, 0]).save(tmp_path / "part.h5")
    assert torch.equal(by_class(grown(tmp_path / "part.h5"))[[0, 2], :2], by_class(held)[[0, 2]])


def test_the_file_says_what_came_when(old, tmp_path):
    grown(old, ipc=3, seed=1).save(tmp_path / "three.h5")
    grown(tmp_path / "three.h5", ipc=4, matcher="dm").save(tmp_path / "four.h5")
    made = store.read(tmp_path / "four.h5")
    config = made.provenance.config
    assert [(part["seed"], part["config"]["ipc"], part["method"]) for part in config["extended"]] == [
        (0, 2, "atom"),
        (1, 3, "atom"),
    ]
    assert [part["sha256"] for part in config["extended"]] == [
        store.read_header(path).checksum for path in (old, tmp_path / "three.h5")
    ]
    assert (config["extend"], config["thaw"], made.provenance.method) == ("three.h5", False, "dm")
    assert made.prefixes == (2, 3, 4)
    assert torch.equal(made.first(2).images, store.read(old).images)
    assert network_of(made).width == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factor": 2}, "factor 2, but .* has 1"),
        ({"storage": "uint8"}, "storage 'uint8', but .* has 'float32'"),
        ({"zca_eps": 0.1}, "zca_eps 0.1, but .* has None"),
        ({"zca": True}, "zca_eps 0.1, but .* has None"),
        ({"standardise": False}, "standardise False, but .* has True"),
        ({"ipc": 2}, "nothing is added"),
        ({"ipc": 1}, "has 2 images of the class 'class 0', more than the 1"),
        ({"nested": "1,3"}, "its first 1 images per class were not optimised to be used alone"),
        ({"extend": "nowhere.h5"}, "no such file"),
        ({"data": coloured_source(classes=2, per_class=40)}, "the class 'class 2', which the source does not have"),
        ({"data": coloured_source(size=16, per_class=40)}, "3x8x8, expected the source's 3x16x16"),
        ({"data": hold_out(DATA, 0.2)}, "extend a set made with the same --validation"),
        ({"data": replace(DATA, class_names=("class 0",) * 3)}, "two classes have the same name"),
    ],
)
def test_what_does_not_fit_is_refused(old, options, words):
    data = options.pop("data", DATA)
    with pytest.raises((ConfigError, StoreError), match=words):
        grown(options.pop("extend", old), data, **options)


def test_thaw_and_a_preprocessing_of_another_set_are_refused(old):
    with pytest.raises(ConfigError, match=r"thaw \(True\) is only for extend"):
        small_config(thaw=True)
    other = small_config(standardise=False).fit_preprocessing(DATA)
    with pytest.raises(ConfigError, match="own preprocessing"):
        distill(small_config(extend=str(old), ipc=3), DATA, device="cpu", preprocessing=other)


def test_a_set_of_another_split_is_refused(old, tmp_path):
    held = store.read(old)
    source = {"name": "coloured", "fingerprint": "before", "options": {"seed": 3, "test_fraction": 0.2}}
    replace(held, provenance=replace(held.provenance, source=source)).save(tmp_path / "split.h5")
    other = replace(DATA, options={"seed": 0, "test_fraction": 0.2})
    with pytest.raises(ConfigError, match=r"seed 3, not 0"):
        grown(tmp_path / "split.h5", other)
    assert grown(tmp_path / "split.h5", replace(other, options={"seed": 3, "test_fraction": 0.2})).ipc == 5


def test_validation_images_stay_unseen(tmp_path):
    data = hold_out(DATA, 0.2)
    distill(small_config(), data, device="cpu").save(tmp_path / "old.h5")
    made = grown(tmp_path / "old.h5", data, iterations=1, image_init="random")
    assert made.provenance.source["options"]["validation"] == 0.2


def test_prefixes_of_a_nested_set_stay(tmp_path):
    held = distill(small_config(ipc=3, nested="1"), DATA, device="cpu")
    held.save(tmp_path / "old.h5")
    made = grown(tmp_path / "old.h5", ipc=6, nested="some")
    assert made.prefixes == (1, 3, 5, 6)
    assert grown(tmp_path / "old.h5", ipc=6).prefixes == (1, 3, 6)
    assert grown(tmp_path / "old.h5", ipc=6, nested="1,2", thaw=True).prefixes == (1, 2, 6)
    run = Distiller(small_config(extend=str(tmp_path / "old.h5"), ipc=6, nested="1:9,5:3"), DATA, device="cpu")
    alone = Distiller(small_config(extend=str(tmp_path / "old.h5"), ipc=6, nested="5:3"), DATA, device="cpu")
    with run.running(), alone.running():
        assert run.step() == alone.step()  # what cannot move does not count


def test_stopped_and_resumed_gives_the_same_bytes_but_not_from_another_set(old, tmp_path):
    config, path = small_config(extend=str(old), ipc=5), tmp_path / "run.checkpoint"
    whole = distill(config, DATA, device="cpu")
    stopped.stop_after(3, config, DATA, path)
    resumed = distill(config, DATA, device="cpu", checkpoint=path, resume=True)
    resumed.save(tmp_path / "a.h5")
    whole.save(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    stopped.stop_after(3, config, DATA, path)
    distill(small_config(seed=9), DATA, device="cpu").save(old, force=True)
    with pytest.raises(ConfigError, match="extended: "):
        distill(config, DATA, device="cpu", checkpoint=path, resume=True)


def _grown_together(path, options):
    with distributed.joined("cpu"):
        return grown(path, **options).images


@pytest.mark.skipif(os.name != "posix", reason="processes as POSIX has them")
def test_two_processes_and_a_memory_budget_give_the_set_of_one(old):
    options = {"network": {"normalisation": "instance"}, "iterations": 3}
    alone = grown(old, **options)
    run = Distiller(small_config(extend=str(old), ipc=5, **options), DATA, device="cpu")
    size = distiller.PassSize.of(run.matcher, run.engine, DATA.image_shape, real_batch=5, ipc=5)
    in_parts = grown(old, memory_budget=size.bytes_of(1), **options)
    first, second = in_processes(2, functools.partial(_grown_together, old, options))
    for images in (in_parts.images, first, second):
        torch.testing.assert_close(images, alone.images, rtol=1e-3, atol=2e-4)
        assert torch.equal(images.unflatten(0, (3, -1))[:, :2], by_class(alone)[:, :2])
