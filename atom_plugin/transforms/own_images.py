"""Preprocess a user's own images like those of a set: read, resize as the set's source was, and preprocess."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from atom_plugin.datasets.pixels import Decoding, decode, pixels_of, resize_all
from atom_plugin.datasets.unreadable import why_unreadable
from atom_plugin.errors import ConfigError, SourceError, shape_text
from atom_plugin.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image


_DEFAULT = Decoding()


@dataclass(frozen=True, kw_only=True)
class OwnImages:
    """A transform in the style of ``torchvision.transforms.v2``: an image of any size in, a preprocessed tensor out.

    It takes a file name, a Pillow image, or a uint8 tensor (..., C, H, W), and gives float32 (C, H, W) or (..., C, H, W). The
    largest central part with the aspect ratio of the set's images is resized to their size, bicubic and antialiased, like the
    images of a folder source; a file name gives exactly the source's pixels. Grey images become colour if the set has colour.
    """

    preprocessing: Preprocessing
    decoding: Decoding = _DEFAULT

    def __call__(self, image: str | Path | Image.Image | torch.Tensor) -> torch.Tensor:
        """The image as networks see it.

        Raises SourceError for a file that cannot be read, ConfigError for a colour image if the set is grey, and for other
        types.
        """
        if isinstance(image, str | Path):
            pixels = self._file(Path(image))
        elif isinstance(image, torch.Tensor):
            pixels = _checked(image)
        else:
            pixels = self._held(image)
        return self.preprocessing.forward(self._fitted(pixels))

    def __repr__(self) -> str:
        return f"OwnImages(to {shape_text(self.preprocessing.image_shape)}, {self.preprocessing.describe()})"

    def _file(self, path: Path) -> torch.Tensor:
        _, height, width = self.preprocessing.image_shape
        # With a side, a large JPEG is decoded at a fraction of its size, as the source was.
        how = dataclasses.replace(self.decoding, image_size=height if height == width else None)
        try:
            return torch.from_numpy(decode(path, how).copy())
        except Exception as error:  # PIL's plugins raise anything from struct.error to SyntaxError
            raise SourceError(f"{path}: {why_unreadable(str(path), error)}; repair it, or leave it out") from error

    def _held(self, image: Image.Image) -> torch.Tensor:
        from PIL import Image

        if not isinstance(image, Image.Image):
            raise ConfigError(
                f"found an image of type {type(image).__name__}, expected a file name, a Pillow image, or a uint8 "
                "tensor (C, H, W); convert it"
            )
        how = dataclasses.replace(self.decoding, image_size=None)
        try:
            return torch.from_numpy(pixels_of(image, how).copy())
        except (OSError, ValueError) as error:
            raise SourceError(f"the image cannot be read: {error}; convert it to 8 bits") from error

    def _fitted(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (..., c, h, w) with the channels and the size of the set's images."""
        channels, height, width = self.preprocessing.image_shape
        found = pixels.shape[-3]
        if found == 1 and channels == 3:
            pixels = pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
        elif found != channels:
            kinds = {1: "1 channel (grey)", 3: "3 channels (colour)"}
            what, wanted = (kinds.get(count, f"{count} channels") for count in (found, channels))
            raise ConfigError(f"found an image of {what}, expected {wanted} as in the set; convert it")
        if pixels.shape[-2:] == (height, width):
            return pixels
        # A channel at a time, whatever their number: they are resized independently.
        planes = pixels.reshape(-1, 1, *pixels.shape[-2:]).cpu().numpy()
        resized = torch.from_numpy(resize_all(planes, height, width))
        return resized.view(*pixels.shape[:-2], height, width).to(pixels.device)


def _checked(image: torch.Tensor) -> torch.Tensor:
    if image.dtype != torch.uint8 or image.ndim < 3 or 0 in image.shape[-3:]:
        raise ConfigError(
            f"found a tensor of type {image.dtype} and shape {tuple(image.shape)}, expected uint8 (..., C, H, W), "
            "values 0 to 255; convert it (torchvision.transforms.v2.PILToTensor returns uint8)"
        )
    return image.as_subclass(torch.Tensor)
