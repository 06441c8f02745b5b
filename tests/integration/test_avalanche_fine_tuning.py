"""Balanced fine-tuning: which steps a strategy takes on the memory alone, and what it leaves as it was."""

from __future__ import annotations

import itertools

import pytest
import torch
from avalanche_streams import (
    SELECTED,
    Recorder,
    is_among,
    processed_policy,
    small_network,
    split_online_stream,
    strategy_with,
    stream_of,
    trained,
)

from atom_plugin.errors import ConfigError
from atom_plugin.integrations.avalanche import SyntheticReplay
from atom_plugin.integrations.avalanche.fine_tuning import fine_tune
from atom_plugin.replay.memory import Budget
from atom_plugin.transforms.augmentation import Augmentation

NONE = Augmentation(strategy="none")


class Criterion(torch.nn.CrossEntropyLoss):
    """Remembers the labels of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[list[int]] = []

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.labels.append(labels.tolist())
        return super().forward(logits, labels)


def after(steps: int, *experiences, kind: str = "xy", seed: int = 0):
    """A strategy after some experiences with so many steps of fine-tuning each, and the labels of all its batches."""
    criterion = Criterion()
    policy = processed_policy(Budget(ipc=2), supplier=SELECTED)
    replay = SyntheticReplay(policy, finetune_steps=steps, finetune_augmentation="none", seed=seed)
    strategy = strategy_with(replay, criterion=criterion)
    torch.manual_seed(0)
    trained(strategy, [stream_of(kind).train_stream[number] for number in experiences])
    return strategy, criterion.labels


@pytest.mark.parametrize("kind", ["xy", "nc"])
def test_so_many_steps_follow_each_experience_on_all_classes_so_far(kind):
    _, without = after(0, 0, 1, kind=kind)
    strategy, labels = after(3, 0, 1, kind=kind)
    assert len(labels) == len(without) + 2 * 3
    first = len(labels) // 2 - 3
    assert labels[:first] == without[:first]
    assert all(sorted(batch) == [0, 0, 3, 3] for batch in labels[first : first + 3])
    # Eight images in batches of seven: the seventh to eighth of a round are a batch of one.
    rounds = [sorted([*labels[-3], *labels[-2]]), labels[-1]]
    assert rounds[0] == [0, 0, 1, 1, 3, 3, 5, 5]
    assert len(rounds[1]) == 7
    assert strategy.optimizer.param_groups[0]["lr"] == 0.1


def test_none_is_what_it_was_without(monkeypatch):
    left, _ = after(0, 0, 1)
    right = strategy_with(
        SyntheticReplay(processed_policy(Budget(ipc=2), supplier=SELECTED), finetune_steps=0),
        criterion=torch.nn.CrossEntropyLoss(),
    )
    torch.manual_seed(0)
    trained(right, stream_of().train_stream[:2])
    for name, value in left.model.state_dict().items():
        assert torch.equal(value, right.model.state_dict()[name])


def test_it_is_sgd_on_the_batches_by_the_book():
    """Against a loop that knows nothing of strategies: rate and a tenth of it from half on, momentum carried over."""
    generator = torch.Generator().manual_seed(0)
    batches = [[torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3])] for _ in range(2)]
    strategy = strategy_with()
    strategy.experience = stream_of().train_stream[0]
    fine_tune(strategy, batches, steps=5, augmentation=NONE, generator=generator)

    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step, (images, labels) in zip(range(5), itertools.cycle(batches), strict=False):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 3 else 0.1 * 0.1
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        assert torch.equal(strategy.model.state_dict()[name], value)


def test_images_are_augmented_one_by_one_and_the_same_again():
    weights = []
    for _ in range(2):
        policy = processed_policy(Budget(ipc=2), supplier=SELECTED)
        replay = SyntheticReplay(policy, finetune_steps=4, finetune_augmentation="flip_scale")
        torch.manual_seed(0)
        strategy = trained(strategy_with(replay), stream_of().train_stream[:1])
        weights.append(torch.cat([each.flatten() for each in strategy.model.parameters()]))
    assert torch.equal(*weights)
    plain = torch.cat([each.flatten() for each in after(4, 0)[0].model.parameters()])
    assert not torch.equal(weights[0], plain)


def test_the_plugin_before_other_plugins_sees_the_stream_alone():
    """Hooks of others (here: the recorder) are not called for steps of fine-tuning."""
    policy = processed_policy(Budget(ipc=2), supplier=SELECTED)
    replay = SyntheticReplay(policy, finetune_steps=3)
    recorder = Recorder(replay)
    trained(strategy_with(replay, recorder), stream_of().train_stream[:1])
    assert len(recorder.batches) == 3  # 20 images by 7
    real = policy.memory.images.decoded().images
    assert not all(is_among(image, real) for batch in recorder.batches for image in batch["images"])


def test_parts_of_an_online_experience_wait_for_its_end():
    criterion = Criterion()
    policy = processed_policy(Budget(ipc=2), supplier=SELECTED)
    strategy = strategy_with(SyntheticReplay(policy, finetune_steps=3), criterion=criterion)
    stream = stream_of("nc")
    steps = []
    for part in split_online_stream(stream.train_stream[:1], experience_size=10, access_task_boundaries=True):
        before = len(criterion.labels)
        strategy.train(part)
        steps.append(len(criterion.labels) - before)
    assert steps == [2, 2 + 3]  # 10 images by 7, and fine-tuning behind the last


def test_fewer_than_no_steps_are_refused():
    with pytest.raises(ConfigError, match=r"finetune_steps must be at least 0, not -1"):
        SyntheticReplay(processed_policy(Budget(ipc=2), supplier=SELECTED), finetune_steps=-1)
