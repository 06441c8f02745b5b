"""What a captured function falls back to, with torch.cuda in play; and real graphs where there is a GPU."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from atom_plugin.runtime import cuda

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Play:
    """torch.cuda as far as capturing asks for it. Recording runs the function, which a real one does not; replaying does
    what ``replays`` says. ``current`` is the current device, ``used`` the one at each recording, replay and wait."""

    def __init__(self, replays):
        self.current, self.used, self.fails = None, [], False
        play = self

        class Graph:
            def replay(self):
                play.used.append(("replay", play.current))
                replays()

        @contextmanager
        def device(which):
            before, play.current = play.current, which
            yield
            play.current = before

        @contextmanager
        def graph(recorded, **options):
            if play.fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            play.used.append(("graph", play.current))
            yield

        @contextmanager
        def stream(which):
            play.used.append(("warm-up", play.current))
            yield

        def a_stream():
            return SimpleNamespace(wait_stream=lambda other: None)

        self.module = SimpleNamespace(
            device=device,
            graph=graph,
            stream=stream,
            Stream=a_stream,
            current_stream=a_stream,
            CUDAGraph=Graph,
            synchronize=lambda which: play.used.append(("wait", which)),
        )


@pytest.fixture
def value():
    return torch.ones(2)


def captured(monkeypatch, value, *, replays=lambda: None, fails=False):
    play = Play(replays)
    play.fails = fails
    monkeypatch.setattr(cuda.torch, "cuda", play.module)

    def run():
        value.add_(1)

    return run, cuda.captured(run, changed=[value]), play


def test_what_cannot_be_captured_runs_without(monkeypatch, caplog, value):
    run, found, _ = captured(monkeypatch, value, fails=True)
    assert found is run
    assert value.tolist() == [1, 1]
    assert "not captured as a CUDA graph (operation not permitted when stream is capturing)" in caplog.text
    assert len(caplog.records) == 1


def test_a_graph_of_nothing_is_noticed_and_left(monkeypatch, caplog, value):
    run, found, _ = captured(monkeypatch, value, replays=lambda: None)
    assert found is run
    assert value.tolist() == [1, 1]
    assert "not captured as a CUDA graph (the graph does not do what was recorded)" in caplog.text
    assert len(caplog.records) == 1


def test_a_graph_is_recorded_and_replayed_on_the_device_of_its_tensors(monkeypatch, caplog, value):
    run, found, play = captured(monkeypatch, value, replays=lambda: value.add_(1))
    assert found is not run
    assert value.tolist() == [1, 1], "capturing computes nothing"
    found()
    assert value.tolist() == [2, 2]
    assert [what for what, _ in play.used] == ["warm-up", "graph", "replay", "wait", "replay"]
    assert {where for _, where in play.used} == {value.device}
    assert play.current is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (lambda x: x.add_(1), True),
        (lambda x: x.add_(1.001), True),
        (lambda x: None, False),
        (lambda x: x.clone().add_(1), False),
        (lambda x: x.sub_(1), False),
        (lambda x: x[:1].add_(1), False),
    ],
    ids=["the same", "rounded", "nothing", "elsewhere", "another way", "in part"],
)
def test_two_functions_have_the_same_effect_or_not(other, same):
    floats, counts = torch.arange(3.0), torch.tensor(5)

    def plain():
        floats.add_(1)
        counts.add_(1)

    def second():
        other(floats)
        counts.add_(1)

    assert cuda.same_effect(plain, second, changed=[floats, counts]) is same
    assert floats.tolist() == [0, 1, 2]
    assert counts.item() == 5


def test_what_does_not_move_has_to_stay():
    still, moving = torch.ones(2), torch.zeros(2)
    assert cuda.same_effect(lambda: moving.add_(1), lambda: moving.add_(1), changed=[still, moving])
    assert not cuda.same_effect(
        lambda: moving.add_(1), lambda: (moving.add_(1), still.add_(0.1)), changed=[still, moving]
    )


def test_both_may_blow_up_alike():
    value = torch.ones(2)
    assert cuda.same_effect(lambda: value.mul_(torch.nan), lambda: value.mul_(torch.nan), changed=[value])


@needs_gpu
def test_a_real_graph_on_the_last_device():
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    value = torch.ones(2, device=device)
    replay = cuda.captured(lambda: value.add_(1), changed=[value])
    assert value.tolist() == [1, 1]
    replay()
    replay()
    assert value.tolist() == [3, 3]
