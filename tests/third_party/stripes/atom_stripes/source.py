"""An image source: stripes of three directions, computed rather than read."""

import torch

from atom_plugin.datasets import SourceData, SourceRequest, Split, takes
from atom_plugin.datasets.common import content_digest, stored_options

CLASS_NAMES = ("level", "upright", "slanted")


@takes("image_size")
def load_stripes(request: SourceRequest) -> SourceData:
    """Grey stripes in three directions, 32 images of each, of 8x8 pixels unless asked for another side."""
    size = request.image_size or 8
    train, test = _split(range(24), size), _split(range(24, 32), size)
    return SourceData(
        name="stripes",
        train=train,
        test=test,
        class_names=CLASS_NAMES,
        fingerprint=content_digest(train, test, CLASS_NAMES),
        options=stored_options(request),
    )


def _split(numbers: range, size: int) -> Split:
    """uint8 images (3 * len(numbers), 1, size, size), class-major: width and phase of the stripes follow the number."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = [
        127.5 + 127.5 * torch.sin((place + number) * (1.0 + 0.05 * number))
        for place in (row, column, row + column)
        for number in numbers
    ]
    labels = torch.arange(len(CLASS_NAMES)).repeat_interleave(len(numbers))
    return Split(images=torch.stack(images).to(torch.uint8).unsqueeze(1), labels=labels)
