import threading
import time

import pytest
import torch

from atom_plugin.distillation.engine.prefetch import Prefetcher

ROWS = torch.arange(40).view(20, 2)


def test_rows_are_the_same_announced_or_not():
    calls: list[tuple[str, list[int]]] = []

    def read(indices: torch.Tensor) -> torch.Tensor:
        calls.append((threading.current_thread().name, indices.tolist()))
        return ROWS[indices]

    prefetcher = Prefetcher(read)
    parts = [torch.tensor(part) for part in ([3, 1], [4], [1, 5], [9])]
    assert torch.equal(prefetcher.take(parts[0], ahead=parts[1]), ROWS[parts[0]])
    assert torch.equal(prefetcher.take(parts[1], ahead=parts[0]), ROWS[parts[1]])
    assert torch.equal(prefetcher.take(parts[2]), ROWS[parts[2]]), "a wrong announcement changes nothing"
    assert torch.equal(prefetcher.take(parts[3]), ROWS[parts[3]])
    prefetcher.close()
    assert [indices for _, indices in calls] == [[3, 1], [4], [3, 1], [1, 5], [9]]
    assert [name.startswith("atom-prefetch") for name, _ in calls] == [False, True, True, False, False]


def test_the_announced_is_read_meanwhile():
    read_ahead = threading.Event()

    def read(indices: torch.Tensor) -> torch.Tensor:
        if int(indices[0]) == 1:
            read_ahead.set()
        return ROWS[indices]

    prefetcher = Prefetcher(read)
    prefetcher.take(torch.tensor([0]), ahead=torch.tensor([1]))
    assert read_ahead.wait(timeout=10)
    prefetcher.close()


def test_a_failure_in_the_thread_is_raised_where_its_rows_are_asked_for():
    def read(indices: torch.Tensor) -> torch.Tensor:
        if int(indices[0]) == 7:
            raise OSError("the disk is gone")
        return ROWS[indices]

    prefetcher = Prefetcher(read)
    prefetcher.take(torch.tensor([0]), ahead=torch.tensor([7]))
    assert torch.equal(prefetcher.take(torch.tensor([1])), ROWS[[1]]), "nobody asked for 7"
    prefetcher.take(torch.tensor([0]), ahead=torch.tensor([7]))
    with pytest.raises(OSError, match="the disk is gone"):
        prefetcher.take(torch.tensor([7]))
    prefetcher.close()


def test_close_ends_the_thread_and_a_later_take_starts_another():
    def threads() -> int:
        return sum(thread.name.startswith("atom-prefetch") for thread in threading.enumerate())

    prefetcher = Prefetcher(lambda indices: ROWS[indices])
    before = threads()
    prefetcher.take(torch.tensor([0]), ahead=torch.tensor([1]))
    assert threads() == before + 1
    prefetcher.close()
    prefetcher.close()
    assert threads() == before
    assert torch.equal(prefetcher.take(torch.tensor([1]), ahead=torch.tensor([0])), ROWS[[1]])
    prefetcher.close()


def test_a_dropped_prefetcher_leaves_no_thread():
    prefetcher = Prefetcher(lambda indices: ROWS[indices])
    prefetcher.take(torch.tensor([0]), ahead=torch.tensor([1]))
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("atom-prefetch")][-1]
    del prefetcher
    deadline = time.monotonic() + 10
    while mine.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not mine.is_alive()
