"""AlexNet, VGG-11, ResNet-18 and the ViT of the cross-architecture tables, and IDC's ResNet-10, for small images.

The tables (ATOM, table 2; DataDAM, table 3) name the architectures only. The details follow the released code of DataDAM, whose
first three are from Dataset Condensation (Zhao et al., 2021). There all are written for 32x32 images, the first three also for
28x28 of one channel. Weights are drawn as there: by torch's default.

Common deviations: any image size and number of channels. Images smaller than a network's pooling allows get a border of zeros;
larger ones are pooled to one size before the classifier. Both do nothing at 32x32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from atom_plugin.errors import ModelError
from atom_plugin.models.convnet import NORMALISATIONS

_POOL = 0  # in a plan: a 2x2 max-pooling
_ALEXNET = ((128, 5), _POOL, (192, 5), _POOL, (256, 3), (192, 3), (192, 3), _POOL)
_VGG11 = ((64, 3), _POOL, (128, 3), _POOL, *((256, 3),) * 2, _POOL, *((512, 3),) * 2, _POOL, *((512, 3),) * 2, _POOL)


def alexnet(image_shape: tuple[int, int, int], classes: int, *, normalisation: str = "none") -> nn.Module:
    """Five convolutions (5, 5, 3, 3, 3; 128 to 256 channels), three max-poolings, one linear layer; 1.9 M parameters.

    ``normalisation`` after each convolution: "none" as in the codes' AlexNet, "batch" as in their AlexNetBN, or any other of
    the ConvNet's. No dropout, as in the codes. 28x28 images get a border of 2 pixels, as the codes do for one channel; smaller
    ones get a border to 32x32; larger ones are average-pooled to the 4x4 map of 32x32 images.
    """
    channels = image_shape[0]
    return nn.Sequential(
        _border(image_shape, 32),
        *_convolutions(_ALEXNET, channels, normalisation),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(192 * 4 * 4, classes),
    )


def vgg11(image_shape: tuple[int, int, int], classes: int, *, normalisation: str = "instance") -> nn.Module:
    """VGG-11's eight 3x3 convolutions and five max-poolings, and one linear layer on 512 features; 9.2 M parameters.

    ``normalisation``: "instance" as in the codes' VGG11, "batch" as in their VGG11BN, or any other of the ConvNet's. No
    dropout, as in the codes. Borders as in :func:`alexnet`; the last map of larger images is averaged over its positions.
    """
    channels = image_shape[0]
    return nn.Sequential(
        _border(image_shape, 32),
        *_convolutions(_VGG11, channels, normalisation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


def resnet18(image_shape: tuple[int, int, int], classes: int, *, normalisation: str = "instance") -> nn.Module:
    """timm's ResNet-18 with a 3x3 stride-1 first convolution and no max-pooling; 11.2 M parameters.

    ``normalisation``: "instance" as in the codes' ResNet18, "batch" as in their ResNet18BN, or any other of the ConvNet's. The
    last block's scale starts at 1 and not at 0, as in the codes. Images below 16 pixels get a border, since a normalised map of
    one position has no information; the codes' 4x4 average pooling is one over the whole map here.
    """
    return _resnet((2, 2, 2, 2), image_shape, classes, normalisation)


def resnet10(image_shape: tuple[int, int, int], classes: int, *, normalisation: str = "instance") -> nn.Module:
    """The ResNet-10 with average pooling that IDC, DANCE and NCFM match and test under on ImageNet subsets; 4.9 M parameters.

    As :func:`resnet18` with one block a stage; where a stage halves the map, average pooling does it in both branches in place
    of strides. Deviation: the first convolution is 3x3 with stride 1 at every image size.
    """
    return _resnet((1, 1, 1, 1), image_shape, classes, normalisation, avg_down=True, aa_layer=_HalvingPool)


def vit(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    patch_size: int | None = None,
    width: int = 512,
    depth: int = 6,
    heads: int = 8,
    mlp_ratio: float = 1.0,
    dropout: float = 0.1,
) -> nn.Module:
    """timm's VisionTransformer with DataDAM's settings: width 512, 6 blocks, 8 heads, MLPs of width 512; 9.5 M parameters.

    Class token, learned positions, no bias in queries, keys and values, dropout 0.1 on tokens, attention's output and MLPs.
    Weights are drawn as in the code: torch's own for linear layers, N(0, 1) for positions and class token.

    ``patch_size``: 4 at 32x32 as in the code, which keeps it at other sizes; here a larger image has larger patches, about
    8x8 of them. Raises ModelError if the patch does not divide the image.
    """
    from timm.models.vision_transformer import VisionTransformer

    channels, size = image_shape[0], image_shape[1:]
    patch = patch_size or patch_for(size, 8)
    if any(side % patch for side in size):
        raise ModelError(
            f"vit cannot cut {size[0]}x{size[1]} images into patches of {patch}; choose one that divides both"
        )
    network: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        qkv_bias=False,
        pos_drop_rate=dropout,
        proj_drop_rate=dropout,
        norm_layer=nn.LayerNorm,
    )
    _draw_as_torch(network)
    for parameter in (network.pos_embed, network.cls_token):
        assert isinstance(parameter, nn.Parameter)
        nn.init.normal_(parameter)
    return network


def _resnet(
    blocks: tuple[int, ...], image_shape: tuple[int, int, int], classes: int, normalisation: str, **options: Any
) -> nn.Module:
    """timm's ResNet with basic blocks for small images; ``options`` are timm's."""
    from timm.models.resnet import BasicBlock, ResNet

    channels = image_shape[0]
    normalise = _normalisation(normalisation)
    block: Any = BasicBlock  # annotated as an instance where the class is meant
    network: nn.Module = ResNet(
        block,
        blocks,
        num_classes=classes,
        in_chans=channels,
        norm_layer=lambda width, **_: normalise(width),
        zero_init_last=False,
        **options,
    )
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    _draw_as_torch(network)
    return nn.Sequential(_border(image_shape, 16), network)


class _HalvingPool(nn.AvgPool2d):
    """Average pooling that rounds up, as in the shortcut branch of timm's ResNet: 7x7 becomes 4x4."""

    def __init__(self, stride: int) -> None:
        super().__init__(stride, ceil_mode=True, count_include_pad=False)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "vgg11": vgg11,
    "resnet18": resnet18,
    "resnet10": resnet10,
    "vit": vit,
}


def patch_for(size: Sequence[int], grid: int) -> int:
    """The patch, in pixels, that divides both sides and cuts the shorter one into about ``grid``; of two, the smaller."""
    wanted = min(size) / grid
    patches = [patch for patch in range(1, min(size) + 1) if all(side % patch == 0 for side in size)]
    return min(patches, key=lambda patch: (max(patch / wanted, wanted / patch), patch))


def _convolutions(plan: Sequence[int | tuple[int, int]], channels: int, normalisation: str) -> list[nn.Module]:
    """Convolution, normalisation and ReLU for each (width, kernel) of ``plan``, and its poolings."""
    normalise = _normalisation(normalisation)
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, int):
            layers.append(nn.MaxPool2d(2))
        else:
            width, kernel = step
            convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
            layers += [convolution, normalise(width), nn.ReLU(inplace=True)]
            channels = width
    return layers


def _normalisation(name: str) -> Callable[[int], nn.Module]:
    if name not in NORMALISATIONS:
        raise ModelError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, not {name!r}")
    return NORMALISATIONS[name]


def _border(image_shape: tuple[int, int, int], least: int) -> nn.Module:
    """Zeros around images with a side below ``least`` pixels, evenly, the odd pixel last; nothing around others."""
    _, height, width = image_shape
    rows, columns = max(0, least - height), max(0, least - width)
    return (
        nn.ZeroPad2d((columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        if rows or columns
        else nn.Identity()
    )


def _draw_as_torch(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers again, by torch's default instead of timm's."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
