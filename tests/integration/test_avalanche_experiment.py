"""Whole experiments on a small source: every policy in its modes, alike for all, and stopped at any moment."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import coloured_source

from atom_plugin import store
from atom_plugin.errors import AtomError, ConfigError, PluginError, SourceError
from atom_plugin.integrations import avalanche  # noqa: F401  # first: it deals with Avalanche's import warnings
from atom_plugin.integrations.avalanche import experiment as module
from atom_plugin.integrations.avalanche import plugin_setup, state, training_hooks
from atom_plugin.integrations.avalanche.benchmark import class_order, split_classes
from atom_plugin.integrations.avalanche.experiment import Experiment
from atom_plugin.integrations.avalanche.experiment_config import ReplayConfig
from atom_plugin.replay import memory
from atom_plugin.replay.logits import MemoryLabels
from atom_plugin.replay.plan import BASELINES, plan_runs
from atom_plugin.replay.policies import MemoryOptions
from atom_plugin.replay.suppliers import DistillingSupplier, SelectingSupplier

ALL = ("atom", "dm", "random", "herding", "k-center", *BASELINES)


class Stop(BaseException):
    """As a signal stops a run: no Exception."""


@pytest.fixture(scope="module")
def data():
    return coloured_source(classes=5, per_class=24)


def config(mode="replay", **given):
    settings = {"ipc": 2, "steps": 3, "epochs": 2, "batch_size": 16, "network": {"width": 8, "depth": 2}}
    settings |= {"finetune_steps": 2} if mode == "replay" else {}
    settings["distillation"] = {"iterations": 2, "real_batch": 4, "precision": "float32"}
    return ReplayConfig.for_mode(mode, **{**settings, **given})


def experiment(data, folder, mode="replay", *, sets=(), streams=None, **given):
    folder.mkdir(exist_ok=True)
    return Experiment(config(mode, **given), data, folder=folder, sets=sets, device="cpu", streams=streams)


def go(trial, policy, order=0, network=0, **watchers):
    """The result, and the weights that every step that was trained here ended with: accuracies alone are coarse."""
    weights = []

    def tested(strategy, *others):
        weights.append(digest(strategy.model))
        return training_hooks.accuracies(strategy, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "accuracies", tested)
        result = trial.run(policy, order, network, **watchers)
    return result, weights


def digest(network):
    parts = [tensor.detach().numpy().tobytes() for tensor in network.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def same(found, expected):
    """Equal results but for the time taken, and equal weights after the steps that were trained."""
    (left, new), (right, whole) = found, expected
    return replace(left, seconds=0.0) == replace(right, seconds=0.0) and new == whole[len(whole) - len(new) :]


def stored_set(data, classes=None, ipc=3, preprocessing=None):
    classes = range(len(data.class_names)) if classes is None else classes
    supplier = SelectingSupplier(method="random", overrides={"precision": "float32"})
    return supplier.supply(data, list(classes), ipc=ipc, preprocessing=preprocessing)


@pytest.fixture(scope="module")
def every(data, tmp_path_factory):
    """Two modes' experiments, and the results of every policy on order 0."""
    folder = tmp_path_factory.mktemp("every")
    sets = [stored_set(data)]
    first = experiment(data, folder, sets=sets)
    experiments = {
        "replay": first,
        "from-memory": experiment(data, folder, "from-memory", sets=sets, streams=first.streams),
    }
    runs = plan_runs(["stored", *ALL], list(experiments), orders=1, networks=1)
    return experiments, {run: go(experiments[run.mode], run.policy) for run in runs}


def test_every_policy_runs_in_its_modes(every):
    _, results = every
    assert len(results) == 6 * 2 + 5
    for run, (result, _) in results.items():
        assert (result.policy, result.mode, result.order, result.network) == run
        assert [len(row) for row in result.accuracies] == [1, 2, 3]
        assert result.test_images == (12, 12, 6)
        if run.policy in ("naive", "joint"):
            assert (result.memory_images, result.memory_bytes) == (0, 0)


def test_memories_of_pixels_have_the_bytes_of_as_many_raw_images(every):
    sizes = {policy: (r.memory_images, r.memory_bytes) for (policy, *_), (r, _) in every[1].items()}
    del sizes["naive"], sizes["joint"]
    assert set(sizes.values()) == {(10, 10 * 3 * 8 * 8)}


@pytest.mark.parametrize("mode", ["replay", "from-memory"])
def test_logits_change_the_training_and_are_told(every, data, tmp_path, mode):
    experiments, results = every
    changed = {"memory_labels": "both", "logit_weight": 2.0}
    trial = experiment(data, tmp_path, mode, sets=experiments[mode].streams.sets, **changed)
    result, weights = go(trial, "random")
    plain, plain_weights = results["random", mode, 0, 0]
    assert weights[0] == plain_weights[0]  # nothing is stored yet
    assert weights[1] != plain_weights[1]
    assert result.memory_bytes == plain.memory_bytes + 10 * 5 * 2
    assert trial.describe() == {**experiments[mode].describe(), **changed}


def test_a_separate_pass_changes_the_training_and_is_told(data, tmp_path):
    apart, shared = (
        experiment(data, tmp_path / name, network={"width": 8, "depth": 2, "normalisation": "batch"}, **given)
        for name, given in {"a": {"separate_normalisation": True}, "b": {}}.items()
    )
    assert go(apart, "random")[1][1] != go(shared, "random")[1][1]
    assert apart.describe() == {**shared.describe(), "separate_normalisation": True}


@pytest.mark.parametrize(("storage", "times"), [("uint8", 1), ("float16", 2), ("float32", 4)])
def test_equal_bytes_are_as_many_raw_images_as_the_storage_says(data, storage, times):
    options = MemoryOptions(mode="replay", ipc=3, distillation={"storage": storage})
    held = stored_set(data).stored_as(storage)
    raw = plugin_setup.raw_images_per_class
    assert raw("real-bytes", options, [], data) == 3 * times
    assert raw("real-bytes", MemoryOptions(mode="replay", ipc=3), [held], data) == 3 * times
    assert raw("real-ipc", options, [], data) == raw("gdumb", options, [], data) == 3


@pytest.mark.parametrize(("factor", "images"), [(1, 31), (2, 36)])
def test_equal_bytes_count_the_logits(data, factor, images):
    options = MemoryOptions(mode="replay", ipc=30, distillation={"factor": factor}, labels=MemoryLabels(kind="logits"))
    # 3x8x8 pixels, and 5 classes of 2 bytes for each tile: 202 or 232 bytes for 192.
    assert (
        plugin_setup.raw_images_per_class("real-bytes", options, [], data)
        == 30 * (192 + 10 * factor**2) // 192
        == images
    )
    held = replace(stored_set(data), factor=factor)
    assert plugin_setup.raw_images_per_class("real-bytes", options, [held.stored_as("uint8")], data) == images


def test_the_same_seed_gives_the_same_results_and_another_seed_others(every, data, tmp_path):
    experiments, results = every
    sets = experiments["replay"].streams.sets
    for run in [run for run in results if run.policy in ("atom", "stored", "real-ipc", "gdumb", "joint")]:
        again = experiment(data, tmp_path, run.mode, sets=sets)
        assert same(go(again, run.policy), results[run])
    other = experiment(data, tmp_path / "other", sets=sets, seed=1)
    assert go(other, "atom")[1] != results["atom", "replay", 0, 0][1]


def test_networks_and_orders_differ(every):
    experiment = every[0]["replay"]
    weights = [go(experiment, "real-ipc", order, network)[1][-1] for order, network in ((0, 0), (0, 1), (1, 0))]
    assert weights[0] == every[1]["real-ipc", "replay", 0, 0][1][-1]
    assert len(set(weights)) == 3


def test_all_policies_start_alike_and_see_the_same_batches(data, tmp_path, monkeypatch):
    """The first network, and what the stream shows, batch by batch, in both steps and epochs."""
    seen: list[list[int]] = []

    class Watching(training_hooks.TrainingHooks):
        def before_training_iteration(self, strategy, **kwargs):
            left = len(strategy.adapted_dataset) - strategy.clock.train_epoch_iterations * strategy.train_mb_size
            seen.append(strategy.mbatch[0][: min(left, strategy.train_mb_size)].sum((1, 2, 3)).tolist())

    networks = []
    build = Experiment._network
    monkeypatch.setattr(module, "TrainingHooks", Watching)
    monkeypatch.setattr(
        Experiment, "_network", lambda self, *numbers: networks.append((numbers, n := build(self, *numbers))) or n
    )
    batches, weights = {}, {}
    for policy in ("naive", "random", "herding", "real-ipc", "real-bytes"):
        seen.clear()
        networks.clear()
        strategy_weights = []
        monkeypatch.setattr(
            Watching,
            "before_training",
            lambda self, strategy, kept=strategy_weights, **k: kept.append(next(strategy.model.parameters()).clone()),
        )
        experiment(data, tmp_path).run(policy, 0, 0)
        batches[policy], weights[policy] = list(seen), strategy_weights[0]
    assert len(batches["naive"]) == 3 * 2 * 3 - 2  # steps of 48, 48 and 24 images, in batches of 16
    for policy, shown in batches.items():
        assert shown == batches["naive"], policy
        assert torch.equal(weights[policy], weights["naive"])


def test_from_memory_gdumb_starts_from_the_networks_of_the_others(data, tmp_path, monkeypatch):
    starts = {}
    for policy in ("random", "gdumb"):
        kept = starts.setdefault(policy, [])
        monkeypatch.setattr(
            training_hooks.TrainingHooks,
            "before_training_epoch",
            lambda self, strategy, kept=kept, **k: kept.append(
                (next(strategy.model.parameters()).detach().clone(), strategy.optimizer.param_groups[0]["lr"])
            ),
        )
        experiment(data, tmp_path, "from-memory", epochs=4).run(policy, 0, 0)
    for random_start, gdumb_start in zip(starts["random"][::4], starts["gdumb"][::4], strict=True):
        assert torch.equal(random_start[0], gdumb_start[0])
    assert not torch.equal(starts["random"][0][0], starts["random"][4][0])
    rates = [rate for _, rate in starts["gdumb"]]
    assert rates == [rate for _, rate in starts["random"]]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001] * 3)


def test_augmentation_reaches_the_stream_of_baselines_and_the_memory_apart(data, tmp_path):
    plain = {policy: go(experiment(data, tmp_path), policy)[1] for policy in ("naive", "real-ipc")}
    memory = experiment(data, tmp_path / "memory", memory_augmentation="crop_flip")
    stream = experiment(data, tmp_path / "stream", stream_augmentation="crop_flip")
    assert go(memory, "naive")[1] == plain["naive"]
    changed = go(memory, "real-ipc")[1]
    assert changed[0] == plain["real-ipc"][0]
    assert changed[1] != plain["real-ipc"][1]
    changed = go(stream, "naive")[1]
    assert changed[0] != plain["naive"][0]
    assert changed[0] == go(stream, "real-ipc")[1][0]


def test_augmented_splits_a_batch_where_the_stream_ends(data, tmp_path, monkeypatch):
    from atom_plugin.transforms.augmentation import Augmentation

    sizes = []
    monkeypatch.setattr(
        Augmentation, "per_sample", lambda self, images, g: sizes.append((self.strategy, len(images))) or images
    )
    experiment(data, tmp_path, stream_augmentation="flip", memory_augmentation="crop", epochs=1).run("real-ipc", 0, 0)
    assert sizes[:3] == [("flip", 16)] * 3  # no memory yet
    assert sizes[3:9] == [("flip", 16), ("crop", 4)] * 3
    assert sizes[9:] == [("flip", 16), ("crop", 8), ("flip", 8), ("crop", 8)]


def test_class_orders_are_those_of_numpy_and_steps_need_not_divide():
    np_state = np.random.get_state()
    np.random.seed(3)
    assert class_order(100, 3) == np.random.permutation(100).tolist()
    np.random.set_state(np_state)
    assert [len(step) for step in split_classes(range(10), 4)] == [3, 3, 2, 2]
    assert [label for step in split_classes(class_order(10, 1), 3) for label in step] == class_order(10, 1)


def test_forgetting_is_avalanches(data, tmp_path, monkeypatch):
    from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin

    logged = []
    metrics = [
        accuracy_metrics(experience=True, stream=True),
        forgetting_metrics(stream=True),
        bwt_metrics(stream=True),
    ]
    monkeypatch.setattr(
        module, "EvaluationPlugin", lambda *a, loggers: EvaluationPlugin(*metrics, loggers=[BaseLogger()])
    )
    kept = module.accuracies
    monkeypatch.setattr(
        module, "accuracies", lambda s, *a: (kept(s, *a), logged.append(s.evaluator.get_last_metrics()))[0]
    )
    result = experiment(data, tmp_path, epochs=6).run("naive", 0, 0)
    last = logged[-1]
    assert result.forgetting != 0
    assert result.forgetting == pytest.approx(last["StreamForgetting/eval_phase/test_stream"])
    assert result.backward_transfer == pytest.approx(last["StreamBWT/eval_phase/test_stream"])
    assert result.curve[-1] == pytest.approx(last["Top1_Acc_Stream/eval_phase/test_stream"])


def test_memory_and_joint_training_beat_fine_tuning(data, tmp_path):
    learning = experiment(data, tmp_path, epochs=6, lr=0.1, ipc=4)
    final = {policy: learning.run(policy, 0, 0).final for policy in ("naive", "random", "joint")}
    assert final["joint"] > final["naive"] + 0.1
    assert final["random"] > final["naive"] + 0.1


def test_global_random_states_are_left_alone(data, tmp_path):
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    experiment(data, tmp_path, epochs=1).run("random", 0, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_preprocessing_knows_only_the_first_experience(data, tmp_path):
    trial = experiment(data, tmp_path)
    stream = trial.streams.get(1)
    steps = split_classes(class_order(5, 1), 3)
    first = torch.isin(data.train.labels, torch.tensor(steps[0]))
    pixels = data.train.images[first].double() / 255
    assert torch.allclose(stream.preprocessing.mean.double(), pixels.mean((0, 2, 3)), atol=1e-5)
    assert trial.describe()["preprocessing"] == "mean and std of the first experience"
    everything = config().distill_config(data.image_shape).fit_preprocessing(data)
    assert not stream.preprocessing.matches(everything)
    known = replace(data, mean=(0.4,) * 3, std=(0.2,) * 3)
    whitened = experiment(known, tmp_path, zca=True)
    assert whitened.describe()["preprocessing"] == "constants of the source and ZCA of the first experience"


def test_modes_share_one_copy_of_the_stream(every):
    experiments, _ = every
    assert experiments["replay"].streams is experiments["from-memory"].streams
    assert experiments["replay"].streams.get(0) is experiments["from-memory"].streams.get(0)


# A stop, and what comes after it.


def stop_at(monkeypatch, target, name, number):
    """The ``number``-th call of ``target.name`` stops the run; those before act as ever."""
    kept, calls = getattr(target, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise Stop
        return kept(*args, **kwargs)

    monkeypatch.setattr(target, name, counted)


# Each with how often it is called in the run below: 3 steps of 2 epochs.
MOMENTS = {
    "in the middle of the 2nd experience": (training_hooks.TrainingHooks, "after_training_epoch", 3),
    "in a batch": (training_hooks.TrainingHooks, "before_forward", 5),
    "before the 2nd test": (training_hooks, "accuracies", 2),
    "while the 2nd state is written": (state, "write_bytes", 2),
    "while the 3rd set is written": (store, "write", 3),
    "while the 3rd memory is written": (memory, "write_fields", 3),
    "after the 1st state": (module, "save_stream", 2),
    "after the last state": (module, "StreamResult", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("policy", "mode"), [("atom", "replay"), ("random", "from-memory")])
def test_stopped_and_gone_on_with_gives_the_same(every, data, tmp_path, moment, policy, mode):
    experiments, results = every
    sets = experiments[mode].streams.sets
    target, name, number = MOMENTS[moment]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, target, name, number)
        with pytest.raises(Stop):
            go(experiment(data, tmp_path, mode, sets=sets), policy)
    assert not list(tmp_path.glob(".*"))
    told = []
    again = experiment(data, tmp_path, mode, sets=sets)
    result = go(again, policy, on_epoch=lambda: told.append(1))
    assert len(told) == 6
    assert same(result, results[policy, mode, 0, 0])
    again.forget(result[0])
    assert not list(tmp_path.glob("*.state*"))


def test_stopped_within_a_distillation(every, data, tmp_path, monkeypatch):
    experiments, results = every
    sets = experiments["replay"].streams.sets
    with monkeypatch.context() as patch:
        stop_at(patch, DistillingSupplier, "supply", 2)
        with pytest.raises(Stop):
            go(experiment(data, tmp_path, sets=sets), "atom")
    trained = []
    monkeypatch.setattr(
        training_hooks.TrainingHooks, "after_training_epoch", lambda self, strategy, **k: trained.append(1)
    )
    result = go(experiment(data, tmp_path, sets=sets), "atom")
    assert len(trained) == 2 * 2  # the first experience is not trained again
    assert same(result, results["atom", "replay", 0, 0])


@pytest.mark.parametrize("policy", ["naive", "joint", "real-ipc", "gdumb"])
def test_a_stopped_baseline_reaches_the_same(every, data, tmp_path, monkeypatch, policy):
    experiments, results = every
    mode = "from-memory" if policy == "gdumb" else "replay"
    sets = experiments[mode].streams.sets
    with monkeypatch.context() as patch:
        stop_at(patch, training_hooks, "accuracies", 3)
        with pytest.raises(Stop):
            go(experiment(data, tmp_path, mode, sets=sets), policy)
    assert same(go(experiment(data, tmp_path, mode, sets=sets), policy), results[policy, mode, 0, 0])


def test_a_memory_missing_beside_its_state_is_one_line(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, module, "StreamResult", 1)
        with pytest.raises(Stop):
            experiment(data, tmp_path).run("random", 0, 0)
    (memory,) = tmp_path.glob("*.state.memory*.h5")
    memory.unlink()
    with pytest.raises(AtomError, match=r"memory3\.h5") as caught:
        experiment(data, tmp_path).run("random", 0, 0)
    assert "\n" not in str(caught.value)


def test_kept_sets_are_made_once_and_shared(data, tmp_path, monkeypatch):
    made = []
    supply = DistillingSupplier.supply
    monkeypatch.setattr(DistillingSupplier, "supply", lambda self, *a, **k: made.append(1) or supply(self, *a, **k))
    first = experiment(data, tmp_path)
    first.run("atom", 0, 0)
    first.run("atom", 0, 1)
    experiment(data, tmp_path, "from-memory").run("atom", 0, 0)
    assert len(made) == 3
    assert sorted(path.name for path in tmp_path.glob("*.h5") if "state" not in path.name) == [
        f"atom-order0-step{step}.h5" for step in (1, 2, 3)
    ]


def test_a_kept_set_in_another_preprocessing_is_refused(data, tmp_path):
    experiment(data, tmp_path).run("random", 0, 0)
    for path in tmp_path.glob("*.state*"):
        path.unlink()
    with pytest.raises(AtomError, match="different preprocessing"):
        experiment(data, tmp_path, zca=True).run("random", 0, 0)


def test_a_policys_name_is_safe_in_file_names():
    assert plugin_setup.file_stem("my/own [x]") == "my%2Fown%20%5Bx%5D"


# What is refused before any work.


def test_more_steps_than_classes(data, tmp_path):
    with pytest.raises(ConfigError, match="5 classes cannot be split into 6 steps"):
        experiment(data, tmp_path, steps=6)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"mode": "both"}, "mode"),
        ({"epochs": 0}, "epochs"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"memory_augmentation": "blur"}, "blur"),
        ({"stream_augmentation": "blur"}, "blur"),
        ({"memory_labels": "soft"}, "'soft'"),
        ({"logit_weight": 0.0}, "logit_weight"),
        ({"mode": "from-memory", "separate_normalisation": True}, "from memory alone"),
    ],
)
def test_impossible_configs(changes, part):
    with pytest.raises(ConfigError, match=part):
        replace(config(), **changes)


def test_separate_normalisation_is_of_batch_normalisation(data, tmp_path):
    with pytest.raises(ConfigError, match=r"no effect with instance normalisation.*--normalisation batch"):
        experiment(data, tmp_path, separate_normalisation=True)


def test_too_few_images_of_a_class(data, tmp_path):
    trial = experiment(data, tmp_path, ipc=25)
    for policy in ("atom", "herding", "real-ipc", "gdumb"):
        with pytest.raises(SourceError, match="'class 0' has 24 training image"):
            trial.check([policy], 1)
    trial.check(["naive", "joint"], 1)


def test_policies_that_are_none(data, tmp_path):
    trial = experiment(data, tmp_path)
    with pytest.raises(ConfigError, match=r"'atm'; did you mean 'atom'\?"):
        trial.check(["atm"], 1)
    with pytest.raises(ConfigError, match=r"did you mean 'herding'\?"):
        trial.check(["herdng"], 1)
    with pytest.raises(ConfigError, match="name them with --memory"):
        trial.check(["stored"], 1)


def test_a_broken_matcher_is_found_out_before_any_work(data, tmp_path, monkeypatch):
    from atom_plugin.matchers import MATCHERS
    from atom_plugin.runtime.registry import Entry

    def fail():
        raise ImportError("broken")

    monkeypatch.setitem(MATCHERS._local, "mine", Entry(name="mine", origin="test", load=fail))
    with pytest.raises(PluginError, match="broken"):
        experiment(data, tmp_path).check(["mine"], 1)


def test_sets_must_hold_every_steps_classes_in_every_order_asked_for(data, tmp_path):
    prepared = config().distill_config(data.image_shape).fit_preprocessing(data)
    parts = [stored_set(data, step, preprocessing=prepared) for step in split_classes(class_order(5, 0), 3)]
    experiment(data, tmp_path, sets=parts).check(["stored"], 1)
    with pytest.raises(ConfigError, match=r"step 1 in class order 1"):
        experiment(data, tmp_path, sets=parts).check(["stored"], 2)
    with pytest.raises(ConfigError, match="of step 3 in class order 0"):
        experiment(data, tmp_path, sets=parts[:2]).check(["stored"], 1)
    with pytest.raises(ConfigError, match=r"set 1 .* has 3 image\(s\) .* fewer than the 4"):
        experiment(data, tmp_path, sets=parts, ipc=4).check(["stored"], 1)
    parts[1] = stored_set(data, parts[1].classes)
    with pytest.raises(ConfigError, match="preprocessing"):
        experiment(data, tmp_path, sets=parts).check(["stored"], 1)


def test_one_set_per_step_gives_what_one_set_of_all_gives(data, tmp_path):
    whole = stored_set(data)
    parts = [whole.subset(step) for step in split_classes(class_order(5, 0), 3)]
    one = experiment(data, tmp_path / "one", sets=[whole]).run("stored", 0, 0)
    several = experiment(data, tmp_path / "several", sets=parts).run("stored", 0, 0)
    assert one.accuracies == several.accuracies
    assert one.config["preprocessing"] == "that of the stored sets"
