"""Which device, and which precision."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.malloc import reuse_freed_memory

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """``auto`` takes CUDA, else MPS, else the CPU. Raises ConfigError for a device that is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind = name.partition(":")[0]
    if not present.get(kind, False):
        here = ", ".join(kind for kind, there in present.items() if there)
        raise ConfigError(f"device {name!r} is not available here; available: {here}; or say 'auto'")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> str:
    """``auto`` takes bfloat16 where the hardware multiplies in it, float32 elsewhere."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type == "cpu" and _cpu_has_bfloat16() else "float32"


def on_host(device: torch.device) -> bool:
    """Whether tensors on ``device`` lie in the host's own memory."""
    return device.type == "cpu"


def copies_from_pinned(device: torch.device) -> bool:
    """Whether copies to ``device`` from page-locked memory go on in the background."""
    return device.type == "cuda"


def free_memory(device: torch.device) -> int:
    """Bytes free on a CUDA device; 0 where nobody tells."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which convolutions run in ``precision``; reductions of matchers stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products too keep their inputs' precision, whatever the loop's autocast says."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def repeatable_convolutions() -> Iterator[None]:
    """Within, cuDNN takes only algorithms that add in one fixed order, so that a run gives the same bytes again.

    And float32 is float32 there: by itself cuDNN rounds its inputs to 10 bits (TF32).
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32 = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.allow_tf32 = before


def long_work(device: torch.device, *, keep_memory: bool = True) -> AbstractContextManager[None]:
    """A context for many steps in a row: freed memory is reused on a CPU, convolutions repeat to the bit elsewhere.

    ``keep_memory`` False leaves the first out, for a benchmark.
    """
    if device.type != "cpu":
        return repeatable_convolutions()
    return reuse_freed_memory() if keep_memory else nullcontext()


def _cpu_has_bfloat16() -> bool:
    """AVX512-BF16 or AMX; without them oneDNN emulates bfloat16, slower than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def describe_hardware(device: torch.device) -> str:
    """What computes, for results: a GPU's name, or the processor's with the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads" + ("" if device.type == "cpu" else f", {device.type}")


def processor() -> str:
    """The model's name where Linux tells it; ``platform`` has it on other systems."""
    table = Path("/proc/cpuinfo")
    for line in table.read_text().splitlines() if table.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
