"""How a recipe fills a config: the recipe's values, then the defaults of its matcher, then the given values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import abouts, check_value

if TYPE_CHECKING:
    from atom_plugin.models.network_pool import NetworkPool

Config = TypeVar("Config", bound="RecipeConfig")


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """A config that recipes fill. Its subclasses have the fields, and tell which have an effect."""

    def _counting(self) -> dict[str, bool]:
        """For each field that depends on another choice: whether that choice is made, so that the field has an effect."""
        return {}

    @classmethod
    def from_recipe(
        cls: type[Config],
        recipe: str,
        *,
        ipc: int,
        image_shape: tuple[int, int, int],
        network: Mapping[str, Any] | None = None,
        zca: bool | None = None,
        **overrides: Any,
    ) -> Config:
        """The recipe's choices for images (C, H, W), with ``overrides`` of fields and of ``network`` fields on top.

        An override of None counts as not given. ``zca`` switches whitening without naming an eps: the recipe's own, else
        DataDAM's; a ``factor`` above 1 switches the recipe's off. The network is that of a ``pool``, where one is given,
        and the images' form that of a set to ``extend``.
        ``matcher_options`` are merged into the recipe's while the matcher is the recipe's; another matcher starts from its own
        defaults, and its ``loop_defaults`` take the place of the recipe's choices. Raises ConfigError for an unknown recipe or
        a contradiction, PluginError for an unknown matcher.
        """
        from atom_plugin.distillation.recipes import recipe_values
        from atom_plugin.models.convnet import ConvNetConfig

        given = {name: value for name, value in overrides.items() if value is not None}
        options = given.pop("matcher_options", {})
        for name, value, hint in (
            *(("recipe", recipe, str), ("ipc", ipc, int), ("zca", zca, bool | None)),
            *(("network", network, Mapping | None), ("matcher_options", options, Mapping)),
        ):
            check_value(name, value, hint)
        values = cls._with_matcher(recipe_values(recipe, image_shape, ipc), given.get("matcher"))
        chosen = values["network"]
        own = {each.name for each in fields(cls)}
        if given.get("pool") is not None and "pool" in own:
            pool = _pool(given["pool"])
            chosen = asdict(pool.network)
            state = values.get("network_state", "random")
            values |= {"network_state": "interpolated" if state == "random" else state, "pool_sha256": pool.sha256}
        if given.get("extend") is not None and "extend" in own:
            values |= _grown(given["extend"])
        values["network"] = ConvNetConfig(**{**chosen, **(network or {})})
        if given.get("nested") is not None:  # so that the first images are good ones from the start
            values = {"image_init": "herding", **values}
        values["matcher_options"] = {**values["matcher_options"], **options}
        packed = given.get("factor", values.get("factor", 1)) != 1
        values["zca_eps"] = _eps(None if packed else values.get("zca_eps"), zca, given.pop("zca_eps", None))
        return cls._where_they_count(
            {name: value for name, value in {**values, "ipc": ipc}.items() if name in own}, given
        )

    @classmethod
    def _with_matcher(cls, recipe: dict[str, Any], matcher: str | None) -> dict[str, Any]:
        """The values of a recipe, including the defaults of its matcher, or of ``matcher`` in its place."""
        return recipe

    @classmethod
    def _where_they_count(cls: type[Config], values: dict[str, Any], given: Mapping[str, Any]) -> Config:
        """Of ``values``, and what is ``given`` in their place; of the former, a field that says nothing is left out."""
        belonging = {name: values.pop(name) for name, item in abouts(cls).items() if item.beside and name in values}
        config = cls(**{**values, **given})
        counting = config._counting()
        return replace(config, **{k: value for k, value in belonging.items() if k not in given and counting[k]})


def _pool(path: str) -> NetworkPool:
    """The pool at ``path``. Raises StoreError for a file that is not a pool."""
    from atom_plugin.models.network_pool import NetworkPool

    check_value("pool", path, str)
    return NetworkPool.load(path)


def _grown(path: str) -> dict[str, Any]:
    """The choices that a set to be extended fixes for the run. Raises StoreError for a file that is not a set."""
    from atom_plugin.distillation.held_set import form_of, history_of

    check_value("extend", path, str)
    return {**form_of(path), "extended": history_of(path)}


def _eps(recipes: float | None, zca: bool | None, given: float | None) -> float | None:
    """The ZCA eps from the recipe, the switch and the given eps. Raises ConfigError if the latter two contradict each other."""
    from atom_plugin.transforms.whitening import DATADAM_EPS

    if zca is False and given is not None:
        raise ConfigError(f"found a ZCA eps ({given}) beside ZCA switched off; give one of the two")
    if given is not None:
        return given
    return None if zca is False else recipes or (DATADAM_EPS if zca else None)
