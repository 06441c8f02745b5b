import multiprocessing
import threading
from contextvars import ContextVar

import pytest
import torch

from atom_plugin.runtime.threads import parallel_map


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_items(threads):
    assert parallel_map(lambda item: item * item, range(50)) == [item * item for item in range(50)]
    assert parallel_map(lambda item: item, []) == []


def test_items_run_in_threads_of_one_torch_thread_each(threads):
    barrier = threading.Barrier(threads, timeout=20)

    def run(item):
        barrier.wait()  # passes only where as many items are under way as there are threads
        return threading.get_ident(), torch.get_num_threads()

    seen = parallel_map(run, range(threads))
    assert len({ident for ident, _ in seen}) == threads
    assert {count for _, count in seen} == {1}
    assert torch.get_num_threads() == threads


def test_gradients_are_off_unless_turned_on(threads):
    weight = torch.ones(2, requires_grad=True)
    assert not any(parallel_map(lambda item: (weight * item).requires_grad, range(4)))
    with torch.no_grad():
        assert not any(parallel_map(lambda item: (weight * item).requires_grad, range(4)))


def test_autocast_is_the_callers(threads):
    def kind(item):
        return torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype

    assert set(parallel_map(kind, range(4))) == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert set(parallel_map(kind, range(4))) == {torch.bfloat16}


def test_context_variables_are_the_callers(threads):
    variable = ContextVar("variable", default="outside")

    def seen(item):
        return variable.get()

    assert parallel_map(seen, range(4)) == ["outside"] * 4  # the threads exist before it is set
    variable.set("here")
    assert parallel_map(seen, range(4)) == ["here"] * 4


def test_an_exception_is_raised_and_threads_stay_usable(threads):
    def fail(item):
        if item == 2:
            raise ValueError("item 2")
        return item

    with pytest.raises(ValueError, match="item 2"):
        parallel_map(fail, range(5))
    assert torch.get_num_threads() == threads
    assert parallel_map(lambda item: item, range(3)) == [0, 1, 2]


def test_a_call_from_within_runs_where_it_is_made(threads):
    def outer(item):
        here = threading.get_ident()
        assert set(parallel_map(lambda _: threading.get_ident(), range(3))) == {here}
        return item

    assert parallel_map(outer, range(8)) == list(range(8))


def test_a_forked_child_makes_threads_of_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        parallel_map(lambda item: item, range(4))
        context = multiprocessing.get_context("fork")
        found = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(found,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert found.get() == [0, 1, 2, 3]
    finally:
        torch.set_num_threads(before)


def _in_child(found):
    found.put(parallel_map(lambda item: item, range(4)))
