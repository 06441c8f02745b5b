"""The config fields that distilled and selected sets share, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from atom_plugin.distillation.recipe_config import RecipeConfig
from atom_plugin.errors import ConfigError, shown
from atom_plugin.runtime.settings import about, abouts, check_values, current_names, without_unknown

if TYPE_CHECKING:
    # Not at run time: a command's help imports the configs, and must not wait for torch.
    from atom_plugin.datasets import SourceData
    from atom_plugin.models.convnet import ConvNetConfig
    from atom_plugin.transforms.preprocessing import Preprocessing

METHODS = ("random", "herding", "k-center", "forgetting")
STORAGES = ("float32", "float16", "uint8")
PRECISIONS = ("auto", "float32", "bfloat16")
Config = TypeVar("Config", bound="SetConfig")


def _network() -> ConvNetConfig:
    from atom_plugin.models.convnet import ConvNetConfig

    return ConvNetConfig()


def all_operations() -> str:
    """The default siamese augmentation."""
    from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY

    return DEFAULT_STRATEGY


@dataclass(frozen=True, kw_only=True)
class SetConfig(RecipeConfig):
    """The choices for every set. Fields that depend on another choice are None if they are not given."""

    ipc: int = field(metadata=about("Images per class.", group="Images", metavar="N", at_least=1))
    factor: int = field(
        default=1,
        metadata=about(
            "Tiles along each side of a stored image: 2 packs four images of half the side into one.",
            group="Images",
            metavar="N",
            at_least=1,
            default="1",
        ),
    )
    storage: str = field(
        default="float32",
        metadata=about(
            "Number format of stored images: preprocessed float32 or float16, or uint8 pixels, which take a quarter "
            "of float32's bytes; with uint8, distillation clamps images to the pixel range.",
            group="Images",
            choices=STORAGES,
            default="float32",
        ),
    )
    standardise: bool = field(
        default=True,
        metadata=about(
            "Standardise images: subtract each channel's mean and divide by its standard deviation.", group="Data"
        ),
    )
    zca_eps: float | None = field(
        default=None,
        metadata=about(
            "Apply ZCA whitening with this eps; MTT and DataDAM use 0.1, kornia's default is 1e-6.",
            group="Data",
            metavar="EPS",
            above=0,
        ),
    )
    augmentation: str = field(
        default_factory=all_operations,
        metadata=about(
            "Siamese augmentation of real and synthetic images: operations joined by _ "
            "(color_crop_cutout_flip_scale_rotate are all), or none.",
            group="Matching",
            metavar="OPS",
        ),
    )
    embedding: str | None = field(
        default=None,
        metadata=about(
            "Network that computes embeddings for herding and k-center: random, or trained:EPOCHS on the real "
            "images first.",
            group="Images",
            metavar="STATE",
            beside="herding and k-center",
            fallback="random",
        ),
    )
    forgetting_epochs: int | None = field(
        default=None,
        metadata=about(
            "Training epochs on the real images during which the method forgetting counts forgetting events.",
            group="Images",
            metavar="N",
            at_least=2,  # right in one, wrong in the next, is an event
            beside="forgetting",
            fallback=20,
        ),
    )
    seed: int = field(
        default=0,
        metadata=about(
            "Seed of all random draws; the same seed on the same machine gives the same result.",
            group="Machine",
            metavar="N",
            at_least=0,
            at_most=2**64 - 1,
            default="0",
        ),
    )
    precision: str = field(
        default="auto",
        metadata=about(
            "Number format of the networks' arithmetic; auto takes bfloat16 if the device computes it fast, so "
            "results differ between devices.",
            group="Machine",
            choices=PRECISIONS,
            default="auto",
        ),
    )
    network: ConvNetConfig = field(
        default_factory=_network,
        metadata=about("ConvNet of the distillation, and default network for training on the set."),
    )

    def __post_init__(self) -> None:
        from atom_plugin.models.convnet import ConvNetConfig
        from atom_plugin.transforms.augmentation import Augmentation
        from atom_plugin.transforms.packing import WHITENED_TILES

        check_values(self, ConvNetConfig=ConvNetConfig)
        Augmentation(strategy=self.augmentation)
        if self.factor > 1 and self.zca_eps is not None:
            raise ConfigError(WHITENED_TILES.format(factor=self.factor))
        for name, counts in self._counting().items():
            if (given := getattr(self, name)) is not None and not counts:
                beside = abouts(type(self))[name].beside
                raise ConfigError(f"{name} ({given}) is only for {beside}; give that as well, or leave {name} out")
        if self.embedding is not None:
            trained_epochs(self.embedding, "embedding")

    @property
    def tiles(self) -> int:
        """Number of images that networks see for each stored image."""
        return self.factor**2

    @property
    def choice(self) -> str:
        """How real images are selected: one of :data:`METHODS`, or another word if none are."""
        raise NotImplementedError

    @property
    def made_by(self) -> str:
        """The matcher's or the method's name, used in file names."""
        raise NotImplementedError

    def _counting(self) -> dict[str, bool]:
        """For each field that depends on another choice: whether that choice is made, so that the field has an effect."""
        return {
            "embedding": self.choice in ("herding", "k-center"),
            "forgetting_epochs": self.choice == "forgetting",
        }

    def _value(self, name: str) -> Any:
        """The value of a field that depends on another choice, or its default."""
        given = getattr(self, name)
        return abouts(type(self))[name].fallback if given is None else given

    @property
    def embedding_state(self) -> str:
        """``embedding``, with its default."""
        state: str = self._value("embedding")
        return state

    @property
    def choosing_epochs(self) -> int:
        """Training epochs on the real images before the selection; 0 if the selection uses no trained network."""
        if self.choice == "forgetting":
            epochs: int = self._value("forgetting_epochs")
            return epochs
        return trained_epochs(self.embedding_state, "embedding")

    def fit_preprocessing(self, data: SourceData) -> Preprocessing:
        """The config's preprocessing, fitted on the real training images. Raises ConfigError for a factor that does not fit."""
        from atom_plugin.transforms.packing import check_factor
        from atom_plugin.transforms.preprocessing import Preprocessing

        check_factor(self.factor, data.image_shape)
        return Preprocessing.fit(
            data.train, standardise=self.standardise, mean=data.mean, std=data.std, zca_eps=self.zca_eps
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of every choice that has an effect, defaults included."""
        counting = self._counting()
        values = {name: self._value(name) if name in counting else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if counting.get(name, True)}

    @classmethod
    def from_json(cls: type[Config], stored: Mapping[str, Any]) -> Config:
        """The inverse of :meth:`to_json`, also for JSON of older releases; a missing choice has its default.

        Older releases stored every field; those without effect are left out. Raises ConfigError for JSON of a newer release.
        """
        from atom_plugin.models.convnet import ConvNetConfig

        values = without_unknown(cls, current_names(cls, stored))
        if isinstance(values.get("network"), Mapping):
            values["network"] = ConvNetConfig.from_json(values["network"])
        return cls._where_they_count(values, {})


def trained_epochs(state: str, name: str) -> int:
    """EPOCHS of "trained:EPOCHS", 0 of "random". Raises ConfigError for any other ``state``, calling it ``name``."""
    kind, _, epochs = state.partition(":")
    if kind == "trained" and epochs.isdecimal() and len(epochs) < 10 and int(epochs) >= 1:
        return int(epochs)
    if state != "random":
        raise ConfigError(f"{name} must be random or trained:EPOCHS (trained:3), not {shown(state)}")
    return 0
