"""A pass of the memory through the network that is normalised on its own, in Avalanche's loop."""

from __future__ import annotations

import pytest
import torch
from avalanche_streams import (
    SELECTED,
    Recorder,
    batch_normalised,
    processed_policy,
    quick_replay,
    small_network,
    strategy_with,
    stream_of,
)
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.replay.memory import Budget


class Criterion(torch.nn.CrossEntropyLoss):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.given.append((logits, labels))
        return super().forward(logits, labels)


def test_separate_passes_are_two_passes_by_the_book():
    """Outputs, gradients and running statistics of a step, against two passes that are written out."""
    policy = processed_policy(Budget(ipc=2), supplier=SELECTED)
    replay = quick_replay(policy, separate_normalisation=True)
    recorder, criterion = Recorder(), Criterion()
    strategy = strategy_with(recorder, replay, model=batch_normalised(), criterion=criterion)
    strategy.train(stream_of().train_stream[0])
    network = batch_normalised()
    network.load_state_dict(strategy.model.state_dict())
    strategy.train_mb_size = 100
    strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.1)
    strategy.train(stream_of().train_stream[1])
    images, labels = recorder.batches[-1]["images"], recorder.batches[-1]["labels"]
    assert len(images) == 20 + 4
    outputs = torch.cat([network(images[:20]), network(images[20:])])
    torch.testing.assert_close(criterion.given[-1][0], outputs)
    assert torch.equal(criterion.given[-1][1], labels)
    F.cross_entropy(outputs, labels).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(strategy.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    shared = small_network()
    with torch.no_grad():
        assert not torch.allclose(batch_normalised()(images)[:20], batch_normalised()(images[:20]))
        assert torch.allclose(shared(images)[:20], shared(images[:20]), atol=1e-5)


@pytest.mark.parametrize("kind", ["nc", "tasks"])
def test_separate_passes_of_streams_with_tasks_keep_mask_and_batch(kind):
    replay = quick_replay(processed_policy(Budget(ipc=2), supplier=SELECTED), separate_normalisation=True)
    criterion = Criterion()
    strategy = strategy_with(replay, model=batch_normalised(), criterion=criterion)
    for step, experience in enumerate(stream_of(kind).train_stream):
        before = len(criterion.given)
        strategy.train(experience)
        for logits, labels in criterion.given[before:]:
            assert len(logits) == len(labels)
            assert (len(logits) > 7) == (step > 0) or len(logits) == 6 + 4 * step


def test_separate_normalisation_needs_batch_normalisation():
    policy = processed_policy(Budget(ipc=2), supplier=SELECTED)
    strategy = strategy_with(quick_replay(policy, separate_normalisation=True))
    with pytest.raises(ConfigError, match=r"without batch normalisation.*separate_normalisation"):
        strategy.train(stream_of().train_stream[0])
