"""The plugins: replay with its mask and augmentations, training from memory alone, and Avalanche's own beside them."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from avalanche_streams import (
    DATA,
    QUICK,
    SELECTED,
    STANDARDISED,
    STEPS,
    Recorder,
    is_among,
    processed_policy,
    quick_replay,
    small_network,
    split_online_stream,
    strategy_with,
    stream_of,
    trained,
)

from atom_plugin.errors import ConfigError
from atom_plugin.integrations.avalanche import SyntheticMemory, SyntheticReplay, TrainFromMemory
from atom_plugin.integrations.avalanche.benchmark import class_order, make_benchmark, split_classes
from atom_plugin.integrations.avalanche.exemplars import RawExemplars, RawGDumb, RawReplay
from atom_plugin.replay.memory import Budget
from atom_plugin.replay.suppliers import PrecomputedSupplier

REAL = STANDARDISED.forward(DATA.train.images)


def whole_set(ipc: int = 3):
    """Images that the stream does not hold."""
    return QUICK.supply(DATA, range(6), ipc=ipc, preprocessing=STANDARDISED)


@pytest.fixture(scope="module")
def stored():
    return whole_set()


def multi_head() -> torch.nn.Module:
    from avalanche.models import MTSimpleMLP

    torch.manual_seed(0)
    return MTSimpleMLP(input_size=192, hidden_size=8)


@pytest.mark.parametrize("kind", ["xy", "nc", "tasks"])
@pytest.mark.parametrize("memory_batch", [None, 1, 4, 100])
def test_the_mask_says_which_samples_are_the_memorys(stored, kind, memory_batch):
    replay = quick_replay(
        processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), memory_batch=memory_batch
    )
    recorder = Recorder(replay)
    model = multi_head() if kind == "tasks" else None
    trained(strategy_with(replay, recorder, model=model), stream_of(kind).train_stream)
    assert replay.memory_mask is None
    sizes = Counter()
    for batch in recorder.batches:
        assert batch["mask"].shape == batch["labels"].shape
        for image, label, held in zip(batch["images"], batch["labels"], batch["mask"], strict=True):
            assert is_among(image, stored.images[stored.labels == label]) == held
            assert is_among(image, REAL[DATA.train.labels == label]) != held
        if kind == "tasks":
            tasks = {label: step for step, labels in enumerate(STEPS) for label in labels}
            assert batch["tasks"].tolist() == [tasks[label] for label in batch["labels"].tolist()]
        sizes[batch["experience"], len(batch["mask"]) - int(batch["mask"].sum()), int(batch["mask"].sum())] += 1
    assert sizes == expected_sizes(memory_batch or 7)


def expected_sizes(memory_batch: int) -> Counter:
    """20 images of the stream in batches of 7, 7 and 6; 0, 6 and 12 of the memory in rounds of batches."""
    sizes: Counter = Counter()
    for experience, held in enumerate((0, 6, 12)):
        rounds = [min(memory_batch, held - start) for start in range(0, held, memory_batch)]
        for batch, stream in enumerate((7, 7, 6)):
            sizes[experience, stream, rounds[batch % len(rounds)] if rounds else 0] += 1
    return sizes


def test_each_round_over_the_memory_has_every_image_once(stored):
    replay = quick_replay(processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), memory_batch=4)
    recorder = Recorder(replay)
    trained(strategy_with(replay, recorder), stream_of().train_stream)
    last = [batch for batch in recorder.batches if batch["experience"] == 2]
    replayed = torch.cat([batch["images"][batch["mask"]] for batch in last])
    seen = stored.subset([*STEPS[0], *STEPS[1]]).images
    assert len(replayed) == len(seen) == 12
    assert all(is_among(image, replayed) for image in seen)


@pytest.mark.parametrize(("memory", "stream"), [("color", "none"), ("none", "flip_scale"), ("color_crop", "rotate")])
def test_memory_and_stream_are_augmented_apart(stored, memory, stream):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]))
    replay = quick_replay(policy, memory_augmentation=memory, stream_augmentation=stream)
    recorder = Recorder(replay)
    trained(strategy_with(replay, recorder), stream_of().train_stream)
    untouched = {True: Counter(), False: Counter()}
    for batch in recorder.batches:
        for image, held in zip(batch["images"], batch["mask"].tolist(), strict=True):
            untouched[held][is_among(image, stored.images if held else REAL)] += 1
    for held, operations in ((True, memory), (False, stream)):
        assert sum(untouched[held].values()) >= 30
        if operations == "none":
            assert untouched[held][False] == 0
        else:
            assert untouched[held][False] > untouched[held][True]


def test_the_streams_own_images_are_not_changed_by_augmentation(stored):
    benchmark = stream_of()
    before = torch.stack([sample[0] for sample in benchmark.train_stream[0].dataset])
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]))
    trained(strategy_with(quick_replay(policy, stream_augmentation="color")), benchmark.train_stream)
    assert torch.equal(torch.stack([sample[0] for sample in benchmark.train_stream[0].dataset]), before)


def final_weights(make, kind: str = "xy", **options) -> torch.Tensor:
    torch.manual_seed(3)
    model = multi_head() if kind == "tasks" else small_network()
    torch.manual_seed(3)
    strategy = strategy_with(*make(), model=model, **options)
    trained(strategy, stream_of(kind).train_stream)
    return torch.cat([parameter.detach().flatten() for parameter in strategy.model.parameters()])


@pytest.mark.parametrize("seed", [0, 1])
def test_one_seed_gives_one_result(seed):
    def replay():
        return [quick_replay(processed_policy(Budget(ipc=2)), memory_augmentation="color_crop", seed=seed)]

    first = final_weights(replay)
    assert torch.equal(first, final_weights(replay))
    assert not torch.equal(first, final_weights(lambda: [quick_replay(processed_policy(Budget(ipc=2)))]))


def test_other_storage_policies_can_be_replayed():
    from avalanche.training.storage_policy import ClassBalancedBuffer, ReservoirSamplingBuffer

    for kind, policy in (
        ("xy", ReservoirSamplingBuffer(8)),
        ("nc", ClassBalancedBuffer(8)),
        ("tasks", ClassBalancedBuffer(8)),
        ("xy", RawExemplars(2)),
    ):
        replay = quick_replay(policy, memory_batch=5, memory_augmentation="crop")
        recorder = Recorder(replay)
        model = multi_head() if kind == "tasks" else None
        trained(strategy_with(replay, recorder, model=model), stream_of(kind).train_stream)
        assert {int(batch["mask"].sum()) for batch in recorder.batches if batch["experience"] == 2} <= {5, 3}
        assert not any(bool(batch["mask"].any()) for batch in recorder.batches if batch["experience"] == 0)
        assert len(policy.buffer) in (8, 12)


@pytest.mark.parametrize(
    "options", [{"memory_batch": 0}, {"memory_augmentation": "colour"}, {"stream_augmentation": "x"}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        quick_replay(processed_policy(Budget(ipc=1)), **options)


def test_a_stream_that_does_not_fit_is_refused_before_anything_is_trained(stored):
    replay = quick_replay(processed_policy(Budget(ipc=1)))
    recorder = Recorder(replay)
    strategy = strategy_with(replay, recorder)
    with pytest.raises(ConfigError, match="hides where an experience ends"):
        trained(strategy, split_online_stream(stream_of().train_stream, 4))
    assert recorder.batches == []


def test_replay_in_an_online_stream(stored):
    policy = processed_policy(Budget(ipc=2))
    replay = quick_replay(policy)
    recorder = Recorder(replay)
    parts = split_online_stream(stream_of().train_stream, 5, access_task_boundaries=True, seed=0)
    trained(strategy_with(replay, recorder), parts)
    held = [int(batch["mask"].sum()) for batch in recorder.batches]
    assert held == [0] * 4 + [4] * 4 + [7] * 4  # 20 images in parts of 5; of 8 images in memory a batch takes 7
    assert len(policy.buffer) == 12


@pytest.mark.parametrize("kind", ["xy", "nc", "tasks"])
def test_only_memory_is_trained_on(stored, kind):
    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]))
    plugin, recorder = TrainFromMemory(policy, augmentation="none"), Recorder()
    model = multi_head() if kind == "tasks" else None
    strategy = strategy_with(plugin, recorder, model=model, epochs=2)
    trained(strategy, stream_of(kind).train_stream)
    seen: list[int] = []
    for experience, classes in enumerate(STEPS):
        seen += classes
        batches = [batch for batch in recorder.batches if batch["experience"] == experience]
        assert Counter(len(batch["labels"]) for batch in batches) == sizes_of(3 * len(seen), 7, epochs=2)
        for epoch in (0, 1):
            images = torch.cat([batch["images"] for batch in batches if batch["epoch"] == epoch])
            assert len(images) == 3 * len(seen)
            assert all(is_among(image, images) for image in stored.subset(seen).images)
        labels = torch.cat([batch["labels"] for batch in batches])
        assert Counter(labels.tolist()) == dict.fromkeys(seen, 6)
    if kind == "tasks":
        assert sorted(strategy.model.classifier.classifiers) == ["0", "1", "2"]


def sizes_of(images: int, batch: int, *, epochs: int) -> Counter:
    sizes = Counter(min(batch, images - start) for start in range(0, images, batch))
    return Counter({size: epochs * count for size, count in sizes.items()})


def test_from_memory_augments(stored):
    policy, recorder = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), Recorder()
    trained(strategy_with(TrainFromMemory(policy), recorder), stream_of().train_stream)
    images = torch.cat([batch["images"] for batch in recorder.batches])
    assert sum(is_among(image, stored.images) for image in images) < len(images) / 2


class Weights(Recorder):
    """Copies of the network and of the optimiser's state before the first batch of each experience."""

    def before_training_exp(self, strategy, **kwargs):
        super().before_training_exp(strategy)
        optimizer = strategy.optimizer
        parameters = list(strategy.model.parameters())
        self.start = getattr(self, "start", [])
        self.start.append(
            {
                "weights": copy.deepcopy(strategy.model.state_dict()),
                "momenta": [optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters],
                "optimised": all(
                    any(p is q for group in optimizer.param_groups for q in group["params"]) for p in parameters
                ),
                "count": sum(len(group["params"]) for group in optimizer.param_groups),
            }
        )


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_each_experience_starts_from_the_network_as_it_was(stored):
    policy, recorder = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), Weights()
    model = small_network(seed=5)
    first = copy.deepcopy(model.state_dict())
    strategy = trained(
        strategy_with(TrainFromMemory(policy), recorder, model=model, epochs=2), stream_of().train_stream
    )
    for start in recorder.start:
        assert same(start["weights"], first)
        assert start["momenta"] == [None] * 6
        assert start["optimised"]
        assert start["count"] == 6  # none of the networks before
    assert not same(strategy.model.state_dict(), first)
    assert len({id(network) for network in recorder.networks}) == 3


def test_fresh_networks_are_taken_as_they_come(stored):
    policy, recorder = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), Weights()
    plugin = TrainFromMemory(policy, fresh=lambda step: small_network(seed=step))
    strategy = trained(strategy_with(plugin, recorder), stream_of().train_stream)
    for step, start in enumerate(recorder.start):
        assert same(start["weights"], small_network(seed=step).state_dict())
        assert (start["momenta"], start["optimised"], start["count"]) == ([None] * 6, True, 6)
    assert strategy.model is recorder.networks[2]


def test_several_groups_of_parameters_keep_their_settings(stored):
    policy, recorder = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), Weights()
    model = small_network()
    *features, weight, bias = model.parameters()
    optimizer = torch.optim.Adam([{"params": features, "lr": 0.01}, {"params": [weight, bias], "lr": 0.1}])
    plugin = TrainFromMemory(policy, fresh=lambda step: small_network(seed=step))
    strategy = strategy_with(plugin, recorder, model=model, optimizer=optimizer)
    trained(strategy, stream_of().train_stream)
    *_, weight, bias = strategy.model.parameters()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
    assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(weight), id(bias)]
    assert all(start["optimised"] and start["count"] == 6 for start in recorder.start)


@pytest.mark.parametrize(("epochs", "rates"), [(1, [0.1]), (2, [0.1, 0.01]), (5, [0.1, 0.1, 0.01, 0.01, 0.01])])
def test_the_rate_falls_at_half_and_is_back_for_the_next(stored, epochs, rates):
    policy, recorder = processed_policy(Budget(ipc=1), supplier=PrecomputedSupplier([stored])), Recorder()
    trained(strategy_with(TrainFromMemory(policy), recorder, epochs=epochs), stream_of().train_stream)
    for experience in range(3):
        of_epoch = {b["epoch"]: b["lr"][0] for b in recorder.batches if b["experience"] == experience}
        assert [of_epoch[epoch] for epoch in range(epochs)] == pytest.approx(rates)


def test_the_rate_may_stay(stored):
    policy, recorder = processed_policy(Budget(ipc=1), supplier=PrecomputedSupplier([stored])), Recorder()
    trained(strategy_with(TrainFromMemory(policy, decay_at_half=False), recorder, epochs=4), stream_of().train_stream)
    assert {rate for batch in recorder.batches for rate in batch["lr"]} == {0.1}


@pytest.mark.parametrize("fresh", [None, lambda step: multi_head()], ids=["initial", "fresh"])
def test_multi_head_networks_are_tested_on_every_task(stored, fresh):
    benchmark = stream_of("tasks")
    policy, recorder = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), Weights()
    strategy = strategy_with(TrainFromMemory(policy, fresh=fresh), recorder, model=multi_head(), epochs=3)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        metrics = strategy.eval(benchmark.test_stream)
    assert 0 <= metrics["Top1_Acc_Stream/eval_phase/test_stream/Task002"] <= 1
    assert all(start["optimised"] for start in recorder.start)
    assert {name.split(".")[0] for name in strategy.model.classifier.classifiers.state_dict()} == {"0", "1", "2"}


def test_from_memory_waits_for_the_end_of_an_online_experience():
    policy, recorder = processed_policy(Budget(ipc=2), supplier=SELECTED), Weights()
    strategy = strategy_with(TrainFromMemory(policy), recorder, epochs=2)
    benchmark = stream_of()
    trained_on = []
    for part in split_online_stream(benchmark.train_stream, 5, access_task_boundaries=True, seed=0):
        before = len(recorder.batches)
        strategy.train(part)
        trained_on.append(sum(len(batch["labels"]) for batch in recorder.batches[before:]) // 2)
    assert trained_on == [0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 12]
    assert {tuple(batch["lr"]) for batch in recorder.batches if batch["epoch"] == 0} == {(0.1,)}
    assert strategy.eval(benchmark.test_stream)


def test_one_seed_gives_one_result_from_memory(stored):
    for kind in ("xy", "tasks"):

        def plugins():
            return [TrainFromMemory(processed_policy(Budget(ipc=2), supplier=PrecomputedSupplier([stored])))]

        assert torch.equal(final_weights(plugins, kind), final_weights(plugins, kind))


@pytest.mark.parametrize("kind", ["xy", "nc", "tasks"])
@pytest.mark.parametrize("name", ["replay", "gdumb"])
def test_avalanches_own_plugins_take_the_policy(stored, kind, name):
    from avalanche.training.plugins import GDumbPlugin, ReplayPlugin

    policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]))
    recorder = Recorder()
    if name == "replay":
        plugin = ReplayPlugin(mem_size=policy.max_size, storage_policy=policy)
    else:
        plugin = GDumbPlugin(policy.max_size)
        plugin.storage_policy = policy
    model = multi_head() if kind == "tasks" else None
    benchmark = stream_of(kind)
    strategy = trained(strategy_with(plugin, recorder, model=model), benchmark.train_stream)
    last = torch.cat([batch["images"] for batch in recorder.batches if batch["experience"] == 2])
    from_memory = sum(is_among(image, stored.images) for image in last)
    real = sum(is_among(image, REAL) for image in last)
    assert (from_memory > 0, real) == ((True, 20) if name == "replay" else (True, 0))
    assert from_memory + real == len(last)
    assert strategy.eval(benchmark.test_stream)


def test_a_strategy_that_takes_a_policy(stored):
    from avalanche.training.supervised import ER_ACE

    strategy = strategy_with(template=ER_ACE, mem_size=18, batch_size_mem=4)
    strategy.storage_policy = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored]))
    recorder = BufferRecorder()
    strategy.plugins.append(recorder)
    trained(strategy, stream_of("nc").train_stream)  # ER_ACE knows no other layout
    assert len(strategy.storage_policy.buffer) == 18
    assert recorder.images
    assert all(is_among(image, stored.images) for image in recorder.images)


class BufferRecorder(Recorder):
    """The memory images of each of ER_ACE's batches."""

    def __init__(self):
        super().__init__()
        self.images = []

    def before_forward(self, strategy, **kwargs):
        if strategy.replay_loader is not None:
            self.images += list(strategy.mb_buffer_x)


@pytest.mark.parametrize("kind", ["xy", "nc"])
def test_a_plugin_that_takes_a_policy(stored, kind):
    from avalanche.models import SimpleMLP
    from avalanche.training.plugins import RARPlugin

    policy, recorder = processed_policy(Budget(ipc=3), supplier=PrecomputedSupplier([stored])), Recorder()
    plugin = RARPlugin(mem_size=policy.max_size, storage_policy=policy, batch_size_mem=4)
    model = SimpleMLP(num_classes=6, input_size=192, hidden_size=8)  # RAR traces the network symbolically
    trained(strategy_with(plugin, recorder, model=model), stream_of(kind).train_stream)
    assert len(policy.buffer) == 18
    assert any(is_among(image, stored.images) for batch in recorder.batches[3:] for image in batch["images"])


def test_raw_exemplars_hold_a_number_of_each_class():
    for plugin, policy in ((RawReplay, RawExemplars(2)), (RawGDumb, RawExemplars(2))):
        benchmark = stream_of()
        strategy = strategy_with(plugin(policy))
        trained(strategy, benchmark.train_stream)
        assert Counter(policy.buffer.targets) == dict.fromkeys(range(6), 2)
        assert all(is_among(sample[0], REAL[DATA.train.labels == sample[1]]) for sample in policy.buffer)
        policy.post_adapt(strategy, benchmark.train_stream[1])  # a class that comes again keeps what it has
        assert len(policy.buffer) == policy.max_size == 12
        with pytest.raises(ConfigError, match="fixed number of images per class"):
            policy.resize(strategy, 3)


def test_the_papers_class_orders_and_steps():
    import numpy as np

    state = np.random.get_state()
    try:
        for order in range(3):
            np.random.seed(order)
            assert class_order(100, order) == np.random.permutation(100).tolist()
    finally:
        np.random.set_state(state)
    assert split_classes([5, 3, 1, 0, 2], 2) == [[5, 3, 1], [0, 2]]
    for steps in (0, 6):
        with pytest.raises(ConfigError, match=f"5 classes cannot be split into {steps} steps; choose 1 to 5"):
            split_classes([5, 3, 1, 0, 2], steps)


def test_a_benchmark_of_any_source():
    steps = split_classes(class_order(6, 1), 4)
    benchmark = make_benchmark(DATA, steps, STANDARDISED)
    assert [sorted(set(exp.dataset.targets)) for exp in benchmark.train_stream] == [sorted(part) for part in steps]
    assert [sorted(set(exp.dataset.targets)) for exp in benchmark.test_stream] == [sorted(part) for part in steps]
    image, label = benchmark.train_stream[2].dataset[0]
    assert is_among(image, REAL[DATA.train.labels == label])


@pytest.mark.parametrize("given", ["atom", None, type(SELECTED)])
def test_a_memory_without_a_supplier_is_refused_when_it_is_made(given):
    with pytest.raises(ConfigError, match="supplier must be an object such as DistillingSupplier"):
        SyntheticMemory(Budget(ipc=1), given)


@pytest.mark.parametrize("wrong", [{"source": "digits"}, {"stream_preprocessing": "standardised"}])
def test_a_memory_of_a_source_by_name_is_refused_when_it_is_made(wrong):
    with pytest.raises(ConfigError, match=rf"{next(iter(wrong))} must be a \w+, not str"):
        SyntheticMemory(Budget(ipc=1), SELECTED, **wrong)


@pytest.mark.parametrize("plugin", [SyntheticReplay, TrainFromMemory])
@pytest.mark.parametrize("given", ["memory.h5", Budget(ipc=1), SyntheticMemory])
def test_a_plugin_without_a_policy_is_refused_when_it_is_made(plugin, given):
    with pytest.raises(ConfigError, match="policy must be an object such as SyntheticMemory"):
        plugin(given)


def test_a_policy_in_the_place_of_a_plugin_is_refused_before_training():
    policy = processed_policy(Budget(ipc=1), supplier=SELECTED)
    with pytest.raises(ConfigError, match=r"not a plugin: .* plugins=\[SyntheticReplay\(memory\)\]"):
        strategy_with(policy).train(stream_of().train_stream[0])
