"""Find the parts of a network that have no effect on its output for images of a given size.

On small images some parts may have no effect, without an error: attention over a single token returns that token for any query.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from atom_plugin.errors import ModelError
from atom_plugin.runtime.randomness import generator_for

_IMAGES = 8
_NOISE = 0.01  # so that what starts at 0 lets gradients through


def parameters_without_gradient(network: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """Names of the parameters whose gradient is zero, or missing, for random images (C, H, W), in the network's order.

    Tested on a copy with a little noise on every parameter, in eval mode, so that neither initial zeros nor dropout count. A
    parameter with a gradient in some parts only (queries and keys in one matrix with the values) is not listed.
    """
    network = copy.deepcopy(network).eval()
    generator = generator_for(0, "gradient check")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=_NOISE)
    logits: torch.Tensor = network(torch.randn(_IMAGES, *image_shape, generator=generator))
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    return [name for name, held in network.named_parameters() if held.grad is None or not held.grad.any()]


@torch.no_grad()
def blank_logits(network: nn.Module, image_shape: tuple[int, int, int]) -> object:
    """The network's output for two blank images: channels-last, as in training, and in eval mode, without random draws."""
    images = torch.zeros(2, *image_shape).contiguous(memory_format=torch.channels_last)
    given: object = network.eval()(images)
    return given


def refuse_single_tokens(name: str, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raises ModelError if an attention of the network sees a single token of images (C, H, W), and so has no effect.

    Runs the network as :func:`blank_logits`, and raises what that does.
    """
    with _AttentionCounter() as attention:
        blank_logits(network, image_shape)
    if attention.single:
        raise ModelError(
            f"{name} is too coarse for {'x'.join(map(str, image_shape))} images: {attention.single} of its {attention.all} "
            "attentions see a single token, and so have no effect; choose another model or larger images"
        )


class _AttentionCounter(TorchFunctionMode):
    """Counts attentions when they run, fused or as a softmax: ``all`` of them, and those over a ``single`` key."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.single = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            key = args[1] if len(args) > 1 else options["key"]
            self._count(key.shape[-2])
        elif func in (torch.softmax, torch.Tensor.softmax, F.softmax):
            dim = args[1] if len(args) > 1 else options["dim"]
            self._count((args[0] if args else options["input"]).shape[dim])
        return func(*args, **options)

    def _count(self, keys: int) -> None:
        self.all += 1
        self.single += keys == 1
