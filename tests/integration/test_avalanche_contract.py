"""What Avalanche asks of a storage policy: sizes, balance, resizing, datasets to cut and join; and its strategies with one."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche_streams import (
    DATA,
    SELECTED,
    STANDARDISED,
    STEPS,
    BaseLogger,
    EvaluationPlugin,
    Images,
    Recorder,
    accuracy_metrics,
    as_classification_dataset,
    is_among,
    processed_policy,
    quick_replay,
    split_online_stream,
    strategy_with,
    stream_of,
    trained,
)
from torch import nn
from torch.utils.data import DataLoader

from atom_plugin.errors import ConfigError
from atom_plugin.replay.memory import Budget
from atom_plugin.replay.suppliers import PrecomputedSupplier

from avalanche.benchmarks.utils import AvalancheDataset  # isort: skip
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader  # isort: skip
from avalanche.benchmarks.utils.flat_data import _flatdata_depth  # isort: skip
from avalanche.benchmarks.utils.utils import concat_datasets  # isort: skip
from avalanche.models import NCMClassifier, SCRModel, SimpleMLP, TrainEvalModel  # isort: skip
from avalanche.training import plugins, supervised  # isort: skip
from avalanche.training.plugins.update_ncm import MemoryNCMUpdate  # isort: skip
from avalanche.training.supervised.mer import MER  # isort: skip

KINDS = ["xy", "nc", "tasks"]
TASKS = {label: step for step, labels in enumerate(STEPS) for label in labels}


@pytest.fixture(scope="module")
def stored():
    return SELECTED.supply(DATA, range(6), ipc=3, preprocessing=STANDARDISED)


def filled(budget: Budget, kind: str = "xy", supplier: Any = SELECTED, steps: int = 3):
    policy = processed_policy(budget, supplier=supplier)
    for experience in stream_of(kind).train_stream[:steps]:
        policy.post_adapt(None, experience)
    return policy


def counts(dataset: Any) -> Counter:
    return Counter(int(label) for label in dataset.targets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [6, 13, 17, 20])
def test_a_full_memory_holds_its_size_and_every_class_equally(kind, size):
    policy = processed_policy(Budget(max_images=size), supplier=SELECTED)
    assert policy.max_size == size
    for step, experience in enumerate(stream_of(kind).train_stream, start=1):
        policy.post_adapt(None, experience)
        held = counts(policy.buffer)
        assert len(policy.buffer) == size
        assert set(held) == {label for labels in STEPS[:step] for label in labels}
        assert max(held.values()) - min(held.values()) <= 1
        assert sorted(held, key=lambda label: (-held[label], label)) == sorted(held)  # the rest to the lowest ids


def test_the_rest_of_a_budget_is_the_same_every_time():
    first, second = filled(Budget(max_images=13)), filled(Budget(max_images=13))
    assert torch.equal(first.memory.images.images, second.memory.images.images)
    assert counts(first.buffer) == {0: 3, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}


def test_announced_classes_keep_their_places():
    policy = filled(Budget(max_images=13, classes=6), steps=1)
    assert counts(policy.buffer) == {0: 3, 3: 2}
    assert counts(filled(Budget(max_images=13, classes=6)).buffer) == {0: 3, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}


@pytest.mark.parametrize("kind", KINDS)
def test_resized_the_memory_stays_balanced_and_keeps_its_first_images(kind):
    policy = filled(Budget(max_images=20), kind)
    before = policy.memory.images
    policy.resize(None, 8)
    assert (policy.max_size, len(policy.buffer)) == (8, 8)
    assert counts(policy.buffer) == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    for label, held in counts(policy.buffer).items():
        kept = policy.memory.images.images[policy.memory.images.labels == label]
        assert torch.equal(kept, before.images[before.labels == label][:held])
    policy.resize(None, 50)
    assert (policy.max_size, len(policy.buffer)) == (50, 8)


def test_task_labels_stay_with_their_classes_when_the_memory_is_resized():
    policy = filled(Budget(max_images=20), "tasks")
    policy.resize(None, 7)
    assert [int(task) for task in policy.buffer.targets_task_labels] == [TASKS[y] for y in policy.buffer.targets]
    assert {task: counts(held) for task, held in policy.buffer.task_set.items()} == {
        0: {0: 2, 3: 1},
        1: {1: 1, 5: 1},
        2: {2: 1, 4: 1},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_the_classes(kind):
    policy = processed_policy(Budget(max_images=13), supplier=SELECTED)
    assert (policy.buffer_datasets, policy.buffer_groups) == ([], {})
    policy = filled(Budget(max_images=13), kind)
    assert list(policy.buffer_groups) == policy.memory.classes
    for (label, group), dataset in zip(policy.buffer_groups.items(), policy.buffer_datasets, strict=True):
        assert isinstance(dataset, AvalancheDataset)
        assert counts(group.buffer) == counts(dataset) == {label: 3 if label == 0 else 2}
        assert all(len(sample) == (2 if kind == "xy" else 3) for sample in dataset)
        assert is_among(dataset[0][0], policy.memory.images.images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3], ids=["one step held", "all held"])
def test_buffer_and_stream_can_be_joined_in_either_order(kind, steps):
    policy, stream = filled(Budget(ipc=2), kind, steps=steps), stream_of(kind).train_stream[0].dataset
    buffer = policy.buffer
    part = buffer.subset([0, 1])
    for parts in ([buffer, stream], [stream, buffer], [part, stream], [stream, part, stream], [buffer, stream, buffer]):
        by_method = parts[0]
        for other in parts[1:]:
            by_method = by_method.concat(other)
        for joined in (by_method, concat_datasets(parts), sum(parts[1:], parts[0])):
            assert len(joined) == sum(map(len, parts))
            expected = [sample for each in parts for sample in each]
            for found, sample in zip(joined, expected, strict=True):
                assert torch.equal(found[0], sample[0])
                assert list(found[1:]) == list(sample[1:])
            assert list(joined.targets) == [sample[1] for sample in expected]
            if kind != "xy":
                assert list(joined.targets_task_labels) == [sample[2] for sample in expected]
                assert sum(map(len, joined.task_set.values())) == len(joined)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["xy", "tasks"])
def test_loaders_with_several_workers_give_every_image_once(kind, workers):
    policy = filled(Budget(max_images=13), kind)
    buffer = policy.buffer
    batches = list(DataLoader(buffer, batch_size=4, num_workers=workers, collate_fn=buffer.collate_fn))
    assert torch.equal(torch.cat([batch[0] for batch in batches]), policy.memory.images.images)
    assert torch.cat([batch[1] for batch in batches]).tolist() == list(buffer.targets)
    stream = stream_of(kind).train_stream[2].dataset
    mixed = ReplayDataLoader(stream, buffer, batch_size=5, batch_size_mem=4, num_workers=workers, shuffle=False)
    assert [len(batch[0]) for batch in mixed][:3] == [9, 9, 9]


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_too_small_for_the_classes_to_come_is_refused_at_the_start(kind):
    stream, words = (
        stream_of(kind).train_stream,
        "max_images 5 has no room for one image of each of 6 classes; give it 6",
    )
    policy = processed_policy(Budget(max_images=5), supplier=SELECTED)
    strategy = strategy_with(quick_replay(policy), model=SimpleMLP(num_classes=6, input_size=192, hidden_size=8))
    with pytest.raises(ConfigError, match=words):
        strategy.train(stream[0])
    assert strategy.clock.train_iterations == 0
    with pytest.raises(ConfigError, match=words):
        processed_policy(Budget(max_images=5), supplier=SELECTED).post_adapt(None, stream[0])
    with pytest.raises(ConfigError, match=r"max_bytes 3839 has no room .* 6 classes; give it 4608 or more"):
        processed_policy(Budget(max_bytes=5 * 768 - 1), supplier=SELECTED).check(stream[0])
    processed_policy(Budget(max_images=6), supplier=SELECTED).check(stream[0])


def test_an_online_streams_classes_to_come_are_counted_too():
    part = next(iter(split_online_stream(stream_of().train_stream, 4, access_task_boundaries=True, seed=0)))
    with pytest.raises(ConfigError, match="of each of 6 classes"):
        processed_policy(Budget(max_images=5), supplier=SELECTED).check(part)


def experience_of(dataset: Any) -> Any:
    """Something with a dataset: what is asked of it comes before anything else."""
    return SimpleNamespace(dataset=dataset, task_labels=[0])


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"image": torch.zeros(3, 8, 8), "label": 0}, "type dict with the keys image, label, expected .image, class"),
        (torch.zeros(3, 3, 8, 8), "type Tensor, expected"),
        ((torch.zeros(3, 8, 8),), r"have 1 parts, expected \(image, class\)"),
        ((torch.zeros(3, 8, 8), 0, 0, 0), "have 4 parts"),
    ],
    ids=["dictionary", "tensor", "one part", "four parts"],
)
def test_samples_of_another_layout_are_refused_in_a_line(sample, words):
    policy = processed_policy(Budget(ipc=1), supplier=SELECTED)
    for call in (policy.check, lambda experience: policy.post_adapt(None, experience)):
        with pytest.raises(ConfigError, match=words) as caught:
            call(experience_of([sample]))
        assert "\n" not in str(caught.value)


def test_an_empty_experience_is_refused():
    with pytest.raises(ConfigError, match="experience has no samples"):
        processed_policy(Budget(ipc=1), supplier=SELECTED).check(experience_of([]))


def test_a_streams_dictionaries_are_refused():
    class Dictionaries(Images):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"image": image, "label": label}

    experience = experience_of(as_classification_dataset(Dictionaries(DATA.train, "processed")))
    with pytest.raises(ConfigError, match="type dict with the keys image, label"):
        processed_policy(Budget(ipc=1), supplier=SELECTED).check(experience)


def network() -> nn.Module:
    return SimpleMLP(num_classes=6, input_size=192, hidden_size=16)


def with_plugin(plugin: Any, policy: Any, model: nn.Module | None = None):
    plugin.storage_policy = policy
    return strategy_with(plugin, model=model or network())


def with_template(template: Any, policy: Any, **options: Any):
    model = network()
    if template is supervised.ER_AML:
        options["feature_extractor"] = nn.Sequential(nn.Flatten(), model.features)
    strategy = strategy_with(template=template, model=model, **{"mem_size": 18, "batch_size_mem": 4, **options})
    (strategy.buffer if template is MER else strategy).storage_policy = policy
    return strategy


def contrastive(policy: Any):
    model = SCRModel(feature_extractor=nn.Sequential(nn.Flatten(), nn.Linear(192, 16)), projection=nn.Linear(16, 8))
    strategy = supervised.SCR(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        mem_size=18,
        train_mb_size=7,
        batch_size_mem=8,
        eval_mb_size=16,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[BaseLogger()]),
    )
    strategy.replay_plugin.storage_policy = policy
    return strategy


def nearest_means(policy: Any):
    model = TrainEvalModel(nn.Sequential(nn.Flatten(), nn.Linear(192, 16)), nn.Linear(16, 6), NCMClassifier())
    return with_plugin(MemoryNCMUpdate(18, policy), policy, model)


# With (x, y, task); the strategies of the second table take nothing else.
TAKE_ANY = {
    "ReplayPlugin": lambda policy: strategy_with(
        plugins.ReplayPlugin(mem_size=policy.max_size, storage_policy=policy), model=network()
    ),
    "GDumbPlugin": lambda policy: with_plugin(plugins.GDumbPlugin(18), policy),
    "RARPlugin": lambda policy: with_plugin(plugins.RARPlugin(batch_size_mem=4, mem_size=18), policy),
    "CoPEPlugin": lambda policy: with_plugin(plugins.CoPEPlugin(mem_size=18, n_classes=6, p_size=6), policy),
}
TAKE_TASKS = {
    "MIRPlugin": lambda policy: with_plugin(plugins.MIRPlugin(batch_size_mem=4, subsample=8), policy),
    "MemoryNCMUpdate": nearest_means,
    "ER_ACE": lambda policy: with_template(supervised.ER_ACE, policy),
    "ER_AML": lambda policy: with_template(supervised.ER_AML, policy, train_mb_size=3),
    "SCR": contrastive,
    "MER": lambda policy: with_template(MER, policy),
}
MADE = TAKE_ANY | TAKE_TASKS


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in MADE for kind in KINDS if name in TAKE_ANY or kind != "xy"],
)
def test_avalanches_strategies_train_and_test_with_the_policy(stored, name, kind):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]), class_names=DATA.class_names)
    assert policy.max_size == 18
    benchmark = stream_of(kind)
    torch.manual_seed(0)
    strategy = trained(MADE[name](policy), benchmark.train_stream)
    assert counts(policy.buffer) == dict.fromkeys(range(6), 3)
    assert strategy.eval(benchmark.test_stream)


@pytest.mark.parametrize(
    "name", sorted(TAKE_TASKS.keys() - {"MER"})
)  # MER fails on such a stream before it has a memory
def test_strategies_that_take_task_labels_only_say_so(stored, name):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]), class_names=DATA.class_names)
    with pytest.raises(ConfigError, match=rf"{name} takes only samples \(x, y, task\).*with task labels") as caught:
        policy.post_adapt(MADE[name](policy), stream_of().train_stream[0])
    assert "\n" not in str(caught.value)
    assert len(policy.memory) == 0


@pytest.mark.parametrize(("template", "what"), [(supervised.DER, "logits"), (supervised.FeatureReplay, "features")])
def test_strategies_that_keep_more_than_samples_are_refused_in_a_line(stored, template, what):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]), class_names=DATA.class_names)
    strategy = with_template(template, policy)
    with pytest.raises(ConfigError, match=rf"{template.__name__} keeps {what} .* use SyntheticReplay") as caught:
        trained(strategy, stream_of("nc").train_stream)
    assert "\n" not in str(caught.value)
    assert strategy.clock.train_exp_counter <= 1  # at the end of the first experience, when it first fills its memory


def test_er_aml_is_refused_where_it_would_wait_for_a_batch_that_never_comes(stored):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]), class_names=DATA.class_names)
    strategy = with_template(supervised.ER_AML, policy, train_mb_size=4)
    with pytest.raises(ConfigError, match=r"batches of 4 from each class, but the memory has 3 .*lower train_mb_size"):
        trained(strategy, stream_of("nc").train_stream)
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_larger_than_the_stream_holds_all_of_it(kind):
    policy = processed_policy(Budget(max_images=200), supplier=SELECTED)
    seen = 0
    for experience in stream_of(kind).train_stream:
        policy.post_adapt(None, experience)
        seen += len(experience.dataset)
        assert len(policy.buffer) == sum(map(len, policy.buffer_datasets)) == seen
    assert counts(policy.buffer) == dict.fromkeys(range(6), 10)
    assert policy.max_size == 200


@pytest.mark.parametrize("kind", KINDS)
def test_resized_between_experiences_the_memory_goes_on_in_its_new_size(kind):
    policy, stream = processed_policy(Budget(max_images=20), supplier=SELECTED), stream_of(kind).train_stream
    for size, experience in zip([20, 8, 15], stream, strict=True):
        policy.resize(None, size)
        policy.post_adapt(None, experience)
        held = counts(policy.buffer)
        assert len(policy.buffer) <= size == policy.max_size
        assert max(held.values()) - min(held.values()) <= 1
    # The classes of before keep what size 8 left them; those that come are given what 15 allows: 3 for the first three ids.
    assert counts(policy.buffer) == {0: 2, 1: 2, 2: 3, 3: 2, 4: 2, 5: 2}


def test_its_own_update_and_post_adapt_are_one():
    old, new = (processed_policy(Budget(max_images=13), supplier=SELECTED) for _ in range(2))
    for experience in stream_of().train_stream:
        old.update(SimpleNamespace(experience=experience))
        new.post_adapt(None, experience)
        assert torch.equal(old.memory.images.images, new.memory.images.images)


@pytest.mark.parametrize("kind", KINDS)
def test_the_buffers_datasets_do_not_nest_as_experiences_come(kind):
    policy, depths = processed_policy(Budget(max_images=13), supplier=SELECTED), []
    for experience in stream_of(kind).train_stream:
        policy.post_adapt(None, experience)
        depths.append(_flatdata_depth(policy.buffer._flat_data))
    assert len(set(depths)) == 1
    part = policy.buffer
    for _ in range(5):
        part = part.subset(range(len(part) - 1))
    assert _flatdata_depth(part._flat_data) <= depths[0] + 1, "subsets of subsets are one subset"


@pytest.mark.parametrize("kind", KINDS)
def test_no_epochs_fill_the_memory_all_the_same(kind):
    policy = processed_policy(Budget(max_images=13), supplier=SELECTED)
    strategy = strategy_with(plugins.ReplayPlugin(mem_size=13, storage_policy=policy), model=network(), epochs=0)
    for experience in stream_of(kind).train_stream:
        strategy.train(experience)
        assert sum(map(len, policy.buffer_datasets)) == policy.max_size
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_replay_plugins_batches_are_a_part_of_each(kind, workers, drop_last):
    policy = processed_policy(Budget(max_images=12), supplier=SELECTED)
    plugin = plugins.ReplayPlugin(mem_size=12, batch_size=6, batch_size_mem=4, storage_policy=policy)
    recorder = Recorder()
    strategy = strategy_with(plugin, recorder, model=network())
    benchmark = stream_of(kind)
    for step, experience in enumerate(benchmark.train_stream):
        recorder.batches.clear()
        held = policy.memory.images.images if step else None
        strategy.train(experience, eval_streams=[benchmark.test_stream], num_workers=workers, drop_last=drop_last)
        for batch in recorder.batches[: 20 // 6 if step else 0]:
            labels = batch["labels"].tolist()
            new = [label in STEPS[step] for label in labels]
            assert (sum(new), len(new) - sum(new)) == (6, 4)
            assert all(is_among(image, held) for image, fresh in zip(batch["images"], new, strict=True) if not fresh)
    assert counts(policy.buffer) == dict.fromkeys(range(6), 2)


def test_a_loader_that_balances_tasks_draws_from_each():
    policy = processed_policy(Budget(max_images=12), supplier=SELECTED)
    plugin = plugins.ReplayPlugin(
        mem_size=12, batch_size=6, batch_size_mem=4, task_balanced_dataloader=True, storage_policy=policy
    )
    recorder = Recorder()
    strategy = strategy_with(plugin, recorder, model=network())
    for step, experience in enumerate(stream_of("tasks").train_stream):
        recorder.batches.clear()
        strategy.train(experience)
        if step == 2:
            drawn = [Counter(TASKS[label] for label in batch["labels"].tolist()) for batch in recorder.batches]
            assert drawn[0][0] == drawn[0][1] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_gdumb_trains_on_the_whole_memory_and_on_nothing_else(stored, kind):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]), class_names=DATA.class_names)
    recorder = Recorder()
    plugin = plugins.GDumbPlugin(18)
    plugin.storage_policy = policy
    strategy = strategy_with(plugin, recorder, model=network())
    for step, experience in enumerate(stream_of(kind).train_stream, start=1):
        recorder.batches.clear()
        strategy.train(experience)
        shown = torch.cat([batch["images"] for batch in recorder.batches])
        held = policy.memory.images.images
        assert len(held) == 6 * step
        # Its loader shows images of a task that has fewer than others more often.
        assert len(shown) == len(held) or kind == "tasks"
        assert all(is_among(image, held) for image in shown)
        assert all(is_among(image, shown) for image in held)
