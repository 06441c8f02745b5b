"""What keeps earlier classes in replay: balanced fine-tuning on the memory alone, and the asymmetric loss."""

from __future__ import annotations

import itertools

import pytest
import torch
from avalanche_streams import (
    SELECTED,
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
    replay = quick_replay(policy, finetune_steps=steps, finetune_augmentation="none", seed=seed)
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


class Logits(torch.nn.Module):
    """Cross entropy that remembers what it was given, first that of the stream's samples."""

    def __init__(self, replay: SyntheticReplay) -> None:
        super().__init__()
        self.replay = replay
        self.given: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mask = None if self.replay.memory_mask is None else self.replay.memory_mask.clone()
        self.given.append((logits.detach().clone(), labels, mask))
        return torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("kind", ["xy", "nc"])
def test_the_streams_samples_compete_with_their_own_experience_alone(kind):
    replay = quick_replay(processed_policy(Budget(ipc=2), supplier=SELECTED), asymmetric_loss=True)
    criterion = Logits(replay)
    trained(strategy_with(replay, criterion=criterion), stream_of(kind).train_stream[:2])
    first, second = criterion.given[:3], criterion.given[3:]
    assert all(logits.isfinite().all() for logits, _, _ in first)  # nothing comes before the first experience
    for logits, labels, held in second:
        assert held is not None
        assert logits[held].isfinite().all()
        assert logits[~held].isfinite().nonzero()[:, 1].unique().tolist() == [1, 5]
        assert set(labels[~held].tolist()) <= {1, 5}


def test_the_loss_is_er_aces_by_the_book():
    replay = quick_replay(processed_policy(Budget(ipc=2), supplier=SELECTED), asymmetric_loss=True)
    criterion = Logits(replay)
    strategy = trained(strategy_with(replay, criterion=criterion), stream_of().train_stream[:1])
    losses: list[torch.Tensor] = []
    strategy._criterion = lambda logits, labels: losses.append(criterion(logits, labels)) or losses[-1]
    plain: list[torch.Tensor] = []
    hook = strategy.model.register_forward_hook(lambda module, given, made: plain.append(made.detach().double()))
    strategy.train(stream_of().train_stream[1])
    hook.remove()
    assert len(plain) == len(losses) == 3
    for logits, (_, labels, held), loss in zip(plain, criterion.given[3:], losses, strict=True):
        terms = [
            -(row[label] - torch.logsumexp(row if memory else row[[1, 5]], 0))
            for row, label, memory in zip(logits, labels, held, strict=True)
        ]
        torch.testing.assert_close(loss.detach().double(), torch.stack(terms).mean(), rtol=1e-5, atol=1e-6)
