"""What a recorded step asks of the device: nothing that the host waits for, and no more operations than before."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from small import coloured_source, small_config
from torch.utils._python_dispatch import TorchDispatchMode

from atom_plugin.distillation import distiller
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.engine.step import compare
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms import augmentation
from atom_plugin.transforms.resampling import resample_gathering

PAGE = Path(__file__).parents[4] / "docs" / "performance-gpu.md"
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
# By whether our own kernels run: torch's operations that compute or move something, and launches of ours. They may only fall.
COUNTS = {True: 206, False: 506}
# What waits for a device, or has shapes that depend on its data; copies of what the host made; in torch's own names.
WAITS = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "unique",
    "_unique2",
    "unique_dim",
    "masked_select",
    "equal",
    "is_nonzero",
)
FROM_THE_HOST = ("lift_fresh", "lift_fresh_copy", "lift")
NO_KERNEL = (
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach",
    "_unsafe_view",
    "alias",
)


class Counting(TorchDispatchMode):
    """Counts the operations that run within, by name."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in FROM_THE_HOST or (not func.is_view and name not in NO_KERNEL):  # lifting is a view to torch
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Launches:
    """Stands for a module of kernels, which do nothing but be counted; what they would fill is left as it is."""

    def __init__(self):
        self.seen = Counter()

    def __getattr__(self, name):
        def launch(*given, **constants):
            self.seen[name] += 1

        class Kernel:
            def __getitem__(self, grid):
                return launch

        return Kernel()


@pytest.fixture
def recorded(monkeypatch):
    """The operations and launches of one captured step, which runs on the CPU here."""

    def count(*, fused, matcher="atom", normalisation="batch", **options):
        monkeypatch.setattr(distiller, "choose_engine", lambda name, network, *_: CudaEngine(network))
        monkeypatch.setattr(augmentation, "resample", resample_gathering)
        launches = Launches()
        for room, name in (("distillation.engine", "fused_kernels"), ("transforms", "augmentation_kernels")):
            monkeypatch.setitem(sys.modules, f"atom_plugin.{room}.{name}", launches)
            monkeypatch.setattr(sys.modules[f"atom_plugin.{room}"], name, launches, raising=False)
        network = {"depth": 3, "normalisation": normalisation}
        common = {
            "precision": "bfloat16",
            "network": network,
            "iterations": 1000,
        }  # enough for whitened images to be kept
        config = small_config(matcher=matcher, **common, **{"zca": True, **options})
        run = Distiller(config, coloured_source(), device="cpu")
        step = run.captured_step
        with run.running():
            run.launch()
            step.engine.fused = step.fuses_augmentation = fused
            with Counting() as counting:
                step.compute()
        return counting.seen, launches.seen

    return count


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("normalisation", ["batch", "instance", "group"])
@pytest.mark.parametrize("matcher", ["atom", "datadam", "dm", "feature"])
def test_the_host_waits_for_nothing_and_brings_nothing(recorded, matcher, normalisation, fused):
    seen, _ = recorded(fused=fused, matcher=matcher, normalisation=normalisation)
    assert not [name for name in (*WAITS, *FROM_THE_HOST) if seen[name]]
    assert not [name for name in seen if name.startswith("index") and name not in ("index_select", "index_add")]


@pytest.mark.parametrize(
    "options", [{"nested": "all"}, {"factor": 2, "zca": False}, {"factor": 2, "zca": False, "nested": "all"}]
)
def test_nested_and_packed_sets_bring_nothing_either(recorded, options):
    seen, _ = recorded(fused=True, ipc=2, **options)
    assert not [name for name in (*WAITS, *FROM_THE_HOST) if seen[name]]


@pytest.mark.skipif(TORCH < (2, 14), reason="counted under torch 2.14; older ones decompose some operations otherwise")
@pytest.mark.parametrize("fused", [True, False])
def test_operations_may_only_become_fewer(recorded, fused):
    operations, launches = recorded(fused=fused)
    assert bool(launches) == fused
    assert operations.total() + launches.total() <= COUNTS[fused]
    assert f"{COUNTS[fused]} operations" in PAGE.read_text()


@pytest.mark.parametrize("matcher", ["dc", "dsa", "mmd-pixel"])
def test_matchers_of_images_wait_for_no_label(matcher):
    chosen = make_matcher(matcher)
    network = ConvNetConfig(width=4, depth=2).build((3, 8, 8), 5, generator=generator_for(0, "network"))
    network.requires_grad_(False)
    generator = generator_for(0, "images")
    real, synthetic = (torch.randn(3 * each, 3, 8, 8, generator=generator) for each in (4, 2))
    engine, leaf = PlainEngine(network, network.features), synthetic.requires_grad_()
    with Counting() as counting:
        loss = compare(chosen, engine, real, leaf, groups=3, first_class=2)
    assert not [name for name in WAITS if counting.seen[name]]
    labels = (torch.arange(2, 5).repeat_interleave(each) for each in (4, 2))
    torch.testing.assert_close(loss, chosen.loss(network, real, leaf, *labels))
    with Counting() as counting:
        chosen.loss(network, real, leaf, *(torch.arange(2, 5).repeat_interleave(each) for each in (4, 2)))
    assert any(counting.seen[name] for name in WAITS), "what the names above are of"
