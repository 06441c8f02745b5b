"""Which layers of a network are matched, where nobody names them: a rule that knows no family of networks by name.

One batch of blank images passes, and every layer that runs is seen in turn.

- Maps: the last output (N, C, H, W) of every resolution, from fine to coarse. A stage counts as one layer, since its own output
  comes after its blocks'; layers inside a block that changes the resolution do not count. Only maps with the image's aspect
  ratio count, and more than one place.
- Embedding: what the last layer with weights is given, flattened: the classifier's input.

For the :class:`~atom_plugin.models.convnet.ConvNet` this gives the maps before each pooling and the flattened last map, as the
papers match them; a ResNet gives its stages. Like there, a matcher leaves the last map to the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from atom_plugin.errors import ConfigError
from atom_plugin.models.batchnorm import batch_norms
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.features import INPUT, FeatureExtractor, FeatureFunction


def feature_function(
    network: nn.Module, image_shape: tuple[int, int, int], *, layers: Sequence[str] = ()
) -> FeatureFunction:
    """The extractor of :class:`~atom_plugin.models.features.Features` from ``network``, made for images (C, H, W).

    ``layers`` are the names of the layers whose maps are matched, in place of the rule. Raises ConfigError for names that the
    network lacks.
    """
    if isinstance(network, ConvNet):
        if layers:
            raise ConfigError("the ConvNet's maps are chosen by number: give --matcher-option layers=[1,2] instead")
        return network.features
    found, embedding = feature_layers(network, image_shape)
    # Matchers leave the last map to the embedding: of maps that were named, all are meant, so the last stands twice.
    maps = [*layers, layers[-1]] if layers else found
    return FeatureExtractor(network, maps=maps, embedding=embedding)


def feature_layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[list[str], str]:
    """Names of the layers whose maps are matched, and of the embedding, as :class:`FeatureExtractor` takes them."""
    sizes, weighted = _sizes_of_maps(network, image_shape)
    modules = dict(network.named_modules())
    last_of_size: dict[tuple[int, int], str] = {}
    for name, size in sizes.items():
        parts = name.split(".")
        around = [".".join(parts[:count]) for count in range(1, len(parts))]
        inside_a_change = any(
            sizes.get(outer, size) != size and not isinstance(modules[outer], nn.Sequential) for outer in around
        )
        if not inside_a_change:
            last_of_size[size] = name
    fine_to_coarse = sorted(last_of_size, reverse=True)
    return [last_of_size[size] for size in fine_to_coarse], weighted + INPUT


def _sizes_of_maps(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[dict[str, tuple[int, int]], str]:
    """Height and width of every layer's map, in the order in which they run, and the name of the last layer with weights."""
    sizes: dict[str, tuple[int, int]] = {}
    weighted = ""

    def look(name: str, module: nn.Module, output: object) -> None:
        nonlocal weighted
        if next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None:
            weighted = name
        # What a softmax or a dropout gives with four dimensions is attention between places.
        if isinstance(output, torch.Tensor) and output.ndim == 4 and not isinstance(module, nn.Dropout | nn.Softmax):
            height, width = output.shape[2:]
            if height * width > 1 and height <= image_shape[1] and height * image_shape[2] == width * image_shape[1]:
                sizes[name] = (height, width)

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in network.named_modules()
        if name
    ]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            example = next(network.parameters())
            network.eval()(torch.zeros(2, *image_shape, device=example.device, dtype=example.dtype))
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return sizes, weighted


def matching_mode(network: nn.Module) -> None:
    """Prepare ``network`` for matching: no dropout, and batch normalisation by the batch's moments."""
    network.eval()
    for norm in batch_norms(network):
        norm.train()
