"""Siamese augmentation in one kernel, and its gradient in another, for recorded steps on CUDA, in place of about 100 kernels.

:func:`~atom_plugin.transforms.augmentation.augment` computes the same with torch's operations. The kernels are triton's
(:mod:`.augmentation_kernels`), imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from atom_plugin.runtime.kernels import usable
from atom_plugin.transforms.augmentation import Augmentation, augment

_CHANNELS = 4  # the most that the kernels have a copy of their code for
_PLACES = 512  # at a time, two to a thread: more would not fit into registers where a gradient is gathered
_ROUNDING = 0.05  # of the size of what comes out in bfloat16


def fuses(settings: Augmentation, image_shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :func:`augment_fused` runs here on images (C, H, W), and gives torch's result; a log message if not.

    Call this before a step is recorded; it compiles both kernels.
    """
    generator = torch.Generator().manual_seed(0)
    plan = settings.draw(16, generator).plan(image_shape[1:]).to(device)
    images = torch.randn(16, 1, *image_shape, generator=generator).to(device)

    def tried(augmented: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        leaf = images.clone().requires_grad_()
        result = augmented(leaf).float()
        return [result.detach(), *torch.autograd.grad((result * result.detach().roll(1)).sum(), leaf)]

    return image_shape[0] <= _CHANNELS and usable(
        "augmentation",
        lambda: tried(lambda leaf: augment_fused(settings, leaf, plan, dtype)),
        lambda: tried(lambda leaf: augment(settings, leaf, plan).flatten(0, 1)),
        device=device,
        rounding=_ROUNDING,
    )


def augment_fused(settings: Augmentation, images: torch.Tensor, plan: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As ``augment(settings, images, plan).flatten(0, 1)``, channels-last and in ``dtype``: float32 or bfloat16.

    ``images`` are float32 (K, n, C, H, W), ``plan`` float32 (K, columns), both on one device. Differentiable once, for images.
    """
    height, width = images.shape[-2:]
    result: torch.Tensor = _Augmented.apply(images, plan, settings.reach((height, width)), dtype)
    return result


class _Augmented(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, plan: torch.Tensor, reach: int, dtype: torch.dtype) -> torch.Tensor:
        from atom_plugin.transforms import augmentation_kernels

        ctx.save_for_backward(plan)
        ctx.reach, ctx.shape = reach, images.shape
        groups, count, channels, height, width = images.shape
        result = torch.empty(
            (groups * count, channels, height, width),
            dtype=dtype,
            device=images.device,
            memory_format=torch.channels_last,
        )
        kernel = augmentation_kernels.augmented[(groups * count,)]
        kernel(images.contiguous(), plan, result, count, height, width, **_constants(plan, channels, height * width))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, arriving: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        from atom_plugin.transforms import augmentation_kernels

        (plan,) = ctx.saved_tensors
        groups, count, channels, height, width = ctx.shape
        result = torch.empty(ctx.shape, dtype=torch.float32, device=arriving.device)
        constants = {**_constants(plan, channels, height * width), "REACH": ctx.reach}
        kernel = augmentation_kernels.gradient[(groups * count,)]
        kernel(arriving.contiguous(memory_format=torch.channels_last), plan, result, count, height, width, **constants)
        return result, None, None, None


def _constants(plan: torch.Tensor, channels: int, places: int) -> dict[str, int]:
    size = min(_PLACES, 1 << (places - 1).bit_length())
    return {"COLUMNS": plan.shape[1], "CHANNELS": channels, "SIZE": size, "num_warps": 8}
