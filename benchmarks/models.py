"""What networks become at some image sizes, for docs/models.md: `python benchmarks/models.py [--sizes 32,64] [NAME…]`.

Prints one row of markdown per network, the papers' first: its parameters in millions and the side of the first
convolution's map, at each size, or why it is refused. Each has seen two blank images by then; nothing is trained.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import nn

from atom_plugin.models import PAPER_MODELS, ModelError, build_model
from atom_plugin.runtime.randomness import generator_for

FAMILIES = (
    *PAPER_MODELS,
    "timm:vit_tiny_patch16_224",
    "timm:deit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:swinv2_tiny_window8_256",
    "timm:mixer_s32_224",
    "timm:resmlp_12_224",
    "timm:convnext_atto",
    "timm:inception_next_atto",
    "timm:pvt_v2_b0",
    "timm:resnet10t",
    "timm:resnet18",
    "timm:densenet121",
    "timm:vgg11",
    "timm:efficientnet_b0",
    "timm:mobilenetv3_small_050",
    "timm:regnetx_002",
    "timm:ghostnet_050",
)


def cell(name: str, size: int) -> str:
    """``"5.36 M, 8"``, or the reason for a refusal."""
    try:
        network = build_model(name, (3, size, size), 10, generator=generator_for(0, "network"))
    except ModelError as error:
        return f"refused: {error}"
    sides: list[int] = []
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda _module, _input, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        network.eval()(torch.zeros(2, 3, size, size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"{parameters / 1e6:.2f} M, {sides[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=FAMILIES)
    parser.add_argument("--sizes", default="32,64")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    warnings.simplefilter("ignore")
    print(f"| network | {' | '.join(f'{size}x{size}' for size in sizes)} |")
    print("|---" * (len(sizes) + 1) + "|")
    for name in options.names:
        print(f"| `{name}` | {' | '.join(cell(name, size) for size in sizes)} |", flush=True)


if __name__ == "__main__":
    main()
