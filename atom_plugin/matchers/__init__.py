"""Matchers: compare real and synthetic images through the features of a network.

A matcher is any callable ``(real: Features, synthetic: Features) -> scalar tensor`` whose gradient reaches the synthetic
images. A matcher that reduces its real side to class means of per-image descriptors derives from :class:`MeanMatcher`: the loop
then streams the real batch through the network and never keeps a full real feature map. A matcher that needs more than features
(gradients of the network, the pixels) derives from :class:`ImageMatcher`.

A factory may have ``loop_defaults``, a mapping of :class:`~atom_plugin.distillation.config.DistillConfig` fields: the loop's
defaults with this matcher, e.g. ``{"augmentation": "none", "network": {"normalisation": "instance"}}``.

Register a matcher by the entry-point group ``atom_plugin.matchers`` or by ``@MATCHERS.register("name")``. The registered object
is a factory (usually the class) whose keyword arguments are the matcher's options.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from atom_plugin.errors import ConfigError, listed
from atom_plugin.models.features import Features, widened
from atom_plugin.runtime.registry import Registry
from atom_plugin.runtime.settings import check_numbers

Statistics = tuple[torch.Tensor, ...]
"""Class means of descriptors: tensors (K, D_i), for each map in order, then for the embedding.

A matcher with ``whole_embeddings`` gets the latter as (K, n, D_i), unreduced.
"""


Powers = tuple["float | None", "float | None"]
"""The powers of a map's absolute values that are summed over channels, (N, H * W), and over positions, (N, C). None: no sum."""


ClassRows = tuple["torch.Tensor | slice", "torch.Tensor | slice"]
"""The rows of a class on the real and on the synthetic side."""


class Matcher(Protocol):
    """Compares two grouped feature lists; returns a scalar to be minimised over the synthetic images."""

    def __call__(self, real: Features, synthetic: Features) -> torch.Tensor:
        """The loss. ``real`` carries no gradient."""


MATCHERS: Registry[Callable[..., Matcher]] = Registry("matcher", "atom_plugin.matchers")
"""Matchers by name: built-in matchers, matchers of installed plugins, and matchers added by ``MATCHERS.register``."""


class MeanMatcher(ABC):
    """A matcher that compares class means of per-image descriptors.

    Every loss here is ``scale * sum_i weight_i * sum_k || mean_real(d_i) - mean_synthetic(d_i) ||^2`` over classes k and
    descriptors d_i. A subclass defines an image's descriptors and the weights of the terms; means over a batch are sums over
    chunks, so the real side can be streamed.
    """

    @property
    def separates(self) -> bool:
        """Whether the loss is a sum over classes, which can then be computed for a few classes at a time, or divided among
        processes.
        """
        return True

    @property
    def whole_embeddings(self) -> bool:
        """Whether the embedding's descriptors stay whole, (K, n, D_i): for losses that are no distance of class means.

        They are small compared with the maps, which are always reduced.
        """
        return False

    @abstractmethod
    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """Descriptors (N, D_i) of one map (N, C, H, W). May be empty: then maps are not even computed on."""

    def map_powers(self) -> Powers | None:
        """The powers of the sums from which :meth:`describe_map` makes its descriptors, if it uses nothing else of a map.

        :meth:`describe_sums` then takes them, so that an engine may compute them without a map in memory. None: it needs the
        map.
        """
        return None

    def describe_sums(self, sums: Sequence[torch.Tensor]) -> Statistics:
        """The result of :meth:`describe_map` from the sums of the powers that :meth:`map_powers` names, in their order."""
        raise NotImplementedError(f"{type(self).__name__} describes maps, not sums")

    @abstractmethod
    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """Descriptors (N, D_i) of the embedding (N, D)."""

    @abstractmethod
    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """The loss between two lists of class means (K, D_i), as :meth:`statistics` gives them."""

    @property
    def real_side(self) -> MeanMatcher:
        """The matcher that computes the statistics of real images, if those of synthetic images have another form."""
        return self

    def means(self, descriptor: torch.Tensor, groups: int) -> torch.Tensor:
        """Of (N, D), class-major over ``groups`` classes: the class means (groups, D)."""
        return group_means(descriptor, groups)

    def matched_maps(self, count: int) -> int:
        """How many of ``count`` maps are matched, from the input side: all but the last (l = 1 … L-1)."""
        return count - 1

    def statistics(self, features: Features) -> Statistics:
        """Class means of all descriptors, with gradient if the features have one."""
        matched = features.maps[: self.matched_maps(len(features.maps))]
        maps = [descriptor for feature_map in matched for descriptor in self.describe_map(feature_map)]
        return class_means(self, maps, self.describe_embedding(features.embedding), features.groups)

    def __call__(self, real: Features, synthetic: Features) -> torch.Tensor:
        """The loss. Raises ConfigError where the two sides differ in classes or shapes."""
        with torch.no_grad():
            target = self.statistics(real)
        return self.compare(target, self.statistics(synthetic))


def powers_of(matcher: MeanMatcher) -> Powers | None:
    """Its :meth:`~MeanMatcher.map_powers`; None if a subclass overrides the description of maps, but not that of sums."""
    describing = next(kind for kind in type(matcher).__mro__ if "describe_map" in vars(kind))
    return matcher.map_powers() if "map_powers" in vars(describing) else None


class ImageMatcher(ABC):
    """A matcher that gets the network and the images.

    The loop calls :meth:`loss` with its own network; so may any other loop, with any ``nn.Module`` that gives logits.
    """

    uses_network: ClassVar[bool] = True
    """Whether the loss depends on the network at all."""

    @property
    def separates(self) -> bool:
        """Whether the loss is a sum over classes, as :attr:`MeanMatcher.separates`; no, unless a subclass says so."""
        return False

    @abstractmethod
    def loss(
        self,
        network: nn.Module,
        real_images: torch.Tensor,
        synthetic_images: torch.Tensor,
        real_labels: torch.Tensor,
        synthetic_labels: torch.Tensor,
    ) -> torch.Tensor:
        """The scalar to be minimised over ``synthetic_images`` (M, C, H, W), given ``real_images`` (N, C, H, W).

        Labels are int64 (N,) and (M,), in any order; both sides hold the same classes. The gradient reaches only the synthetic
        images. ``network`` is used and left unchanged, each layer in its own mode.
        """

    def grouped_loss(
        self,
        network: nn.Module,
        real_images: torch.Tensor,
        synthetic_images: torch.Tensor,
        *,
        groups: int,
        first_class: int = 0,
    ) -> torch.Tensor:
        """:meth:`loss` of class-major images, equally many of each of the ``groups`` classes from ``first_class`` on.

        A loop with class-major images calls this. An override need not read the labels, which would synchronise with the GPU.
        """
        sides = real_images, synthetic_images
        labels = (class_labels(len(side), groups, first_class, side.device) for side in sides)
        return self.loss(network, real_images, synthetic_images, *labels)

    def __call__(self, real: Features, synthetic: Features) -> torch.Tensor:
        """Raises ConfigError, so that a loop that only knows features names the problem."""
        raise ConfigError(
            f"{type(self).__name__} compares images under a network, not features; call its "
            "loss(network, real_images, synthetic_images, real_labels, synthetic_labels)"
        )


def class_rows(
    real_labels: torch.Tensor, synthetic_labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each class, its rows on the real and on the synthetic side: two int64 index tensors.

    Raises ConfigError where the two sides differ in classes.
    """
    classes = real_labels.unique()
    if not torch.equal(classes, synthetic_labels.unique()):
        raise ConfigError(
            f"real images are of the classes {_ids(real_labels)}, synthetic ones of {_ids(synthetic_labels)}; give both "
            "sides the same classes"
        )
    for label in classes:
        yield (real_labels == label).nonzero().flatten(), (synthetic_labels == label).nonzero().flatten()


def class_labels(count: int, groups: int, first_class: int, device: torch.device) -> torch.Tensor:
    """The labels, int64 (count,), of class-major images of the ``groups`` classes from ``first_class`` on."""
    classes = torch.arange(first_class, first_class + groups, device=device)
    return classes.repeat_interleave(count // groups, output_size=count)


def class_slices(real: int, synthetic: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """As :func:`class_rows` of ``real`` and ``synthetic`` class-major images of ``groups`` classes; nothing is waited for."""
    theirs, own = real // groups, synthetic // groups
    for k in range(groups):
        yield slice(k * theirs, (k + 1) * theirs), slice(k * own, (k + 1) * own)


def _ids(labels: torch.Tensor) -> str:
    return listed(labels.unique().tolist(), most=5)


def grouped(descriptor: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, D), class-major over ``groups`` classes, to float32 (or float64) (groups, N / groups, D)."""
    return widened(descriptor).view(groups, -1, descriptor.shape[1])


def group_means(descriptor: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, D), class-major over ``groups`` classes, to float32 (or float64) class means (groups, D)."""
    return grouped(descriptor, groups).mean(1)


def class_means(
    matcher: MeanMatcher, maps: Sequence[torch.Tensor], embedding: Sequence[torch.Tensor], groups: int
) -> Statistics:
    """Class means of the descriptors (N, D_i) of maps and embedding; ``whole_embeddings`` keeps the embedding's unreduced."""
    reduce = grouped if matcher.whole_embeddings else matcher.means
    return (*(matcher.means(item, groups) for item in maps), *(reduce(item, groups) for item in embedding))


def balanced(maps: Sequence[torch.Tensor], embedding: torch.Tensor, task_balance: float) -> torch.Tensor:
    """The sum of the distances of maps, and the embedding's times the balance."""
    total = torch.stack(list(maps)).sum() if maps else embedding.new_zeros(())
    return total + task_balance * embedding


def squared_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Sum of squared differences of two (K, D) tensors. Raises ConfigError if their shapes differ."""
    refuse_shapes(real, synthetic)
    return (real - synthetic).square().sum()


def refuse_shapes(real: torch.Tensor, synthetic: torch.Tensor) -> None:
    """Raises ConfigError if two lists of class means differ in shape."""
    if real.shape != synthetic.shape:
        raise ConfigError(
            f"real class means have shape {tuple(real.shape)}, synthetic ones {tuple(synthetic.shape)}; give both sides "
            "the same classes, image size and network"
        )


def make_matcher(name: str, options: Mapping[str, Any] | None = None) -> Matcher:
    """Build the matcher ``name`` with its options.

    Raises PluginError for an unknown name and ConfigError for an option it does not take.
    """
    factory, given = MATCHERS.get(name), dict(options or {})
    try:
        inspect.signature(factory).bind(**given)
    except TypeError as error:
        taken = ", ".join(matcher_options(name)) or "none"
        raise ConfigError(f"matcher {name!r}: {error}; it takes the options {taken}") from None
    check_numbers(f"matcher {name!r}", matcher_options(name), given)
    try:
        return factory(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"matcher {name!r} does not accept {given}: {error}; check the options' types") from error


def matcher_options(name: str) -> dict[str, Any]:
    """The options of the matcher ``name`` with their defaults."""
    parameters = inspect.signature(MATCHERS.get(name)).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
