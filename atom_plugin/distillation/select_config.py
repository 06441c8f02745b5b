"""The config of a selection of real images, stored as JSON in the set that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.set_config import METHODS, SetConfig, all_operations
from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import about, config_class, current_names


@config_class
@dataclass(frozen=True, kw_only=True)
class SelectConfig(SetConfig):
    """All choices that determine a set of real images.

    ``network`` chooses, unless the method is random; whatever the method, it is what the set is trained with by default. Raises
    ConfigError for a value of a wrong type or outside its bounds, and for choices that contradict each other.
    """

    augmentation: str = field(
        default_factory=all_operations,
        metadata=about("Siamese augmentation for training the network that the selection uses."),
    )
    method: str = field(
        default="random",
        metadata=about(
            "How images are chosen: herding and k-center compare embeddings, forgetting counts what training forgets.",
            group="Images",
            choices=METHODS,
            default="random",
        ),
    )

    @property
    def choice(self) -> str:
        """As ``method``."""
        return self.method

    @property
    def made_by(self) -> str:
        """The method."""
        return self.method

    def to_json(self) -> dict[str, Any]:
        """As :meth:`SetConfig.to_json`, without the augmentation if no network is trained."""
        values = super().to_json()
        if not self.choosing_epochs:
            del values["augmentation"]
        return values

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SelectConfig:
        """As :meth:`SetConfig.from_json`. Older releases stored a whole run's config; fields that a selection does not use are
        dropped.
        """
        values = current_names(DistillConfig, stored)
        if "method" not in values and "image_init" in values:
            own = {each.name for each in fields(cls)}
            values = {name: value for name, value in values.items() if name in own} | {"method": values["image_init"]}
        return super().from_json(values)


def current_json(method: str, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config in a set's provenance in the form of this release, or unchanged if this release does not know its kind."""
    kind = SelectConfig if method in METHODS else DistillConfig
    try:
        return kind.from_json(stored).to_json()
    except ConfigError:
        return stored
