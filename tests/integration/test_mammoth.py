"""Mammoth's buffer and model interface, on a stand-in: what is kept, in which form, under whose ids; and checkpoints."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from typing import Any

import mammoth_stand_in as stand_in
import numpy as np
import pytest
import torch
from mammoth_streams import DATA, MEAN, NORMALISE, MammothStream
from synthetic_sets import make_set
from torchvision import transforms

from atom_plugin.errors import ConfigError, MissingExtraError, SourceError, StoreError
from atom_plugin.integrations.mammoth import class_names_of, fill_buffer, normalisation_of, task_source
from atom_plugin.integrations.mammoth.task_memory import TaskMemory
from atom_plugin.store.synthetic_set import SyntheticSet

QUICK = '{"iterations": 2, "real_batch": 4, "precision": "float32", "network": {"width": 8, "depth": 2}}'
CHOSEN = '{"precision": "float32", "network": {"width": 8, "depth": 2}}'
MODULE = "atom_plugin.integrations.mammoth.model"


class Domains(MammothStream):
    SETTING, N_TASKS = "domain-il", 2


def task(number: int = 0, kind: type[MammothStream] = MammothStream, labels: Any = None) -> MammothStream:
    """The stream, at its task ``number``."""
    stream = kind(Namespace(batch_size=16))
    stream.labels = labels
    for _ in range(number + 1):
        stream.get_data_loaders()
    return stream


@pytest.fixture
def mammoth(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the model, on the stand-in."""
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE)


def model_of(mammoth: Any, stream: type[MammothStream] = MammothStream, **settings: Any) -> Any:
    given = {
        "buffer_size": 18,
        "lr": 0.1,
        "n_epochs": 1,
        "batch_size": 16,
        "seed": 0,
        "memory_options": QUICK,
        **settings,
    }
    args = stand_in.parsed(mammoth.DistilledReplay, given)
    torch.manual_seed(0)
    np.random.seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6))
    transform = transforms.Compose([transforms.ToPILImage(), NORMALISE])
    return mammoth.DistilledReplay(network, torch.nn.functional.cross_entropy, args, transform, dataset=stream(args))


def run(model: Any, tasks: int = 9) -> Any:
    for number in stand_in.train(model, model.dataset, model.args):
        if number + 1 == tasks:
            break
    return model


def counts(buffer: Any) -> dict[int, int]:
    return dict(Counter(buffer.labels[: len(buffer)].tolist()))


@pytest.mark.parametrize("storage", ["float32", "uint8"])
@pytest.mark.parametrize(("zca", "factor"), [(False, 1), (True, 1), (False, 2)])
def test_a_buffer_gets_decoded_images_between_0_and_1(storage, zca, factor):
    made = make_set(classes=3, ipc=2, shape=(3, 8, 8), zca=zca, factor=factor, storage=storage)
    buffer = stand_in.Buffer(6 * factor**2)
    fill_buffer(buffer, made)
    assert len(buffer) == buffer.num_seen_examples == 6 * factor**2
    assert torch.equal(buffer.examples, made.true_colour().clamp(0, 1))
    assert torch.equal(buffer.labels, made.decoded().labels)
    assert buffer.used_attributes == ["examples", "labels"]


def test_a_buffer_is_replaced_and_may_have_room_to_spare():
    buffer = stand_in.Buffer(9)
    for classes in (2, 3):
        made = make_set(classes=classes, ipc=2)
        fill_buffer(buffer, made, tasks={0: 5, 1: 6, 2: 6})
        assert len(buffer) == 2 * classes
        assert torch.equal(buffer.examples[: 2 * classes], made.true_colour().clamp(0, 1))
        assert buffer.task_labels[: 2 * classes].tolist() == [5, 5, 6, 6, 6, 6][: 2 * classes]


def test_what_does_not_fit_a_buffer_is_refused_and_leaves_it_alone():
    made = make_set(classes=3, ipc=2, shape=(3, 8, 8), factor=2)
    buffer = stand_in.Buffer(23)
    buffer.add_data(torch.ones(1, 3, 8, 8), labels=torch.tensor([7]))
    with pytest.raises(ConfigError, match=r"room for 23 images, but the set has 24; make the buffer larger"):
        fill_buffer(buffer, made)
    buffer = stand_in.Buffer(24)
    buffer.add_data(torch.ones(1, 3, 8, 8), labels=torch.tensor([7]), logits=torch.zeros(1, 3))
    with pytest.raises(ConfigError, match=r"holds logits .*use a model that replays images and labels"):
        fill_buffer(buffer, made)
    assert (len(buffer), int(buffer.labels[0])) == (1, 7)


def test_a_tasks_images_are_those_before_augmentation_under_mammoths_ids():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    data = task_source(task(1))
    assert torch.equal(torch.get_rng_state(), before), "augmentation drew random numbers"
    ours = torch.isin(DATA.train.labels, torch.tensor([2, 3]))
    assert torch.equal(data.train.images, DATA.train.images[ours])
    assert torch.equal(data.train.labels, DATA.train.labels[ours])
    assert (data.name, data.class_names) == ("seq-coloured", DATA.class_names)


def test_unlabelled_samples_are_left_out():
    labels = DATA.train.labels.numpy().copy()
    labels[::2] = -1
    assert task_source(task(labels=labels)).train.labels.tolist() == [0] * 5 + [1] * 5
    with pytest.raises(SourceError, match=r"no labelled image .*--label_perc"):
        task_source(task(labels=np.full_like(labels, -1)))


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ((torch.zeros(3, 8, 8), 0), "samples have 2 parts, expected .image, class, image before augmentation"),
        (
            (torch.zeros(3, 8, 8), 0, torch.full((3, 8, 8), 1.5)),
            r"values from 1.5 to 1.5, expected \[0, 1\], the range of ToTensor",
        ),
        ((torch.zeros(3, 8, 8), 0, torch.full((3, 8, 8), torch.nan)), r"values from nan to nan, expected \[0, 1\]"),
    ],
)
def test_samples_of_another_form_are_refused(sample, words):
    stream = task()
    stream.train_loader = Namespace(dataset=[sample])
    with pytest.raises(ConfigError, match=words):
        task_source(stream)


def test_normalisation_is_read_from_the_data_set():
    images = DATA.train.images[:4].float() / 255
    torch.testing.assert_close(normalisation_of(task(), (3, 8, 8)).forward(images), NORMALISE(images))
    stream: Any = Namespace(get_normalization_transform=lambda: None)
    assert torch.equal(normalisation_of(stream, (3, 8, 8)).forward(images), images)
    stream = Namespace(get_normalization_transform=lambda: transforms.Normalize((0.3,), (0.4,)))
    torch.testing.assert_close(normalisation_of(stream, (3, 8, 8)).forward(images), (images - 0.3) / 0.4)
    stream = Namespace(get_normalization_transform=transforms.RandomInvert)
    with pytest.raises(ConfigError, match="normalises with RandomInvert, expected torchvision's Normalize"):
        normalisation_of(stream, (3, 8, 8))


def test_a_data_set_without_class_names_has_its_ids():
    class Nameless(MammothStream):
        get_class_names = stand_in.ContinualDataset.get_class_names

    assert class_names_of(task(kind=Nameless)) == ("0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize(("fill", "options"), [("dm", QUICK), ("herding", CHOSEN), ("random", CHOSEN)])
def test_a_memory_keeps_each_classs_share_from_the_first_task_on(fill, options):
    memory = TaskMemory(20, classes=6, fill=fill, options=options)
    held = {}
    for number, shares in enumerate([{0: 4, 1: 4}, {2: 3, 3: 3}, {4: 3, 5: 3}]):
        memory.add_task(task(number))
        held |= shares
        assert Counter(memory.images.labels.tolist()) == held
    assert memory.images.storage == "uint8"
    assert memory.images.class_names == DATA.class_names
    assert memory.images.preprocessing.mean.tolist() == pytest.approx(MEAN)
    assert memory.images.provenance.method == fill


def test_chosen_images_are_the_streams_own():
    memory = TaskMemory(12, classes=6, fill="random", options=CHOSEN)
    memory.add_task(task(2))
    for image, label in zip(memory.images.images, memory.images.labels, strict=True):
        assert (DATA.train.images[DATA.train.labels == label] == image).flatten(1).all(1).any()


def test_a_stored_set_is_taken_by_its_class_names(tmp_path):
    names = tuple(reversed(DATA.class_names))
    made = make_set(classes=6, ipc=4, shape=(3, 8, 8), class_names=names, zca=True)
    made.save(tmp_path / "set.h5")
    memory = TaskMemory(18, classes=6, stored=str(tmp_path / "set.h5"))
    for number in range(3):
        memory.add_task(task(number))
    held = memory.images
    assert held.labels.tolist() == [label for label in range(6) for _ in range(3)]
    for label in range(6):
        theirs = made.images[made.labels == names.index(DATA.class_names[label])]
        assert torch.equal(held.images[held.labels == label], theirs[:3])
    memory.add_task(task(2))  # nothing of it is new
    assert torch.equal(memory.images.images, held.images)


def test_a_stored_set_of_other_classes_is_refused(tmp_path):
    make_set(classes=6, ipc=1, shape=(3, 8, 8), class_names=("cat", *DATA.class_names[1:])).save(tmp_path / "set.h5")
    memory = TaskMemory(18, classes=6, stored=str(tmp_path / "set.h5"))
    with pytest.raises(ConfigError, match=r"only the set has \['cat'\], only the dataset \['class 0'\]; make the set"):
        memory.add_task(task())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fill": "atomm"}, "no way to fill the memory is called 'atomm'; did you mean 'atom'"),
        ({"options": "{iterations: 3}"}, "options .{iterations: 3}., expected a JSON object"),
        ({"options": "[3]"}, r"options '\[3\]', expected a JSON object such as"),
        ({"size": 5}, "max_images 5 has no room for one image of each of 6 classes; give it 6"),
        ({"options": '{"iteration": 3}'}, "iteration"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, words):
    settings = {"size": 18, **given}
    with pytest.raises(ConfigError, match=words) as caught:
        TaskMemory(settings.pop("size"), classes=6, **settings).add_task(task())
    assert "\n" not in str(caught.value)


def test_a_model_replays_what_networks_are_shown(mammoth):
    model = model_of(mammoth)
    shown: list[torch.Tensor] = []
    model.net.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    run(model, 1)
    assert counts(model.buffer) == {0: 3, 1: 3}
    assert [len(batch) for batch in shown] == [16, 4], "the first task has no memory yet"
    shown.clear()
    first = model.memory.images.decoded().images
    loader, _ = model.dataset.get_data_loaders()
    inputs, labels, plain = next(iter(loader))
    loss = model.observe(inputs, labels, plain)
    assert isinstance(loss, float)
    assert torch.equal(shown[0][:16], inputs)
    assert len(shown[0]) == 16 + 6
    for row in shown[0][16:]:
        assert min(float((image - row).abs().max()) for image in first) < 1e-5
    assert counts(model.buffer) == {0: 3, 1: 3}, "a step adds nothing"


def test_a_models_batch_of_memory_has_its_size(mammoth):
    model = run(model_of(mammoth, minibatch_size=2), 1)
    shown: list[int] = []
    model.net.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    model.observe(*next(iter(model.dataset.train_loader)))
    assert shown == [16 + 2]


def test_a_whole_stream_is_the_same_every_time_and_leaves_mammoths_draws_alone(mammoth):
    first, again = run(model_of(mammoth)), run(model_of(mammoth))
    assert counts(first.buffer) == dict.fromkeys(range(6), 3)
    assert torch.equal(first.buffer.examples, again.buffer.examples)
    assert torch.equal(first.net[1].weight, again.net[1].weight)
    other = run(model_of(mammoth, memory="random", memory_options=CHOSEN), 1)
    assert torch.equal(other.net[1].weight, run(model_of(mammoth), 1).net[1].weight)
    drawn = torch.rand(3)
    run(model_of(mammoth), 1)
    assert torch.equal(torch.rand(3), drawn), "distilling and choosing draw from Mammoth's random state"


def test_packed_images_are_replayed_tile_by_tile(mammoth):
    model = run(model_of(mammoth, buffer_size=12, memory_options=QUICK.replace("{", '{"factor": 2, ', 1)))
    assert len(model.memory.images) == 12
    assert len(model.buffer) == model.buffer.buffer_size == 4 * 12
    assert counts(model.buffer) == dict.fromkeys(range(6), 8)
    assert torch.equal(model.buffer.examples, model.memory.images.true_colour())


def test_classes_that_come_again_share_their_places(mammoth):
    model = run(model_of(mammoth, Domains, memory="random", memory_options=CHOSEN), 1)
    before = model.buffer.examples
    run(model_of(mammoth, Domains))
    assert counts(model.buffer) == dict.fromkeys(range(6), 3)
    model.end_task(model.dataset)
    assert counts(model.buffer) == dict.fromkeys(range(6), 3)
    assert model.buffer.examples.shape == before.shape


def through_a_file(saved: dict[str, Any]) -> Any:
    """As Mammoth writes and reads it: with nothing but tensors and plain values."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_checkpoint_holds_the_memory(mammoth, tmp_path):
    undisturbed = run(model_of(mammoth))
    saved = through_a_file(stand_in.checkpoint(run(model_of(mammoth), 2)))
    resumed = model_of(mammoth, start_from=2)
    stand_in.load_checkpoint(saved, resumed)
    assert counts(resumed.buffer) == dict.fromkeys(range(4), 3)
    run(resumed)
    assert counts(resumed.buffer) == dict.fromkeys(range(6), 3)
    assert torch.equal(resumed.buffer.examples, undisturbed.buffer.examples)
    resumed.memory.save(tmp_path / "memory.h5")
    assert SyntheticSet.load(tmp_path / "memory.h5").ipc == 3


def test_a_task_that_is_skipped_is_not_distilled(mammoth):
    model = run(model_of(mammoth, start_from=2), 2)
    assert model.buffer.is_empty()


def test_a_checkpoint_without_a_memory_is_refused(mammoth):
    buffer = run(model_of(mammoth), 1).buffer.serialize()
    with pytest.raises(ConfigError, match=r"holds no memory .*use a checkpoint of this model"):
        model_of(mammoth).load_buffer(buffer)
    empty = through_a_file(stand_in.checkpoint(model_of(mammoth)))["model"]
    fresh = model_of(mammoth)
    fresh.load_state_dict(empty)
    assert fresh.buffer.is_empty()


def test_a_damaged_memory_is_refused(mammoth):
    state = run(model_of(mammoth), 1).get_extra_state()
    state[len(state) // 2 :] = 0
    with pytest.raises(StoreError):
        model_of(mammoth).set_extra_state(state)


def test_what_mammoth_asks_of_a_model(mammoth):
    assert mammoth.DistilledReplay.NAME == "distilled-replay"
    assert "class-il" in mammoth.DistilledReplay.COMPATIBILITY
    assert mammoth.Buffer is stand_in.Buffer  # Mammoth looks for it beside the model
    with pytest.raises(ConfigError, match="no way to fill"):
        model_of(mammoth, memory="ato")


def test_without_mammoth_one_line_says_what_to_do(tmp_path):
    code = f"""
import atom_plugin.integrations.mammoth
try:
    import {MODULE}
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stderr == ""
    assert done.stdout == (
        "MissingExtraError Mammoth is not on Python's path; start its main.py, with a models/distilled_replay.py that imports "
        "this module\n"
    )


def test_a_library_that_mammoth_misses_is_named(mammoth, monkeypatch, tmp_path):
    for name in stand_in.modules():
        monkeypatch.delitem(sys.modules, name)
    for folder in (tmp_path / "models", tmp_path / "models" / "utils"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (tmp_path / "models" / "utils" / "continual_model.py").write_text("import a_library_of_mammoth")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingExtraError, match="'a_library_of_mammoth' is missing; install the requirements in its pyproject"
    ):
        importlib.reload(mammoth)
    for name in ("models", "models.utils"):
        del sys.modules[name]
