"""Time one distillation step against the plain step, in one run: `python benchmarks/step.py`.

The plain step does what released scripts do, in float32 and channels-first: real images preprocessed beforehand and
held as floats, one augmentation call per class, hooks that clone every map, attention by ``abs().pow(p)``. Both steps draw
the same numbers of images, use the same network and the same loss. Images are random: the time does not depend on them.

Steps of the two kinds alternate, so that a slower minute of the machine hits both. Peak memory is that of a process of its
own (``--memory``), the source's images included; on a GPU (``--device cuda``) it is what torch allocated there. There ours is
the captured step; gpu.py has the same comparison with device events, and with our own plain step beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from atom_plugin.augmentation import Augmentation
from atom_plugin.config import DistillConfig
from atom_plugin.device import resolve_device
from atom_plugin.distiller import Distiller
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, make_matcher
from atom_plugin.memory import reuse_freed_memory
from atom_plugin.preprocessing import Preprocessing, Whitening
from atom_plugin.sources import SourceData, Split
from atom_plugin.streaming import stream_statistics
from atom_plugin.tracked import tracked_statistics
from atom_plugin.versions import package_versions

CLASSES, SHAPE, PER_CLASS = 10, (3, 32, 32), 5000


def random_source() -> SourceData:
    """CIFAR-10's shapes with random pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CLASSES * PER_CLASS, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
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
        maps: list[torch.Tensor] = []
        for block in network.blocks[:-1]:
            block.activation.register_forward_hook(lambda module, inputs, output: maps.append(output.clone()))
        real, synthetic = [], []
        for k in range(CLASSES):
            chosen = self.members[k][torch.randperm(PER_CLASS, generator=self.generator)[: self.config.real_batch]]
            own = self.images[k * self.config.ipc : (k + 1) * self.config.ipc]
            draw = self.augmentation.draw(1, self.generator)
            real.append(draw.apply(self.real[chosen][None])[0])
            synthetic.append(draw.apply(own[None])[0])
        with torch.no_grad():
            real_embedding = network.features(torch.cat(real)).embedding
        real_maps = [item.detach() for item in maps]
        maps.clear()
        embedding = network.features(torch.cat(synthetic)).embedding
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


def count(config: DistillConfig) -> dict[str, float]:
    """Multiply-adds of the step's matrix work, in GFLOP: two per multiply-add, backward of the images twice forward."""
    side, channels, forward = SHAPE[1], SHAPE[0], 0
    for _ in range(3):
        forward += 2 * side * side * channels * 9 * config.network.width
        side, channels = side // 2, config.network.width
    real, synthetic = CLASSES * config.real_batch, CLASSES * config.ipc
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    # The images' gradient needs each convolution's input gradient, not its weights'.
    gflop = {"real forward": real * forward, "synthetic": synthetic * 2 * forward, "whitening": real * 2 * size * size}
    return {name: value / 1e9 for name, value in gflop.items()}


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(config: DistillConfig, device: str, steps: int = 5) -> float:
    """Gigabytes that this process took at most over a few steps."""
    distiller = Distiller(config, random_source(), device=device, preprocessing=whitening_of_cifars_size())
    with distiller.running():
        for _ in range(steps):
            distiller.launch()
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    # VmHWM, not getrusage: Linux lets a child's ru_maxrss begin at its parent's.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1e6


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
    target = stream_statistics(network, atom, real, groups=CLASSES)
    draw = Augmentation().draw(CLASSES, generator)

    def synthetic() -> None:
        loss = atom.compare(target, tracked_statistics(network, atom, images, groups=CLASSES))
        torch.autograd.grad(loss, images)

    runs: dict[str, Callable[[], object]] = {
        "whitening": lambda: preprocessing.forward(raw),
        "augmentation of the real batch": lambda: draw.apply(real.unflatten(0, (CLASSES, -1))),
        "network drawn anew": lambda: network.reset(generator),
        "real branch": lambda: stream_statistics(network, atom, real, groups=CLASSES),
        "synthetic branch, forward and backward": synthetic,
    }
    with reuse_freed_memory():
        for run in runs.values():
            run()
        return {name: statistics.median(timed(run) for _ in range(repeats)) for name, run in runs.items()}


def matrix_rate(device: str) -> float:
    """GFLOP/s of a large matrix product here, float32 on a CPU, bfloat16 on a GPU: what the arithmetic is held against."""
    a = torch.randn(2048, 2048, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    out = torch.empty_like(a)
    best = min(timed(lambda: torch.mm(a, a, out=out)) for _ in range(10))
    return 2 * 2048**3 / best / 1e9


def device_name(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    return str(getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", platform.machine()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--normalisation", default="batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="only print the peak memory of our step, in GB")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        resolve_device(options.device)
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    config = DistillConfig.from_recipe(
        "atom",
        ipc=options.ipc,
        image_shape=SHAPE,
        real_batch=options.real_batch,
        network={"normalisation": options.normalisation},
    )
    if options.memory:
        print(f"{peak_memory(config, options.device):.2f}")
        return
    data, preprocessing = random_source(), whitening_of_cifars_size()
    plain = PlainStep(config, data, preprocessing, options.device)
    ours = Distiller(config, data, device=options.device, preprocessing=preprocessing)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for repeat in range(options.repeats + 1):
        seconds = timed(plain)
        with ours.running():
            for _ in range(3):  # the context hands memory back when left: a run pays its first steps' page faults once
                ours.launch()
            own = timed(ours.launch)
        if repeat:  # the first of each warms up
            times["plain"].append(seconds)
            times["ours"].append(own)
    median = {name: statistics.median(values) for name, values in times.items()}
    work, rate = count(config), matrix_rate(options.device)
    memory = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--memory"], capture_output=True, text=True, check=True
    )
    result = {
        "setting": {"ipc": options.ipc, "real_batch": options.real_batch, "normalisation": options.normalisation},
        "machine": {"device": device_name(options.device), "threads": options.threads},
        "versions": package_versions(),
        "n": options.repeats,
        "seconds": {name: {"median": median[name], "min": min(t), "max": max(t)} for name, t in times.items()},
        "ratio": median["plain"] / median["ours"],
        "parts": parts_of_the_step(config, preprocessing, options.repeats) if options.device == "cpu" else None,
        "gflop": work,
        "matrix_gflop_per_s": rate,
        "share_of_matrix_rate": sum(work.values()) / median["ours"] / rate,
        "peak_gb": float(memory.stdout),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
