"""The recipes: default values of DistillConfig's fields, by image shape (C, H, W) and IPC.

``network`` is a mapping of fields of ConvNetConfig. The matcher's ``loop_defaults`` fill what a recipe leaves open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atom_plugin.errors import ConfigError, unknown
from atom_plugin.transforms.whitening import DATADAM_EPS, MTT_EPS


def _atom(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """The recipe that measures best for the matcher atom; docs/notes/recipes.md and docs/notes/accuracy.md have the
    measurements behind each choice.

    At a constant rate of 1 the images end in the noise of the last steps; a rate that falls to 0 removes it. Batch
    normalisation and ZCA help colour images of 32 pixels and more; small or grey ones, and any at IPC 1, collapse under batch
    normalisation, and small or grey ones gain nothing from ZCA.
    """
    colour = image_shape[0] >= 3 and min(image_shape[1:]) >= 32
    return {
        "matcher": "atom",
        "matcher_options": {"p_s": 4.0, "p_c": 4.0, "task_balance": 0.01, "loss_scale": 100.0},
        "iterations": 1000 if colour else 300,
        "real_batch": 64,
        "image_schedule": "cosine",
        "network": {"normalisation": "batch" if colour and ipc > 1 else "instance"},
        "zca_eps": DATADAM_EPS if colour and image_shape[1:] == (32, 32) else None,
    }


def _atom_paper(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """ATOM as printed: no loss factor, 8,000 iterations, real batch 128, MTT's ZCA for 32x32 colour images.

    The supplement says "the same setting as MTT", whose code whitens images in [0, 1]. The main text names kornia's defaults.
    """
    zca = image_shape == (3, 32, 32)
    return {
        "matcher": "atom",
        "matcher_options": {"p_s": 4.0, "p_c": 4.0, "task_balance": 0.01, "loss_scale": 1.0},
        "iterations": 8000,
        "real_batch": 128,
        "network": {"normalisation": "instance", "pool_size": 3, "weight_init": "normal"},
        "standardise": not zca,
        "zca_eps": MTT_EPS if zca else None,
    }


def _datadam_paper(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DataDAM as printed: spatial attention with p = 4, real batch 256."""
    return {
        **_atom_paper(image_shape, ipc),
        "matcher": "datadam",
        "matcher_options": {"p_s": 4.0, "task_balance": 0.01, "loss_scale": 1.0},
        "real_batch": 256,
    }


def _datadam_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DataDAM as released: p = 1, batch normalisation, loss times 100, 20,000 iterations, ZCA off by default."""
    return {
        "matcher": "datadam",
        "matcher_options": {"p_s": 1.0, "task_balance": 0.01, "loss_scale": 100.0},
        "iterations": 20_000,
        "real_batch": 64,
        "image_lr": 1.0 if ipc <= 50 else 10.0,
        "network": {"normalisation": "batch"},
    }


def _dc_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DC as released: 1,000 networks, each trained on the set between matching steps, real batch 256, no augmentation.

    At IPC 1, 10, 20 and 50 the loops are the released ones; in between, the number of epochs keeps their product.
    """
    return {
        "matcher": "dc",
        "inner_loop": ipc,
        "iterations": 1000 * ipc,
        "network_epochs": max(1, 500 // max(ipc, 10)) if ipc > 1 else 0,
        "real_batch": 256,
        "image_init": "noise",
    }


def _dsa_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DSA as released: DC's loops with siamese augmentation, starting from real images, networks trained without momentum."""
    return {**_dc_code(image_shape, ipc), "matcher": "dsa", "image_init": "random", "network_momentum": 0.0}


def _dcc_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DC's released loops with DCC's loss (Lee et al., 2022); no release of DCC was found, so its own loop is not known."""
    return {**_dc_code(image_shape, ipc), "matcher": "dcc"}


def _mtt_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """MTT as released for CIFAR-10: 5,000 iterations; needs --pool, of networks kept at every epoch.

    Its page prints an image learning rate of 100,000 at IPC 10, a misprint by its authors' own word; 100 and a step size of
    0.001 are what its successors run it with. Experts there have no momentum and a constant rate, as
    those of `pool make --training-recipe mtt-experts`. Images are whitened in [0, 1] there, standardised before here.
    """
    small, large = ipc < 10, ipc >= 50
    colour = image_shape[0] >= 3 and image_shape[1:] == (32, 32)
    return {
        "matcher": "mtt",
        "matcher_options": {
            "student_steps": 50 if small else 30,
            "expert_epochs": 2,
            "oldest": 1 if small else 39 if large else 19,
            "step_size": 0.01 if small else 0.001,
            "step_size_lr": 1e-7 if small else 1e-5,
        },
        "iterations": 5000,
        "image_lr": 1000.0 if large else 100.0,
        "network": {"normalisation": "instance"},
        "zca_eps": DATADAM_EPS if colour and not large else None,
    }


def _best(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """The recipe with the best results here: images packed 2x2 and stored as pixels; with --pool, calibrated under its
    networks.

    Chosen on held-out training images of CIFAR-10 at IPC 10 (docs/results.md); the rate grows with the images per class, since
    each one's share of a class's mean shrinks. Small, grey and odd-sided images use the recipe atom.
    """
    plain = _atom(image_shape, ipc)
    if image_shape[0] < 3 or min(image_shape[1:]) < 32 or any(side % 2 for side in image_shape[1:]):
        return plain
    return {
        **plain,
        "factor": 2,
        "storage": "uint8",
        "image_lr": 0.4 * ipc,
        "iterations": 3000,
        "calibration": 100.0,
        "zca_eps": None,
    }


def _dance(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DANCE (Zhang et al., 2024), as far as its choices fit: needs --pool, with networks trained 60 epochs in its paper.

    Embeddings only, packed pixels, 10,000 iterations. Its rate of 0.01 * IPC is for pixels in [0, 1]; the rate here is for
    standardised images, about 1 / 0.25^2 times as large. Its cross entropy is a separate step, here it is added to the loss.
    """
    return {
        "matcher": "dm",
        "factor": _halves(image_shape),
        "storage": "uint8",
        "image_lr": 0.16 * ipc,
        "iterations": 10_000,
        "real_batch": 128,
        "calibration": 1.0,
        "augmentation": "color_crop_cutout",
        "network": {"normalisation": "instance"},
    }


def _idm(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """IDM (Zhao et al., 2023) as released for CIFAR-10: a queue of networks, calibration by their accuracy, packed images.

    Its accuracy is in percent, and its cross entropy a sum of class means: hence 100 and 10 beside its weight. Its images are
    standardised and not clamped, its classes take their steps one after the other.
    """
    return {
        "matcher": "dm",
        "factor": _halves(image_shape),
        "image_lr": 0.2,
        "iterations": 20_000,
        "real_batch": 256 if ipc > 1 else 5000,
        "network_state": "queue",
        "queue_every": 30 if ipc > 1 else 5,
        "calibration": (0.5 if ipc < 50 else 0.1) * 100 * 10,
        "calibration_by_accuracy": True,
        "network": {"normalisation": "instance"},
    }


def _m3d(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """M3D (Zhang et al., 2024), from a copy of its script: embeddings as distributions, five steps for each random network.

    Its numbers are from a later project's configuration for other images of 32x32 (docs/recipes.md). Its rate
    of 10 is for pixels in [0, 1]; the rate here is for standardised images, about 1 / 0.25^2 times as large.
    """
    return {
        "matcher": "dm",
        "matcher_options": {"kernel": "mixture"},
        "factor": _halves(image_shape),
        "storage": "uint8",
        "image_lr": 160.0,
        "iterations": 10_000,
        "real_batch": 64,
        "inner_loop": 5,
        "augmentation": "color_crop_cutout",
        "network": {"normalisation": "instance"},
    }


def _halves(image_shape: tuple[int, int, int]) -> int:
    """The factor 2 where it divides both sides, else 1."""
    return 2 if all(side % 2 == 0 for side in image_shape[1:]) else 1


RECIPES: dict[str, Callable[[tuple[int, int, int], int], dict[str, Any]]] = {
    "atom": _atom,
    "atom-paper": _atom_paper,
    "datadam-paper": _datadam_paper,
    "datadam-code": _datadam_code,
    "dc-code": _dc_code,
    "dsa-code": _dsa_code,
    "dcc-code": _dcc_code,
    "mtt-code": _mtt_code,
    "best": _best,
    "dance": _dance,
    "idm": _idm,
    "m3d": _m3d,
}


def recipe_values(name: str, image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """The values of the recipe ``name``, with ``network`` and ``matcher_options``. Raises ConfigError for an unknown recipe."""
    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    if not _is_shape(image_shape):
        raise ConfigError(f"image_shape must be (channels, height, width), each 1 or more, not {image_shape!r}")
    return {"recipe": name, "matcher_options": {}, "network": {}, **RECIPES[name](image_shape, ipc)}


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, (tuple, list))
        and len(shape) == 3
        and all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in shape)
    )
