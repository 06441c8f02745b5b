"""Parameters and map sizes of networks at several image sizes, for docs/models.md: `python benchmarks/models.py [--sizes 32,64]
[NAME…]`.

Prints one row of markdown per network, the papers' first: its parameters in millions and the side of the first convolution's
map, at each size, and how many of its parameters random images give no gradient, if any; or the reason for a refusal. Nothing
is trained. `--smallest` takes the smallest model of each of timm's modules, up to 31 M parameters.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import nn

from atom_plugin.models import NAMED_MODELS, TIMM_PREFIX, ModelError, build_model, parameters_without_gradient
from atom_plugin.runtime.randomness import generator_for

FAMILIES = (
    *NAMED_MODELS,
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
    "timm:coat_tiny",
    "timm:coat_lite_tiny",
    "timm:maxvit_tiny_tf_224",
    "timm:gcvit_xxtiny",
    "timm:coatnet_nano_rw_224",
    "timm:inception_v3",
)

SMALLEST = """
    halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnext_atto_rms cpubone_nano
    crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c
    dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 mobilenetv2_035 efficientvim_m1 efficientvit_b0
    efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
    hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto
    inception_v3 lcnetv2_small levit_128s lowformer_b0 test_mambaout maxvit_pico_rw_256 poolformerv2_s12
    gmlp_ti16_224 lcnet_035 mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pvt_v2_b0
    rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t resnetv2_18 rexnet_100
    selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
    tresnet_m twins_svt_small visformer_tiny flexivit_small vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224
    vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
""".split()  # of timm 1.0.31  # noqa: SIM905 - eighty names are read better as a block


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
    dead = len(parameters_without_gradient(network, (3, size, size)))
    return f"{parameters / 1e6:.2f} M, {sides[0]}{f', {dead} without gradient' if dead else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=FAMILIES)
    parser.add_argument("--sizes", default="32,64")
    parser.add_argument("--smallest", action="store_true")
    options = parser.parse_args()
    names = [TIMM_PREFIX + name for name in SMALLEST] if options.smallest else options.names
    sizes = [int(size) for size in options.sizes.split(",")]
    warnings.simplefilter("ignore")
    print(f"| network | {' | '.join(f'{size}x{size}' for size in sizes)} |")
    print("|---" * (len(sizes) + 1) + "|")
    for name in names:
        print(f"| `{name}` | {' | '.join(cell(name, size) for size in sizes)} |", flush=True)


if __name__ == "__main__":
    main()
