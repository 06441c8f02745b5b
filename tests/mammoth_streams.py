"""A small data set as Mammoth has them, on the stand-in for it."""

from __future__ import annotations

from typing import Any

import mammoth_stand_in as stand_in
import torch
from small import coloured_source
from torch.utils.data import Dataset
from torchvision import transforms

DATA = coloured_source(classes=6, per_class=10)
MEAN, STD = (0.25, 0.3, 0.35), (0.2, 0.25, 0.5)
NORMALISE = transforms.Normalize(MEAN, STD)


class Coloured(Dataset[tuple[Any, ...]]):
    """The samples of Mammoth's data sets: (augmented and normalised image, class, image before that)."""

    def __init__(self, split: Any, labels: Any = None) -> None:
        self._images = split.images.float() / 255
        self.targets = split.labels.numpy() if labels is None else labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image = self._images[index]
        return NORMALISE(image + 0.01 * torch.rand(1)), self.targets[index], image


class MammothStream(stand_in.ContinualDataset):
    NAME, SETTING = "seq-coloured", "class-il"
    N_CLASSES_PER_TASK, N_TASKS, N_CLASSES = 2, 3, 6
    labels: Any = None

    def get_data_loaders(self) -> Any:
        return stand_in.store_masked_loaders(Coloured(DATA.train, self.labels), Coloured(DATA.test), self)

    def get_class_names(self) -> list[str]:
        return list(DATA.class_names)

    def get_normalization_transform(self) -> Any:
        return NORMALISE

    def get_loss(self) -> Any:
        return torch.nn.functional.cross_entropy

    def get_transform(self) -> Any:
        return transforms.Compose([transforms.ToPILImage(), NORMALISE])
