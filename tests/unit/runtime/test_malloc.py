import platform
import resource

import pytest
import torch

from atom_plugin.runtime.malloc import reuse_freed_memory

PAGES = 64 * 2**20 // resource.getpagesize()


def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.ones(64 * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands memory back so eagerly")
def test_large_tensors_reuse_memory_inside_and_only_there():
    outside = faults()
    if outside < 5 * PAGES:
        pytest.skip("this machine maps large pages: there is nothing to save")
    with reuse_freed_memory():
        faults()  # the heap grows, in more than one place where other tests have left holes in it
        faults()
        with reuse_freed_memory():
            assert faults() < outside / 2
        assert faults() < outside / 2, "leaving an inner context must not end the outer one"
    assert faults() >= PAGES


def test_it_does_nothing_elsewhere(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with reuse_freed_memory():
        assert torch.ones(3).sum() == 3
