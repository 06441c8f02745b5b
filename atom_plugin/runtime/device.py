"""Choose the device and the precision."""

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
    """``auto`` takes CUDA, else MPS, else the CPU. Raises ConfigError for a device that is not available."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind = name.partition(":")[0]
    if not present.get(kind, False):
        here = ", ".join(kind for kind, there in present.items() if there)
        raise ConfigError(f"device {name!r} is not available here; available: {here}; or say 'auto'")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> str:
    """``auto`` takes bfloat16 if the hardware multiplies in it, else float32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type == "cpu" and _cpu_has_bfloat16() else "float32"


def on_host(device: torch.device) -> bool:
    """Whether tensors on ``device`` are in the host's memory."""
    return device.type == "cpu"


def copies_from_pinned(device: torch.device) -> bool:
    """Whether copies from page-locked memory to ``device`` run in the background."""
    return device.type == "cuda"


def free_memory(device: torch.device) -> int:
    """Free bytes on a CUDA device; 0 for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which convolutions run in ``precision``; reductions of matchers stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products also keep their inputs' precision, despite the loop's autocast."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def repeatable_convolutions() -> Iterator[None]:
    """Within, cuDNN takes only deterministic algorithms, so that a run gives the same bytes again.

    Also, float32 stays float32: by default cuDNN rounds its inputs to 10 bits (TF32).
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32 = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.allow_tf32 = before


def long_work(device: torch.device, *, keep_memory: bool = True) -> AbstractContextManager[None]:
    """A context for many steps: a CPU reuses freed memory, other devices compute convolutions deterministically.

    ``keep_memory`` False switches off the reuse, for a benchmark.
    """
    if device.type != "cpu":
        return repeatable_convolutions()
    return reuse_freed_memory() if keep_memory else nullcontext()


def _cpu_has_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 or AMX; without them oneDNN emulates bfloat16, slower than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def describe_hardware(device: torch.device) -> str:
    """The hardware, for results: a GPU's name, or the processor's name with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads" + ("" if device.type == "cpu" else f", {device.type}")


def processor() -> str:
    """The model's name on Linux; ``platform``'s on other systems."""
    table = Path("/proc/cpuinfo")
    for line in table.read_text().splitlines() if table.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
