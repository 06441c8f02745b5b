"""ConvNets of one shape side by side in the channels, for :mod:`.cuda_training`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from atom_plugin.models.convnet import ConvNet, InstanceNorm


class Stack:
    """``networks`` side by side, with all parameters in one vector ``flat``, ordered by kind of parameter."""

    def __init__(self, networks: Sequence[ConvNet], device: torch.device) -> None:
        self.count = len(networks)
        self.template = networks[0]
        self.shapes = [(self.count * len(p), *p.shape[1:]) for p in self.template.parameters()]
        together = zip(*(network.parameters() for network in networks), strict=True)
        flat = torch.cat([torch.cat([_rows(p.detach()) for p in parameters]).flatten() for parameters in together])
        self.flat = flat.to(device).requires_grad_()
        self.norms = [
            _side_by_side(block.normalisation, self.count).to(device, flat.dtype)
            for block in self.template.conv_blocks()
        ]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(R, B, classes) for (R, B, C, H, W)."""
        parameters = iter(self._views())
        state = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for block, norm in zip(self.template.conv_blocks(), self.norms, strict=True):
            state = F.conv2d(state, next(parameters), next(parameters), padding=1, groups=self.count)
            named = {name: next(parameters) for name, _ in block.normalisation.named_parameters()}
            state = block.pool(block.activation(functional_call(norm, named, (state,))))
        embedding = state.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(2)
        weight, bias = (next(parameters).unflatten(0, (self.count, -1)) for _ in range(2))
        return torch.baddbmm(bias.unsqueeze(1), embedding, weight.transpose(1, 2))

    def changed(self) -> list[torch.Tensor]:
        """The tensors that a step changes, besides the parameters: running moments."""
        return [buffer for norm in self.norms for buffer in norm.buffers()]

    def unstacked(self, networks: Sequence[ConvNet]) -> list[ConvNet]:
        """Copy parameters and running moments back into ``networks``, on the device."""
        apart = [view.detach().chunk(self.count) for view in self._views()]
        for index, network in enumerate(networks):
            network.to(memory_format=torch.channels_last).to(self.flat.device)
            for parameter, parts in zip(network.parameters(), apart, strict=True):
                parameter.data.copy_(parts[index])
            for block, norm in zip(network.conv_blocks(), self.norms, strict=True):
                for own, all_of_them in zip(block.normalisation.buffers(), norm.buffers(), strict=True):
                    own.copy_(all_of_them.chunk(self.count)[index] if all_of_them.ndim else all_of_them)
        return list(networks)

    def _views(self) -> list[torch.Tensor]:
        """The parameters by kind; one split, whose gradient is one concatenation."""
        parts = self.flat.split([torch.Size(shape).numel() for shape in self.shapes])
        return [_unrowed(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _rows(parameter: torch.Tensor) -> torch.Tensor:
    """Convolution weights in channels-last order, everything else unchanged."""
    return parameter.permute(0, 2, 3, 1) if parameter.ndim == 4 else parameter


def _unrowed(part: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) != 4:
        return part.view(shape)
    out, channels, height, width = shape
    return part.view(out, height, width, channels).permute(0, 3, 1, 2)


def _side_by_side(norm: nn.Module, count: int) -> nn.Module:
    """The same normalisation over ``count`` times as many channels, or groups of them."""
    if isinstance(norm, nn.BatchNorm2d):
        return nn.BatchNorm2d(norm.num_features * count, eps=norm.eps, momentum=norm.momentum)
    if isinstance(norm, InstanceNorm):
        return InstanceNorm(norm.num_channels * count)
    if isinstance(norm, nn.GroupNorm):
        return nn.GroupNorm(norm.num_groups * count, norm.num_channels * count, eps=norm.eps)
    return norm
