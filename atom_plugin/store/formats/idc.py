"""IDC's data.pt: [images, labels] on the [0, 1] scale; with a factor, several small images packed into each.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (2022), section 4: an image of H x H pixels
is cut into factor x factor tiles, each enlarged bilinearly to H x H. A side that factor does not divide is padded with 0.5
at the right and the bottom. A packed set is written packed, with its factor; DANCE and NCFM read the same file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.files import refuse_existing, write_bytes
from atom_plugin.store.formats.coding import convert, standardised
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import require_folder
from atom_plugin.store.formats.labels import Labels, SoftReading, checked_pair
from atom_plugin.store.formats.tensors import dumps, load
from atom_plugin.store.formats.toolkit_coding import NOT_HELD
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.packing import unpack

KIND, TAKES_PACKED = "a torch file", True


def write(synthetic_set: SyntheticSet, path: Path, *, force: bool) -> list[str]:
    """All stored images with their preprocessing undone, not clamped; packed images stay packed."""
    refuse_existing(path, force=force)
    preprocessing = synthetic_set.preprocessing
    channels = preprocessing.image_shape[0]
    neutral = standardised(((0.0,) * channels, (1.0,) * channels), preprocessing.image_shape)
    order = synthetic_set.labels.argsort(stable=True).cpu()
    images = convert(synthetic_set.images.detach().cpu(), preprocessing, neutral)[order].contiguous()
    write_bytes(path, dumps([images, synthetic_set.labels.detach().cpu()[order]]), force=force)
    return [f"images are on the [0, 1] scale: load them with factor {synthetic_set.factor}", NOT_HELD]


def read(
    path: Path,
    context: ImportContext,
    *,
    factor: int = 1,
    soft_labels: str = "keep",
    label_kind: str | None = None,
    trust_pickle: bool = False,
) -> SyntheticSet:
    """A data.pt, or the folder that contains it; ``factor`` is the factor that it was made with."""
    if path.is_dir():
        require_folder(path, ("data.pt",))
    file = path / "data.pt" if path.is_dir() else path
    found = load(file, context, trust_pickle=trust_pickle)
    soft = SoftReading(soft_labels=soft_labels, label_kind=label_kind)
    images, labels = unpacked_pair(*checked_pair(found, str(file), context, soft=soft), factor, context)
    return context.assemble(images, labels.classes, None, soft=labels.soft)


def unpacked_pair(
    images: torch.Tensor, labels: Labels, factor: int, context: ImportContext
) -> tuple[torch.Tensor, Labels]:
    """Images with factor x factor tiles each, and their labels, as one image for each tile. Raises ConfigError."""
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise ConfigError(
            f"factor must be a whole number of 1 or more, not {factor!r}; IDC and IDM use 2 for most sets, 3 for "
            "ImageNet"
        )
    if factor > min(images.shape[2:]):
        raise ConfigError(
            f"factor {factor} is too large for images of {images.shape[2]}x{images.shape[3]}; give a smaller one"
        )
    if factor > 1:
        context.note(f"each image was unpacked into {factor * factor} tiles, enlarged to its size")
    return padded_unpacked(images, factor), labels.repeated(factor * factor)


def padded_unpacked(images: torch.Tensor, factor: int) -> torch.Tensor:
    """:func:`~atom_plugin.transforms.packing.unpack` for any sides, also if the factor does not divide them."""
    height, width = images.shape[2:]
    if height % factor == width % factor == 0:
        return unpack(images, factor)
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    rows, columns = padded.shape[2] // factor, padded.shape[3] // factor
    tiles = padded.unfold(2, rows, rows).unfold(3, columns, columns).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return F.interpolate(tiles, size=(height, width), mode="bilinear", align_corners=False)
