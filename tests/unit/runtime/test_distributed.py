import os
import time

import pytest
import torch
from groups import in_processes
from small import coloured_source, small_config

from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, ProcessError
from atom_plugin.matchers import make_matcher
from atom_plugin.models.batchnorm import share_batch_norm
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime import distributed
from atom_plugin.runtime.randomness import generator_for


def test_alone_nothing_is_initialised_and_nothing_changes():
    values = torch.arange(3.0)
    with distributed.joined("cpu"):
        assert (distributed.rank(), distributed.count(), distributed.leads()) == (0, 1, True)
        assert distributed.summed(values) is values
        assert distributed.gathered(values, [range(3)]) is values
        assert distributed.highest(2.5) == 2.5
        assert list(distributed.share("abc")) == ["a", "b", "c"]
        distill(small_config(iterations=1), coloured_source(), device="cpu")
    assert not torch.distributed.is_initialized()


def test_one_process_of_torchrun_is_alone(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not distributed.launched()
    with distributed.joined("cpu"):
        assert not torch.distributed.is_initialized()


def exchange():
    with distributed.joined("cpu"):
        rank = distributed.rank()
        parts = [range(1), range(1, 4), range(4, 6)]
        own = parts[rank]
        found = {
            "rank": rank,
            "share": list(distributed.share(range(7))),
            "summed": distributed.summed(torch.tensor([1.0 + rank])).tolist(),
            "highest": distributed.highest(-float(rank)),
            "not a number": distributed.highest(float("nan") if rank == 1 else 0.0),
            "gathered": distributed.gathered(torch.arange(own.start, own.stop), parts).tolist(),
        }
        given = torch.tensor([rank])
        distributed.agree([given])
        with distributed.alone():
            found["alone"] = (distributed.count(), distributed.summed(torch.tensor([7.0])).tolist())
        return {**found, "agreed": given.tolist(), "count": distributed.count()}


def test_what_three_processes_tell_each_other():
    for rank, found in enumerate(in_processes(3, exchange)):
        assert (found["rank"], found["count"]) == (rank, 3)
        assert found["share"] == list(range(7))[rank::3]
        assert found["summed"] == [6.0]
        assert (found["highest"], found["not a number"]) == (0.0, float("inf"))
        assert found["gathered"] == list(range(6))
        assert found["agreed"] == [0]
        assert found["alone"] == (1, [7.0])


def deal():
    with distributed.dealt("cpu"):
        own = list(distributed.share(["a", "b", "c"]))
        with distributed.alone():
            return own, distributed.count(), torch.distributed.is_initialized()


def test_independent_runs_are_dealt_without_a_group():
    assert in_processes(2, deal) == [(["a", "c"], 1, False), (["b"], 1, False)]


def lose_one():
    with distributed.joined("cpu"):
        distributed.highest(0.0)
        if distributed.rank() == 1:
            os._exit(9)
        started = time.monotonic()
        with pytest.raises(ProcessError, match="process 0 of 2 lost the others: one of them ended") as caught:
            distributed.summed(torch.ones(3))
        return time.monotonic() - started, str(caught.value)


def test_a_process_that_dies_is_noticed_at_once_in_one_line():
    (seconds, line), dead = in_processes(2, lose_one)
    assert dead is None
    assert seconds < 20
    assert "\n" not in line


def ask_for(device):
    with pytest.raises(ConfigError) as caught, distributed.joined(device):
        pass
    return str(caught.value)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert "'cuda' is not available" in ask_for("cuda")
    assert "not on mps; give --device cpu" in ask_for("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "2 processes on a machine with 1 GPUs; start one per GPU" in ask_for("auto")


def plain_gradient(share):
    """The gradient of the summed losses of both halves, as the plain path of accelerators takes it."""
    network = ConvNetConfig(depth=2, width=4, normalisation="batch").build(
        (3, 8, 8), classes=4, generator=generator_for(0, "network")
    )
    network.double().requires_grad_(False)
    images = torch.randn(12, 3, 8, 8, generator=generator_for(0, "images"), dtype=torch.float64)
    images = images * torch.arange(1, 13).view(-1, 1, 1, 1)
    matcher = make_matcher("atom")
    with distributed.joined("cpu"):
        rows, groups = (
            (slice(None), 4) if not share else ((slice(0, 3), 1) if distributed.leads() else (slice(3, 12), 3))
        )
        own = images[rows].requires_grad_()
        if share:
            share_batch_norm(network)
        loss = sum(statistic.square().sum() for statistic in matcher.statistics(network.features(own, groups=groups)))
        gradient = torch.autograd.grad(loss, own)[0]
        return float(distributed.summed(loss.detach())), gradient


def test_the_plain_path_normalises_by_all_processes_images():
    loss, gradient = plain_gradient(False)
    found = in_processes(2, plain_gradient, True)
    assert [value for value, _ in found] == pytest.approx([loss, loss], rel=1e-12)
    torch.testing.assert_close(torch.cat([part for _, part in found]), gradient, rtol=1e-9, atol=1e-12)
