"""The measurements of benchmarks/gpu.py on one GPU, a method for each piece; each returns the values of its JSON line.

On a CPU they run the same code with the host's clock, for tests.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from images import load_images
from step import SHAPE, PlainStep, count, random_source, whitening_of_cifars_size
from together import compare, raised_or

from atom_plugin import store
from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.loop import Progress, distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation import network_seed
from atom_plugin.evaluation.cuda_training import train_together
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy
from atom_plugin.runtime.device import repeatable_convolutions, resolve_device, resolve_precision
from atom_plugin.transforms.preprocessing import Preprocessing

# The step, by who computes it: the engine and whether kernels of our own take part.
WAYS = {"plain": ("plain", False), "captured": ("cuda", False), "captured, fused": ("cuda", True)}
# Settings of the step, by name: fields of DistillConfig.
STEPS: dict[str, dict[str, Any]] = {
    "ipc10": {},
    "packed-ipc10": {"factor": 2, "storage": "uint8"},
    "ipc10-real128-instance": {"real_batch": 128, "network": {"normalisation": "instance"}},
    "ipc1": {"ipc": 1},
    "ipc50": {"ipc": 50},
}


class Images:
    """The real images, loaded when first asked for, and the preprocessing of each kind of run, fitted once."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._data: SourceData | None = None
        self._preprocessing: dict[tuple[bool, float | None], Preprocessing] = {}

    def data(self) -> SourceData:
        self._data = self._data or load_images(self._path)
        return self._data

    def preprocessing(self, config: DistillConfig) -> Preprocessing:
        key = config.standardise, config.zca_eps
        if key not in self._preprocessing:
            self._preprocessing[key] = config.fit_preprocessing(self.data())
        return self._preprocessing[key]


class Bench:
    """Pieces on ``device``; ``quick`` makes everything tiny."""

    def __init__(self, device: str, *, quick: bool) -> None:
        self.device = resolve_device(device)
        self._cuda = self.device.type == "cuda"
        self._quick = quick
        self._source = random_source(20 if quick else 5000)

    def correctness(self) -> dict[str, Any]:
        """The difference of captured losses from plain ones, and whether a run's bytes repeat, in both precisions."""
        found: dict[str, Any] = {}
        for name, precision in itertools.product(("ipc10", "packed-ipc10"), ("bfloat16", "float32")):
            losses, images = {}, {}
            for way in (*WAYS, "captured, fused again"):
                run = self._run(name, way.removesuffix(" again"), precision=precision)
                with run.running():
                    step = self._stepping(run, way)
                    losses[way] = [step()() for _ in range(3 if self._quick else 10)]
                images[way] = run.images.clone()
            plain = losses.pop("plain")
            found[f"{name}, {precision}"] = {
                "largest relative difference of losses": {
                    way: max(abs(a - b) / abs(a) for a, b in zip(plain, other, strict=True))
                    for way, other in losses.items()
                },
                "bytes repeat": torch.equal(images["captured, fused"], images["captured, fused again"]),
            }
        return found

    def step(self, name: str) -> dict[str, Any]:
        """Times of the step ``name`` of :data:`STEPS` by every contender."""
        steps = 3 if self._quick else 200
        few = max(2, steps // 10)
        config = self._config(name)
        with repeatable_convolutions():  # as a run has them
            result: dict[str, Any] = {
                way: self._measured(lambda way=way: self._stepping(self._run(name, way), way), steps, warm_up=few)  # type: ignore[misc]
                for way in ("captured, fused", "captured")
            }
            result["plain"] = self._measured(lambda: self._run(name, "plain").launch, few, warm_up=3)
            for way in ("captured, fused", "captured"):
                result[f"device alone, {way}"] = self._device_alone(self._run(name, way), steps)
        if config.factor == 1:
            plain = (config, self._source, whitening_of_cifars_size(), self.device.type)
            result["baseline"] = self._measured(lambda: PlainStep(*plain), max(2, steps // 20), warm_up=2)
            result["ratio to the baseline"] = result["baseline"]["host_ms"] / result["captured, fused"]["host_ms"]
        result["gflop"] = count(config)
        return result

    def compiled(self) -> dict[str, Any]:
        """The plain step with compiled features, as a reference for the package's own engine."""
        if not self._cuda:  # a CPU's compiler takes minutes, and proves nothing here
            return {}
        run = self._run("ipc10", "plain")
        assert isinstance(run.engine, PlainEngine)
        run.engine.features = torch.compile(run.engine.features, mode="reduce-overhead")
        with repeatable_convolutions():
            return self._measured(lambda: run.launch, 20, warm_up=10)

    def ceilings(self) -> dict[str, Any]:
        """The bandwidth of a copy, and the rate of a matrix product."""
        side, size = (256, 2**20) if self._quick else (8192, 2**32)
        a = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        product = self._measured(lambda: lambda: a @ a, 20, warm_up=3)["device_ms"]
        source = torch.empty(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        copy = self._measured(lambda: lambda: target.copy_(source), 10, warm_up=2)["device_ms"]
        return {"tflop_per_s": 2 * side**3 / product / 1e9, "gb_per_s": 2 * size / copy / 1e6}

    def kernels(self, steps: int = 5) -> dict[str, Any]:
        """The 25 kernels that take most of a captured step, and how many launches it has; without our own kernels too."""
        return {way: self._kernels(way, steps) for way in ("captured, fused", "captured")}

    def draws(self) -> dict[str, Any]:
        """Milliseconds that a block of an iteration's draws takes, by the threads that draw: the host's part of a step."""
        found = {}
        count = 16 if self._quick else 480
        for threads in (1, 2, 3, 4, 6, 8):
            run = self._run("ipc10", "captured")
            inputs = run.captured_step.inputs
            inputs.threads = threads
            with run.running():
                for iteration in range(count // 2):
                    inputs.block(iteration)
                began = time.perf_counter()
                for iteration in range(count // 2, count):
                    inputs.block(iteration)
                found[str(threads)] = 1e3 * (time.perf_counter() - began) / (count - count // 2)
                inputs.close()
        return {"milliseconds a block, by threads": found}

    def together(self, data: SourceData) -> dict[str, Any]:
        """Evaluation networks trained together, and one in turn."""
        selection = SelectConfig.from_recipe(
            "atom", ipc=1 if self._quick else 10, image_shape=data.image_shape, zca=False
        )
        config = TrainConfig(epochs=2 if self._quick else 1000)
        chosen = selected_set(selection, data, device=str(self.device))
        count, epochs = (2, 1) if self._quick else (20, 50)
        run = TrainingRun(device=self.device, precision=resolve_precision("auto", self.device))

        def go() -> None:
            train_together(
                [chosen] * count, selection.network, replace(config, epochs=epochs), seeds=range(count), run=run
            )

        found = compare(chosen, data, config, count, self.device, turns=1)
        return {**found, "kernels": self._profiled(go, epochs)}  # an epoch is one step here

    def make_set(self, images: Images, folder: Path, *, recipe: str, ipc: int, matcher: str = "atom") -> dict[str, Any]:
        """A set of the papers' length, stored in ``folder``, and the accuracy of five networks trained on it."""
        data = images.data()
        config = DistillConfig.from_recipe(
            recipe,
            ipc=ipc,
            image_shape=data.image_shape,
            matcher=matcher,
            iterations=3 if self._quick else 8000,
            **({"real_batch": 4} if self._quick else {}),
        )
        preprocessing = images.preprocessing(config)
        losses: list[Progress] = []
        self._forget()
        began = time.perf_counter()
        made = distill(config, data, device=str(self.device), preprocessing=preprocessing, on_progress=losses.append)
        seconds, peak = time.perf_counter() - began, self._peak()
        store.write(made, folder / f"{recipe}-{matcher}-ipc{ipc}.h5", force=True)
        training = TrainConfig.from_recipe(
            "packed" if config.factor > 1 else "standard", epochs=1 if self._quick else 1000
        )
        began = time.perf_counter()
        networks = train_together(
            [made] * (2 if self._quick else 5),
            config.network,
            training,
            seeds=[network_seed(0, repeat) for repeat in range(2 if self._quick else 5)],
            run=TrainingRun(device=self.device, precision=resolve_precision("auto", self.device)),
        )
        reached = [accuracy(raised_or(one), preprocessing, data.test, device=self.device) for one in networks]
        values = [progress.loss for progress in losses]
        return {
            "config": config.to_json(),
            "seconds": seconds,
            "peak_gb": peak,
            "loss, first and last hundred": [statistics.fmean(values[:100]), statistics.fmean(values[-100:])],
            "training seconds": time.perf_counter() - began,
            "accuracies": reached,
            "mean": statistics.fmean(reached),
            "std": statistics.stdev(reached),
        }

    def _config(self, name: str, **overrides: Any) -> DistillConfig:
        """The atom recipe's at the sizes of CIFAR-10, with batch normalisation unless the setting says otherwise."""
        chosen = {"ipc": 10, "network": {"normalisation": "batch"}, **STEPS[name], **overrides}
        if self._quick:
            chosen |= {"ipc": 1, "real_batch": 2, "network": {**chosen["network"], "width": 8}}
        return DistillConfig.from_recipe("atom", image_shape=SHAPE, iterations=100_000, **chosen)

    def _run(self, name: str, way: str, **overrides: Any) -> Distiller:
        config = self._config(name, **overrides)
        engine, fused = WAYS[way]
        return Distiller(
            *(config, self._source),
            device=str(self.device),
            engine=engine if self._cuda else "plain",
            preprocessing=whitening_of_cifars_size() if config.zca_eps else None,
            fused_kernels=fused,
        )

    def _stepping(self, run: Distiller, way: str) -> Callable[[], Any]:
        """One step of ``run``; on a CPU, a captured step is requested explicitly, since it is not chosen there."""
        if self._cuda or way == "plain":
            return run.launch
        iterations = itertools.count()
        return lambda: run.captured_step.launch(next(iterations))

    def _device_alone(self, run: Distiller, steps: int) -> dict[str, Any]:
        """The step repeated without the host, which otherwise draws and copies."""
        with run.running():
            self._stepping(run, "captured")()
            step = run.captured_step
            return {
                "recorded": step.recorded,
                "fused": step.fused,
                **self._measured(lambda: step.again, steps, warm_up=3),
            }

    def _kernels(self, way: str, steps: int) -> dict[str, Any]:
        run = self._run("ipc10", way)
        with run.running():
            step = self._stepping(run, way)
            for _ in range(2 if self._quick else 20):
                step()

            def go() -> None:
                for _ in range(steps):
                    step()

            return self._profiled(go, steps)

    def _profiled(self, go: Callable[[], object], steps: int) -> dict[str, Any]:
        """The kernels of ``steps`` steps, which ``go`` takes."""
        kind = torch.profiler.ProfilerActivity.CUDA if self._cuda else torch.profiler.ProfilerActivity.CPU
        self._wait()
        with torch.profiler.profile(activities=[kind], acc_events=True) as profile:
            go()
            self._wait()
        clock = "self_device_time_total" if self._cuda else "self_cpu_time_total"
        events = sorted(profile.key_averages(), key=lambda event: -getattr(event, clock))
        rows = [[event.key[:120], event.count / steps, getattr(event, clock) / steps] for event in events[:25]]
        launches = sum(event.count for event in events if getattr(event, clock)) / steps
        return {"kernel, launches a step, microseconds a step": rows, "launches": launches}

    def _measured(self, make: Callable[[], Callable[[], object]], steps: int, *, warm_up: int) -> dict[str, Any]:
        """The step that ``make`` makes: three rounds of ``steps``, their median and spread, and the memory it took at most."""
        self._forget()
        run = make()
        for _ in range(warm_up):
            run()
        rounds = [self._timed(run, steps) for _ in range(3)]
        found: dict[str, Any] = {"steps": steps, "rounds": rounds}
        for clock in ("device_ms", "host_ms"):
            found[clock] = statistics.median(entry[clock] for entry in rounds)
        found["peak_gb"] = self._peak()
        return found

    def _timed(self, run: Callable[[], object], steps: int) -> dict[str, float]:
        """Milliseconds per step over ``steps`` in a row: by device events, and by the host's clock until all is done."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self._cuda else []
        self._wait()
        began = time.perf_counter()
        for event in events[:1]:
            event.record()
        for _ in range(steps):
            run()
        for event in events[1:]:
            event.record()
        self._wait()
        host = 1e3 * (time.perf_counter() - began) / steps
        return {"device_ms": events[0].elapsed_time(events[1]) / steps if events else host, "host_ms": host}

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self.device)

    def _forget(self) -> None:
        gc.collect()  # runs are cycles of references
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> float:
        """Peak gigabytes of torch on the GPU."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self._cuda else 0.0
