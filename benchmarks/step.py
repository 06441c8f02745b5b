"""Time one distillation step against the plain step, in one run: `python benchmarks/step.py`.

The plain step does what released scripts do, in float32 and channels-first: real images preprocessed beforehand and
held as floats, one augmentation call per class, a clone of every map, attention by ``abs().pow(p)``. Both steps draw
the same numbers of images, use the same network and the same loss. Images are random: the time does not depend on them.

Steps of the two kinds alternate, so that a slower minute of the machine hits both. Peak memory is that of a process of its
own (``--memory``), the source's images included; on a GPU (``--device cuda``) it is what torch allocated there. There ours is
the captured step; gpu.py has the same comparison with device events, and with our own plain step beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import (
    matrix_rate,
    options_of,
    peak_gigabytes,
    plain_features,
    run_script,
    spread,
    surroundings,
    timed,
    times,
)
from torch.nn import functional as F

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.matchers import MeanMatcher, make_matcher
from atom_plugin.runtime.malloc import reuse_freed_memory
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening

CLASSES, SHAPE, PER_CLASS = 10, (3, 32, 32), 5000


def random_source(per_class: int = PER_CLASS) -> SourceData:
    """CIFAR-10's shapes with random pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CLASSES * per_class, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    few = Split(images=images[:10], labels=labels[:10])
    names = tuple(f"class {k}" for k in range(CLASSES))
    return SourceData(
        name="random",
        train=Split(images=images, labels=labels),
        test=few,
        class_names=names,
        fingerprint="",
        options={},
    )


def whitening_of_cifars_size() -> Preprocessing:
    """A whitening of the right size; fitting a real one would take longer than the benchmark."""
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    whitening = Whitening(mean=torch.zeros(size), matrix=torch.eye(size), eps=0.1)
    return Preprocessing(mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25), image_shape=SHAPE, whitening=whitening)


class PlainStep:
    """The step as a straightforward script has it; the baseline of every ratio."""

    def __init__(self, config: DistillConfig, data: SourceData, preprocessing: Preprocessing, device: str) -> None:
        self.config = config
        self.device = device
        self.real = torch.cat([preprocessing.forward(part) for part in data.train.images.split(1000)]).to(device)
        self.members = [(data.train.labels == k).nonzero().flatten() for k in range(CLASSES)]
        self.images = self.real[torch.cat([m[: config.ipc] for m in self.members])].clone().requires_grad_()
        self.optimizer = torch.optim.SGD([self.images], lr=config.image_lr, momentum=config.image_momentum)
        self.generator = torch.Generator().manual_seed(0)
        self.augmentation = Augmentation(strategy=config.augmentation)

    def __call__(self) -> float:
        network = self.config.network.build(SHAPE, CLASSES).to(self.device)
        real, synthetic = [], []
        for k in range(CLASSES):
            chosen = self.members[k][
                torch.randperm(len(self.members[k]), generator=self.generator)[: self.config.real_batch]
            ]
            own = self.images[k * self.config.ipc : (k + 1) * self.config.ipc]
            draw = self.augmentation.draw(1, self.generator)
            real.append(draw.apply(self.real[chosen][None])[0])
            synthetic.append(draw.apply(own[None])[0])
        with torch.no_grad():
            real_maps, real_embedding = plain_features(network, torch.cat(real))
            real_maps = [item.clone() for item in real_maps[:-1]]
        maps, embedding = plain_features(network, torch.cat(synthetic))
        maps = [item.clone() for item in maps[:-1]]
        loss = 0.01 * self.distance(real_embedding, embedding)
        for r, s in zip(real_maps, maps, strict=True):
            loss = (
                loss + self.distance(self.spatial(r), self.spatial(s)) + self.distance(self.channel(r), self.channel(s))
            )
        loss = 100 * loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def spatial(self, feature_map: torch.Tensor) -> torch.Tensor:
        return F.normalize(feature_map.abs().pow(self.config.matcher_options["p_s"]).sum(1).flatten(1), dim=1)

    def channel(self, feature_map: torch.Tensor) -> torch.Tensor:
        return F.normalize(feature_map.abs().pow(self.config.matcher_options["p_c"]).sum((2, 3)), dim=1)

    @staticmethod
    def distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
        means = [item.view(CLASSES, -1, item.shape[1]).mean(1) for item in (real, synthetic)]
        return (means[0] - means[1]).square().sum()


def forward_flop(width: int) -> int:
    """Operations of an image's way through the ConvNet-3's convolutions: two per multiply-add."""
    side, channels, forward = SHAPE[1], SHAPE[0], 0
    for _ in range(3):
        forward += 2 * side * side * channels * 9 * width
        side, channels = side // 2, width
    return forward


def count(config: DistillConfig) -> dict[str, float]:
    """Multiply-adds of the step's matrix work, in GFLOP: two per multiply-add, backward of the images twice forward."""
    forward = forward_flop(config.network.width)
    real, synthetic = CLASSES * config.real_batch, CLASSES * config.ipc
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    # The images' gradient needs each convolution's input gradient, not its weights'.
    gflop = {"real forward": real * forward, "synthetic": synthetic * 2 * forward, "whitening": real * 2 * size * size}
    return {name: value / 1e9 for name, value in gflop.items()}


def traffic(config: DistillConfig, value_bytes: int) -> dict[str, float]:
    """Gigabytes that the step moves if nothing stays in a cache, and every pass reads and writes each map once.

    A map is written by its convolution, read for the normalisation's statistics, and read once more by one pass that makes
    attention's sums and the pooled map of it; that one is written and read. Backward does twice what forward does.
    """
    side, image = SHAPE[1], 0.0
    for _ in range(3):
        places = config.network.width * side * side
        image += 3 * places + 2 * places / 4
        side //= 2
    real, synthetic = CLASSES * config.real_batch, CLASSES * config.ipc
    gigabytes = {"real forward": real * image, "synthetic": synthetic * 3 * image}
    return {name: values * value_bytes / 1e9 for name, values in gigabytes.items()}


def peak_memory(config: DistillConfig, data: SourceData, device: str, steps: int = 5) -> float:
    """Gigabytes that this process took at most over a few steps."""
    distiller = Distiller(config, data, device=device, preprocessing=whitening_of_cifars_size())
    with distiller.running():
        for _ in range(steps):
            distiller.launch()
    return peak_gigabytes(device)


def parts_of_the_step(config: DistillConfig, preprocessing: Preprocessing, repeats: int) -> dict[str, float]:
    """Median seconds of the CPU step's parts, each on its own."""
    generator = torch.Generator().manual_seed(0)
    network = config.network.build(SHAPE, CLASSES, generator=generator).requires_grad_(False)
    network.to(memory_format=torch.channels_last)
    atom = make_matcher(config.matcher, config.matcher_options)
    assert isinstance(atom, MeanMatcher)
    raw = torch.randint(0, 256, (CLASSES * config.real_batch, *SHAPE), generator=generator, dtype=torch.uint8)
    real = preprocessing.forward(raw)
    images = torch.randn(CLASSES * config.ipc, *SHAPE, generator=generator).requires_grad_()
    engine = PlainEngine(network, network.features)
    target = engine.real(atom, real, groups=CLASSES)
    draw = Augmentation().draw(CLASSES, generator)

    def synthetic() -> None:
        loss = atom.compare(target, engine.synthetic(atom, images, groups=CLASSES))
        torch.autograd.grad(loss, images)

    runs: dict[str, Callable[[], object]] = {
        "whitening": lambda: preprocessing.forward(raw),
        "augmentation of the real batch": lambda: draw.apply(real.unflatten(0, (CLASSES, -1))),
        "network drawn anew": lambda: network.reset(generator),
        "real branch": lambda: engine.real(atom, real, groups=CLASSES),
        "synthetic branch, forward and backward": synthetic,
    }
    with reuse_freed_memory():
        return {name: statistics.median(times(run, repeats)) for name, run in runs.items()}


def config_of(options: Any) -> DistillConfig:
    """The atom recipe's, at the sizes that the options name; ``--quick`` makes the network and its batches small."""
    return DistillConfig.from_recipe(
        "atom",
        ipc=options.ipc,
        image_shape=SHAPE,
        real_batch=4 if options.quick else options.real_batch,
        network={"normalisation": options.normalisation, **({"width": 8} if options.quick else {})},
    )


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = options_of(__doc__, repeats=7)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--normalisation", default="batch")
    parser.add_argument("--memory", action="store_true", help="only measure the peak memory of our step, in GB")
    options = parser.parse_args(arguments)
    where = surroundings(options.device, options.threads)
    torch.set_num_threads(options.threads)
    config, data = config_of(options), random_source(100 if options.quick else PER_CLASS)
    if options.memory:
        return {"peak_gb": peak_memory(config, data, options.device)}
    preprocessing = whitening_of_cifars_size()
    plain = PlainStep(config, data, preprocessing, options.device)
    ours = Distiller(config, data, device=options.device, preprocessing=preprocessing)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for repeat in range(options.repeats + 1):
        its = timed(plain)
        with ours.running():
            for _ in range(3):  # the context hands memory back when left: a run pays its first steps' page faults once
                ours.launch()
            own = timed(ours.launch)
        if repeat:  # the first of each warms up
            seconds["plain"].append(its)
            seconds["ours"].append(own)
    measured = {name: spread(values) for name, values in seconds.items()}
    work, rate = count(config), matrix_rate(options.device, 256 if options.quick else 2048)
    memory = subprocess.run(
        [sys.executable, __file__, *arguments, "--memory"], capture_output=True, text=True, check=True
    )
    return {
        "setting": {"ipc": options.ipc, "real_batch": config.real_batch, "normalisation": options.normalisation},
        **where,
        "seconds": measured,
        "ratio": measured["plain"]["median"] / measured["ours"]["median"],
        "parts": parts_of_the_step(config, preprocessing, options.repeats) if options.device == "cpu" else None,
        "gflop": work,
        "traffic_gb": traffic(config, 4 if options.device == "cpu" else 2),
        "matrix_gflop_per_s": rate,
        "share_of_matrix_rate": sum(work.values()) / measured["ours"]["median"] / rate,
        "peak_gb": json.loads(memory.stdout)["peak_gb"],
    }


if __name__ == "__main__":
    run_script(main)
