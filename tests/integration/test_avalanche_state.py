"""A stream's state: saved, damaged, missing, and loaded into new strategies, also of a new process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import coloured_source
from torch import nn

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.integrations.avalanche import SyntheticMemory, SyntheticReplay, TrainFromMemory
from atom_plugin.integrations.avalanche.benchmark import make_benchmark, split_classes
from atom_plugin.integrations.avalanche.state import load_stream, remove_stream, save_stream
from atom_plugin.replay.memory import Budget
from atom_plugin.replay.suppliers import DistillingSupplier, SelectingSupplier
from atom_plugin.transforms.preprocessing import Preprocessing

DATA = coloured_source(classes=6, per_class=16)
STEPS = split_classes([3, 0, 5, 1, 4, 2], 3)
PREPARED = Preprocessing.fit(DATA.train.images)


def policy(kind="random"):
    network = {"width": 4, "depth": 2}
    supplier = (
        SelectingSupplier(method=kind, overrides={"precision": "float32"})
        if kind == "random"
        else DistillingSupplier(
            overrides={"iterations": 2, "real_batch": 4, "precision": "float32", "network": network}
        )
    )
    return SyntheticMemory(Budget(ipc=2), supplier, source=DATA, stream_preprocessing=PREPARED)


def plain_model():
    torch.manual_seed(5)
    # Dropout, so that a random state that is not restored shows.
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 6)
    )


class MultiHead(nn.Module):
    """A head per task that is registered before the trunk: what grows does not come last."""

    def __new__(cls):
        from avalanche.models import MultiHeadClassifier, MultiTaskModule

        class Model(MultiTaskModule):
            def __init__(self):
                super().__init__()
                self.head = MultiHeadClassifier(8, initial_out_features=6)
                self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU())

            def forward(self, x, task_labels):
                return self.head(self.trunk(x), task_labels)

        torch.manual_seed(5)
        return Model()


def growing_model():
    from avalanche.models import IncrementalClassifier

    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), IncrementalClassifier(192, initial_out_features=1))


def stream(tasks=False):
    if not tasks:
        return make_benchmark(DATA, STEPS, PREPARED)
    from avalanche.benchmarks import nc_benchmark
    from torch.utils.data import TensorDataset

    sets = []
    for split in (DATA.train, DATA.test):
        dataset = TensorDataset(PREPARED.forward(split.images), split.labels)
        dataset.targets = split.labels.tolist()
        sets.append(dataset)
    return nc_benchmark(*sets, n_experiences=3, task_labels=True, fixed_class_order=[3, 0, 5, 1, 4, 2], shuffle=False)


KINDS = {
    # model, optimiser, plugin, memory, tasks
    "naive with Adam": (plain_model, "Adam", None, None, False),
    "replay": (plain_model, "SGD", SyntheticReplay, "random", False),
    "replay with Adam and distillation": (plain_model, "Adam", SyntheticReplay, "atom", False),
    "from memory": (plain_model, "SGD", TrainFromMemory, "random", False),
    "a head per task": (MultiHead, "Adam", SyntheticReplay, "random", True),
    "from memory, a head per task": (MultiHead, "SGD", TrainFromMemory, "random", True),
    "a growing head": (growing_model, "Adam", SyntheticReplay, "random", False),
}


def strategy(kind):
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    make, optimiser, plugin, memory, _ = KINDS[kind]
    model = make()
    held = None if memory is None else policy(memory)
    options = {"lr": 0.02, "momentum": 0.9} if optimiser == "SGD" else {"lr": 0.01}
    extra = {"augmentation": "crop_flip"} if plugin is TrainFromMemory else {"memory_augmentation": "crop"}
    made = Naive(
        model=model,
        optimizer=getattr(torch.optim, optimiser)(model.parameters(), **options),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        eval_mb_size=64,
        plugins=[plugin(held, **extra)] if plugin else [],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[BaseLogger()]),
    )
    return made, held


def train(made, benchmark, steps, *, test=True):
    for step in steps:
        made.train(benchmark.train_stream[step])
        if test:
            made.eval(benchmark.test_stream)  # of all tasks, those to come included


def fingerprint(made):
    tensors = [tensor.detach().contiguous().numpy().tobytes() for tensor in made.model.state_dict().values()]
    drawn = (torch.rand(1).item(), np.random.rand(), random.random())
    return hashlib.sha256(b"".join(tensors) + repr(drawn).encode()).hexdigest()


def seed(number):
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


@pytest.fixture(autouse=True)
def global_states():
    from atom_plugin.runtime.randomness import preserved_random_state

    with preserved_random_state():
        yield


def saved_after_one(kind, path, *, test=True):
    made, held = strategy(kind)
    benchmark = stream(KINDS[kind][-1])
    seed(7)
    train(made, benchmark, [0], test=test)
    save_stream(path, made, held, record={"rows": [[0.5]]})
    return made, held, benchmark


def finish(kind, path):
    """What a new process does."""
    made, held = strategy(kind)
    benchmark = stream(KINDS[kind][-1])
    seed(99)
    record = load_stream(path, made, held, train_stream=benchmark.train_stream)
    assert record == {"rows": [[0.5]]}
    assert made.clock.train_exp_counter == 1
    train(made, benchmark, [1, 2])
    return fingerprint(made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:avalanche")
def test_loaded_goes_on_to_the_same_weights_and_random_states(tmp_path, kind):
    made, _, benchmark = saved_after_one(kind, tmp_path / "a.state")
    train(made, benchmark, [1, 2])
    whole = fingerprint(made)
    assert finish(kind, tmp_path / "a.state") == whole
    assert finish(kind, tmp_path / "a.state") == whole  # loading changes no file


def test_in_a_new_process(tmp_path):
    kinds = ["replay with Adam and distillation", "from memory"]
    wholes = []
    for kind in kinds:
        made, _, benchmark = saved_after_one(kind, tmp_path / f"{kind}.state")
        train(made, benchmark, [1, 2])
        wholes.append(fingerprint(made))
    code = (
        "import json, sys; from tests.integration import test_avalanche_state as t; from pathlib import Path; "
        "print(json.dumps([t.finish(kind, Path(sys.argv[1]) / f'{kind}.state') for kind in sys.argv[2:]]))"
    )
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests"), os.environ["PYTHONPATH"]]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *kinds],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wholes


def test_one_state_and_one_memory_are_left_and_removed(tmp_path):
    (tmp_path / "a.state.memory-of-mine.h5").write_bytes(b"mine")
    made, held, benchmark = saved_after_one("replay", tmp_path / "a.state")
    train(made, benchmark, [1])
    save_stream(tmp_path / "a.state", made, held)
    mine = "a.state.memory-of-mine.h5"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.state", mine, "a.state.memory2.h5"]
    remove_stream(tmp_path / "a.state")
    remove_stream(tmp_path / "a.state")
    remove_stream(tmp_path / "nowhere" / "a.state")
    assert [path.name for path in tmp_path.iterdir()] == [mine]


def test_a_name_with_wildcards_is_a_name(tmp_path):
    made, held, benchmark = saved_after_one("replay", tmp_path / "a[1]*.state")
    train(made, benchmark, [1])
    save_stream(tmp_path / "a[1]*.state", made, held)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_memory_is_an_ordinary_set(tmp_path):
    from atom_plugin import store

    saved_after_one("replay", tmp_path / "a.state")
    assert store.read(tmp_path / "a.state.memory1.h5").classes == sorted(STEPS[0])


def test_an_untrained_strategy_can_be_saved_and_loaded(tmp_path):
    made, held = strategy("replay")
    save_stream(tmp_path / "a.state", made, held)
    assert load_stream(tmp_path / "a.state", *strategy("replay")) == {}


@pytest.mark.parametrize("record", [{"a": np.float32(1)}, {"a": float("nan")}, {"a": object()}])
def test_a_record_that_is_no_json_is_refused_when_it_is_saved(tmp_path, record):
    made, held = strategy("replay")
    with pytest.raises(ConfigError, match="JSON"):
        save_stream(tmp_path / "a.state", made, held, record=record)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_state_before(tmp_path, monkeypatch):
    from atom_plugin.integrations.avalanche import state

    made, held, benchmark = saved_after_one("replay", tmp_path / "a.state")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    train(made, benchmark, [1])

    def fail(*args, **kwargs):
        raise StoreError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(state, "write_bytes", fail)
        with pytest.raises(StoreError):
            save_stream(tmp_path / "a.state", made, held)
    assert {path: path.read_bytes() for path in before} == before
    assert load_stream(tmp_path / "a.state", *strategy("replay"))
    assert len(list(tmp_path.iterdir())) == 3  # the newer memory, which the next state takes the place of
    save_stream(tmp_path / "a.state", made, held)
    assert len(list(tmp_path.iterdir())) == 2


def refused(path, kind="replay", error=StoreError, with_policy=True):
    made, held = strategy(kind)
    with pytest.raises(error) as caught:
        load_stream(path, made, held if with_policy else None)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_foreign_newer_and_damaged_files(tmp_path):
    path = tmp_path / "a.state"
    assert "start the stream from its first experience" in refused(path)
    path.mkdir()
    assert "cannot be read" in refused(path)
    path.rmdir()
    saved_after_one("replay", path)
    whole = path.read_bytes()
    for foreign in (b"", b"\n", b"text", b"\xff" * 100, whole[30:]):
        path.write_bytes(foreign)
        assert "not a stream state of this package" in refused(path)
    torch.save({"a": 1}, path)
    assert "not a stream state of this package" in refused(path)
    path.write_bytes(whole.replace(b" 1 ", b" 2 ", 1))
    assert "version 2, this release reads 1; update" in refused(path)
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:60], whole[:-300] + b"\x01" + whole[-299:]):
        path.write_bytes(damaged)
        assert "damaged" in refused(path)


def test_the_memory_missing_or_damaged_beside_the_state(tmp_path):
    path, memory = tmp_path / "a.state", tmp_path / "a.state.memory1.h5"
    saved_after_one("replay", path)
    whole = memory.read_bytes()
    memory.write_bytes(whole[: len(whole) // 2])
    assert "memory1.h5" in refused(path)
    memory.unlink()
    assert "memory1.h5" in refused(path)


def test_another_strategy_or_policy(tmp_path):
    path = tmp_path / "a.state"
    saved_after_one("replay", path)
    assert "the saved optimiser is SGD, this one is Adam" in refused(
        path, "replay with Adam and distillation", ConfigError
    )
    assert "the saved strategy has 0 TrainFromMemory plugins, this one 1" in refused(path, "from memory", ConfigError)
    assert "has a memory, but none was given" in refused(path, "replay", ConfigError, with_policy=False)
    saved_after_one("naive with Adam", path)
    held = policy()
    held.post_adapt(None, stream().train_stream[0])
    with pytest.raises(ConfigError, match="has no memory, but one with images was given"):
        load_stream(path, strategy("naive with Adam")[0], held)


def test_another_model(tmp_path, monkeypatch):
    saved_after_one("replay", tmp_path / "a.state")
    monkeypatch.setitem(KINDS, "replay", (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6)), *KINDS["replay"][1:]))
    assert "was saved from a different strategy" in refused(tmp_path / "a.state", "replay", ConfigError)


def test_an_optimiser_of_something_else_cannot_be_saved(tmp_path):
    made, _ = strategy("replay")
    made.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ConfigError, match="parameters that the model does not have"):
        save_stream(tmp_path / "a.state", made)
    assert not list(tmp_path.iterdir())


def test_groups_of_parameters_keep_their_own_settings(tmp_path):
    def grouped():
        made, held = strategy("replay")
        first, *others = made.model.parameters()
        made.optimizer = torch.optim.SGD([{"params": others}, {"params": [first], "lr": 0.5}], lr=0.1, momentum=0.9)
        return made, held

    def run(made, steps):
        train(made, benchmark, steps, test=False)
        return fingerprint(made)

    benchmark = stream()
    made, held = grouped()
    seed(7)
    train(made, benchmark, [0], test=False)
    save_stream(tmp_path / "a.state", made, held)
    whole = run(made, [1])
    again, other = grouped()
    load_stream(tmp_path / "a.state", again, other)
    assert run(again, [1]) == whole
    single, other = strategy("replay")
    with pytest.raises(ConfigError, match="2 groups of parameters, this one has 1"):
        load_stream(tmp_path / "a.state", single, other)
