"""What benchmarks/gpu.py measures on one GPU, a function a piece; each gives what stands in its JSON line."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
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
from atom_plugin.runtime.device import repeatable_convolutions
from atom_plugin.transforms.preprocessing import Preprocessing

DEVICE = "cuda"


def on_device(run: Callable[[], object], steps: int) -> dict[str, float]:
    """Milliseconds per step over ``steps`` in a row: by device events, and by the host's clock until all is done."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began = time.perf_counter()
    start.record()
    for _ in range(steps):
        run()
    end.record()
    torch.cuda.synchronize()
    return {"device_ms": start.elapsed_time(end) / steps, "host_ms": 1e3 * (time.perf_counter() - began) / steps}


def measured(make: Callable[[], Callable[[], object]], steps: int, *, warm_up: int) -> dict[str, Any]:
    """The step that ``make`` makes: three rounds of ``steps``, their median and spread, and the memory it took at most."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run = make()
    for _ in range(warm_up):
        run()
    rounds = [on_device(run, steps) for _ in range(3)]
    found: dict[str, Any] = {"steps": steps, "rounds": rounds}
    for clock in ("device_ms", "host_ms"):
        found[clock] = statistics.median(entry[clock] for entry in rounds)
    found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    found["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return found


def device_alone(run: Distiller, steps: int) -> dict[str, Any]:
    """A step again and again with nothing from the host: what the host leaves of it is drawing and copying."""
    with run.running():
        run.launch()
        step = run.captured_step
        return {"recorded": step.recorded, "fused": step.fused, **measured(lambda: step.again, steps, warm_up=3)}


def step_config(ipc: int, real_batch: int, normalisation: str, **overrides: Any) -> DistillConfig:
    return DistillConfig.from_recipe(
        "atom",
        ipc=ipc,
        image_shape=SHAPE,
        real_batch=real_batch,
        iterations=100_000,
        network={"normalisation": normalisation},
        **overrides,
    )


def step_piece(ipc: int, real_batch: int, normalisation: str, quick: bool) -> dict[str, Any]:
    data, preprocessing = random_source(), whitening_of_cifars_size()
    config = step_config(ipc, real_batch, normalisation)
    steps = 5 if quick else 200

    def ours(engine: str, *, fused: bool = True) -> Distiller:
        return Distiller(config, data, device=DEVICE, engine=engine, preprocessing=preprocessing, fused_kernels=fused)

    def compiled() -> Callable[[], object]:
        """The plain step with its features compiled: what decides whether an engine of our own earns its lines."""
        run = ours("plain")
        assert isinstance(run.engine, PlainEngine)
        run.engine.features = torch.compile(run.engine.features, mode="reduce-overhead")
        return run.launch

    with repeatable_convolutions():  # as a run has them
        result: dict[str, Any] = {
            "captured, fused": measured(lambda: ours("cuda").launch, steps, warm_up=20),
            "captured": measured(lambda: ours("cuda", fused=False).launch, steps, warm_up=20),
            "plain": measured(lambda: ours("plain").launch, max(2, steps // 10), warm_up=3),
            "plain, compiled": measured(compiled, max(2, steps // 10), warm_up=10),
            "device alone, fused": device_alone(ours("cuda"), steps),
            "device alone": device_alone(ours("cuda", fused=False), steps),
        }
    result["baseline"] = measured(
        lambda: PlainStep(config, data, preprocessing, DEVICE), max(2, steps // 20), warm_up=2
    )
    result["ratio to the baseline"] = result["baseline"]["host_ms"] / result["captured, fused"]["host_ms"]
    result["gflop"] = count(config)
    for precision in ("bfloat16", "float32"):
        fixed = step_config(ipc, real_batch, normalisation, precision=precision)
        losses = {}
        for kind, engine, fused in (
            ("plain", "plain", False),
            ("captured", "cuda", False),
            ("captured, fused", "cuda", True),
        ):
            run = Distiller(fixed, data, device=DEVICE, engine=engine, preprocessing=preprocessing, fused_kernels=fused)
            with run.running():
                losses[kind] = [run.launch()() for _ in range(10)]
        plain = losses.pop("plain")
        result[f"largest relative difference of 10 losses, {precision}"] = {
            kind: max(abs(a - b) / abs(a) for a, b in zip(plain, found, strict=True)) for kind, found in losses.items()
        }
    return result


def ceilings() -> dict[str, Any]:
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    product = measured(lambda: lambda: a @ a, 20, warm_up=3)["device_ms"]
    source = torch.empty(2**32, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = measured(lambda: lambda: target.copy_(source), 10, warm_up=2)["device_ms"]
    return {"tflop_per_s": 2 * 8192**3 / product / 1e9, "gb_per_s": 2 * 2**32 / copy / 1e6}


def kernels(steps: int = 5) -> dict[str, Any]:
    """The 25 kernels that take most of a captured step, and how many launches a step has; without kernels of our own too."""
    return {"fused": _kernels(steps, fused=True), "torch alone": _kernels(steps, fused=False)}


def _kernels(steps: int, *, fused: bool) -> dict[str, Any]:
    data, preprocessing = random_source(), whitening_of_cifars_size()
    config = step_config(10, 64, "batch")
    run = Distiller(config, data, device=DEVICE, engine="cuda", preprocessing=preprocessing, fused_kernels=fused)
    with run.running():
        for _ in range(20):
            run.launch()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(steps):
                run.launch()
            torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    rows = [[event.key[:120], event.count / steps, event.self_device_time_total / steps] for event in events[:25]]
    launches = sum(event.count for event in events if event.self_device_time_total) / steps
    return {"kernel, launches a step, microseconds a step": rows, "launches": launches}


def together_piece(data: SourceData, quick: bool) -> dict[str, Any]:
    selection = SelectConfig.from_recipe("atom", ipc=10, image_shape=data.image_shape, zca=False)
    config = TrainConfig(epochs=4 if quick else 1000)
    networks = 3 if quick else 20
    return compare(selected_set(selection, data), data, config, networks, torch.device(DEVICE), turns=1)


class Images:
    """The real images and their preprocessing, loaded when first asked for: fitting ZCA takes a while."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._data: SourceData | None = None
        self._preprocessing: Preprocessing | None = None

    def data(self) -> SourceData:
        self._data = self._data or load_images(self._path)
        return self._data

    def preprocessing(self, config: DistillConfig) -> Preprocessing:
        self._preprocessing = self._preprocessing or config.fit_preprocessing(self.data())
        return self._preprocessing


def set_piece(images: Images, matcher: str, ipc: int, folder: Path, quick: bool) -> dict[str, Any]:
    data = images.data()
    config = DistillConfig.from_recipe(
        "atom", ipc=ipc, image_shape=data.image_shape, matcher=matcher, iterations=20 if quick else 8000
    )
    preprocessing = images.preprocessing(config)
    losses: list[Progress] = []
    gc.collect()  # runs are cycles of references
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    made = distill(config, data, device=DEVICE, preprocessing=preprocessing, on_progress=losses.append)
    seconds, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated()
    store.write(made, folder / f"{matcher}-ipc{ipc}.h5", force=True)
    training = TrainConfig(epochs=2 if quick else 1000)
    began = time.perf_counter()
    networks = train_together(
        [made] * 5,
        config.network,
        training,
        seeds=[network_seed(0, repeat) for repeat in range(5)],
        run=TrainingRun(device=torch.device(DEVICE), precision="bfloat16"),
    )
    reached = [accuracy(raised_or(one), preprocessing, data.test, device=torch.device(DEVICE)) for one in networks]
    values = [progress.loss for progress in losses]
    return {
        "config": config.to_json(),
        "seconds": seconds,
        "peak_gb": peak / 1e9,
        "loss, first and last hundred": [statistics.fmean(values[:100]), statistics.fmean(values[-100:])],
        "training seconds": time.perf_counter() - began,
        "accuracies": reached,
        "mean": statistics.fmean(reached),
        "std": statistics.stdev(reached),
    }
