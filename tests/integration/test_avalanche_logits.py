"""Logits of the memory's images as targets (DER, DER++) in Avalanche's loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche_streams import (
    SELECTED,
    SMALL,
    Recorder,
    batch_normalised,
    processed_policy,
    small_network,
    split_online_stream,
    strategy_with,
    stream_of,
    trained,
)
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.integrations.avalanche import SyntheticMemory, SyntheticReplay, TrainFromMemory
from atom_plugin.integrations.avalanche.state import load_stream, save_stream
from atom_plugin.replay.logits import logit_loss
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.replay.suppliers import SelectingSupplier

PACKED = SelectingSupplier(overrides={**SMALL, "storage": "uint8", "factor": 2})
REPLAY = {"finetune_steps": 0, "asymmetric_loss": False, "memory_augmentation": "none"}


def keeping(budget: Budget | None = None, supplier: Any = SELECTED, **options: Any) -> SyntheticMemory:
    return processed_policy(ReplayMemory(budget or Budget(ipc=2), keep_logits=True), supplier=supplier, **options)


def plugin_of(mode: str, policy: SyntheticMemory, **options: Any) -> Any:
    if mode == "replay":
        return SyntheticReplay(policy, **{**REPLAY, **options})
    return TrainFromMemory(policy, augmentation="none", **options)


def outputs_of(network: torch.nn.Module, policy: SyntheticMemory) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(policy.memory.images.decoded().images)


@pytest.mark.parametrize("mode", ["replay", "from-memory"])
@pytest.mark.parametrize("supplier", [SELECTED, PACKED], ids=["single", "packed"])
def test_an_experience_ends_with_the_networks_outputs_for_the_images_that_it_brought(mode, supplier):
    policy = keeping(supplier=supplier)
    strategy = strategy_with(
        plugin_of(mode, policy, memory_labels="both"), model=batch_normalised() if mode == "replay" else None
    )
    stream = stream_of().train_stream
    strategy.train(stream[0])
    assert strategy.model.training
    first = policy.memory.logits
    torch.testing.assert_close(first, outputs_of(strategy.model, policy), rtol=2e-3, atol=2e-3)
    strategy.model.train()
    strategy.train(stream[1])
    old = torch.isin(policy.memory.images.decoded_labels, torch.tensor([0, 3]))
    second = policy.memory.logits
    assert torch.equal(second[old], first)
    torch.testing.assert_close(second[~old], outputs_of(strategy.model, policy)[~old], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["logits", "both"])
@pytest.mark.parametrize("tasks", ["xy", "nc"])
def test_a_step_is_der_by_the_book(kind, tasks):
    """One step of the second experience, against a step that is written out."""
    policy = keeping()
    replay = SyntheticReplay(policy, **REPLAY, memory_labels=kind, logit_weight=0.7)
    recorder = Recorder(replay)
    strategy = trained(strategy_with(replay, recorder), stream_of(tasks).train_stream[:1])
    network, images = small_network(), policy.memory.images
    network.load_state_dict(strategy.model.state_dict())
    logits = policy.memory.logits
    strategy.train_mb_size = 100
    strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.1)
    strategy.train(stream_of(tasks).train_stream[1])
    batch = recorder.batches[-1]
    own = ~batch["mask"]
    outputs = network(batch["images"])
    rows = [int((images.images == image).flatten(1).all(1).nonzero()) for image in batch["images"][~own]]
    taught = own if kind == "logits" else torch.ones_like(own)
    loss = F.cross_entropy(outputs[taught], batch["labels"][taught], reduction="sum") / len(outputs)
    loss = loss + 0.7 * logit_loss(outputs[~own], logits[rows])
    loss.backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(strategy.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["logits", "both"])
def test_from_memory_a_network_learns_the_logits_of_the_networks_before(kind):
    def gap(labels: str) -> float:
        """The difference, after two experiences, from the logits that were stored after the first."""
        policy, network = keeping(Budget(ipc=3)), small_network()
        plugin = plugin_of("from-memory", policy, memory_labels=labels, logit_weight=1.0)
        strategy = strategy_with(
            plugin, model=network, epochs=20, optimizer=torch.optim.SGD(network.parameters(), lr=0.01)
        )
        torch.manual_seed(0)
        strategy.train(stream_of().train_stream[0])
        if labels == "hard":
            policy.memory.store_logits(outputs_of(strategy.model, policy))
        strategy.train(stream_of().train_stream[1])
        old = torch.isin(policy.memory.images.labels, torch.tensor([0, 3]))
        return float(logit_loss(outputs_of(strategy.model, policy)[old], policy.memory.logits[old]))

    assert gap(kind) < 0.7 * gap("hard")


def test_a_head_that_grows_with_the_classes():
    from avalanche.models import IncrementalClassifier

    class Growing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = torch.nn.Flatten()
            self.classifier = IncrementalClassifier(3 * 8 * 8, initial_out_features=2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.body(images))

    policy = keeping()
    strategy = strategy_with(SyntheticReplay(policy, **REPLAY, memory_labels="both"), model=Growing())
    trained(strategy, stream_of().train_stream)
    arrived = {0: 4, 3: 4, 1: 6, 5: 6, 2: 6, 4: 6}  # heads: up to the highest class so far
    labels = policy.memory.images.labels.tolist()
    for label, row in zip(labels, policy.memory.logits, strict=True):
        assert row.isfinite().nonzero().flatten().tolist() == [*range(arrived[label])]


def test_parts_of_an_online_experience_wait_for_its_end():
    policy = keeping()
    strategy = strategy_with(SyntheticReplay(policy, **REPLAY, memory_labels="both"))
    stream = stream_of("nc").train_stream[:1]
    found = []
    for part in split_online_stream(stream, experience_size=10, access_task_boundaries=True):
        strategy.train(part)
        found.append(policy.memory.logits.isfinite().sum().item())
    assert found == [0, 4 * 6]


def test_fine_tuning_takes_the_classes_alone():
    found = []
    for kind in ("hard", "both"):
        policy, network = keeping(), small_network()
        replay = SyntheticReplay(policy, **{**REPLAY, "finetune_steps": 3}, memory_labels=kind, logit_weight=9.0)
        strategy = strategy_with(replay, model=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.1))
        torch.manual_seed(0)
        strategy.train(stream_of().train_stream[0])
        replay.before_backward = lambda strategy, **kwargs: (
            None
        )  # of the second experience, no term in the joint batches
        strategy.train(stream_of().train_stream[1])
        found.append(torch.cat([each.flatten() for each in strategy.model.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("mode", ["replay", "from-memory"])
@pytest.mark.parametrize("kind", ["logits", "both"])
def test_stopped_and_continued_gives_the_same_bytes(tmp_path, mode, kind):
    def made() -> tuple[Any, SyntheticMemory]:
        policy = keeping(supplier=PACKED)
        options = {"finetune_steps": 3, "memory_augmentation": "flip_crop"}
        plugin = plugin_of(mode, policy, memory_labels=kind, **(options if mode == "replay" else {}))
        return strategy_with(plugin, model=batch_normalised()), policy

    torch.manual_seed(3)
    whole, held = made()
    trained(whole, stream_of().train_stream)
    torch.manual_seed(3)
    strategy, policy = made()
    for number in range(3):
        strategy.train(stream_of().train_stream[number])
        save_stream(tmp_path / "state", strategy, policy)
        strategy, policy = made()
        load_stream(tmp_path / "state", strategy, policy)
    policy.save(tmp_path / "stopped.h5")
    held.save(tmp_path / "whole.h5")
    assert (tmp_path / "stopped.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(strategy.model.state_dict()[name], value)


def test_a_budget_in_bytes_asks_a_supplier_for_what_fits_with_logits():
    class Spy(SelectingSupplier):
        def supply(self, data, classes, *, ipc, preprocessing):
            asked.append(ipc)
            return super().supply(data, classes, ipc=ipc, preprocessing=preprocessing)

    asked: list[int] = []
    each = 3 * 8 * 8 + 4 * 6 * 2  # uint8 pixels, and float16 for six classes of four tiles
    spy = Spy(overrides={**SMALL, "storage": "uint8", "factor": 2})
    policy = keeping(Budget(max_bytes=8 * each), supplier=spy)
    strategy = strategy_with(SyntheticReplay(policy, **REPLAY, memory_labels="both"))
    trained(strategy, stream_of().train_stream)
    assert asked == [4, 2, 1]  # eight images of two, four and six classes, two of classes 0 and 1
    assert policy.memory.bytes == 8 * each


def test_labels_that_need_logits_need_a_memory_that_keeps_them(tmp_path):
    plain = processed_policy(Budget(ipc=2), supplier=SELECTED)
    for plugin in (SyntheticReplay, TrainFromMemory):
        with pytest.raises(ConfigError, match=r"memory_labels 'logits'.*keep_logits=True"):
            plugin(plain, memory_labels="logits")
        with pytest.raises(ConfigError, match="'soft'"):
            plugin(plain, memory_labels="soft")
        with pytest.raises(ConfigError, match="-1"):
            plugin(plain, logit_weight=-1.0)
    plain.post_adapt(None, stream_of().train_stream[0])
    plain.save(tmp_path / "plain.h5")
    with pytest.raises(ConfigError, match=r"keeps no logits, .*keep_logits=False"):
        keeping().load(tmp_path / "plain.h5")
