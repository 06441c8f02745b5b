"""A picture of real and synthetic images in the embedding space of a network, by PCA or t-SNE (DataDAM, figure 5).

DataDAM embeds in a ResNet-18 and projects with t-SNE; here the network is the set's own, trained on the real images, or random.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.embeddings import embed, embedding_network
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.set_config import trained_epochs
from atom_plugin.errors import ConfigError, SourceError, unknown
from atom_plugin.evaluation import network_of
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.files import refuse_existing
from atom_plugin.runtime.picture_files import picture_format, write_figure
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.fonts import font_with, without_font
from atom_plugin.store.pictures import legible
from atom_plugin.store.synthetic_set import SyntheticSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

_logger = logging.getLogger("atom_plugin")
PROJECTIONS = {"pca": "PCA", "tsne": "t-SNE"}
DEFAULT_STATE = "trained:10"
_REAL_POINTS = 1000  # in all, where nobody says how many per class: t-SNE takes seconds, and single points can be seen
_COMPONENTS = 50  # kept before t-SNE
_PERPLEXITY = 30.0
_MARKERS = "*PXD^sv8"
_NAMED = 100  # classes in the legend
_PER_COLUMN = 25

Points = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Points in a plane, ``real`` (N, 2) and ``synthetic`` (M, 2), float64, with class ids, int64, and a description."""

    real: Points
    real_labels: Points
    synthetic: Points
    synthetic_labels: Points
    class_names: tuple[str, ...]
    method: str
    network: str

    @property
    def classes(self) -> list[int]:
        """The class ids that have points, sorted."""
        return sorted({*self.real_labels.tolist(), *self.synthetic_labels.tolist()})


@dataclass(frozen=True, kw_only=True)
class EmbeddingMapConfig:
    """``method``: "pca", with the axes of the real images, or "tsne", of all images together.

    ``state``: the network's, "random" or "trained:EPOCHS" on all training images. ``per_class`` real images, drawn with
    ``seed``; None means 1,000 in all, and at least 10 of each class. Raises ConfigError for an unknown method or state.
    """

    method: str = "tsne"
    state: str = DEFAULT_STATE
    per_class: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in PROJECTIONS:
            raise ConfigError(unknown("projection", self.method, PROJECTIONS))
        trained_epochs(self.state, "state")


def embedding_map(
    synthetic_set: SyntheticSet,
    data: SourceData,
    config: EmbeddingMapConfig,
    *,
    on_images: Callable[[int], object] | None = None,
) -> EmbeddingMap:
    """Project the set's images together with real training images of each of its classes.

    ``on_images`` is called with the number of images of each training batch of the network. Raises SourceError if ``data`` has
    no training images of a class.
    """
    seed, method, synthetic_set = config.seed, config.method, synthetic_set.decoded()
    matching = _network_config(synthetic_set, config)
    network = embedding_network(
        matching,
        data,
        synthetic_set.preprocessing,
        generator=generator_for(seed, "embedding"),
        device=resolve_device(config.device),
        on_images=on_images,
    )
    chosen = _real_rows(synthetic_set, data, config.per_class, generator_for(seed, "real points"))
    real = embed(network, data.train.rows(chosen), synthetic_set.preprocessing)
    synthetic = embed(network, synthetic_set.images)
    epochs = trained_epochs(config.state, "state")
    trained = f"trained {epochs} epoch{'s' * (epochs > 1)} on the real images" if epochs else "random"
    placed = project(real.double().numpy(), synthetic.double().numpy(), method, seed=seed)
    return EmbeddingMap(
        real=placed[: len(real)],
        real_labels=data.train.labels[chosen].numpy(),
        synthetic=placed[len(real) :],
        synthetic_labels=synthetic_set.labels.numpy(),
        class_names=synthetic_set.class_names,
        method=method,
        network=f"ConvNet with {matching.network.normalisation} normalisation, {trained}",
    )


def project(real: Points, synthetic: Points, method: str, *, seed: int) -> Points:
    """(N, D) and (M, D) to (N + M, 2), the real rows first.

    "pca" (Pearson, 1901) takes the two principal axes of the real rows. "tsne" (van der Maaten & Hinton, 2008) takes 50
    principal components of all rows, with a perplexity of 30, less if points are few. Deterministic by ``seed``: one thread,
    since the order of additions in several threads would change the result. Raises ConfigError if rows are too few or all
    equal.
    """
    from sklearn.decomposition import PCA

    rows = np.concatenate([real, synthetic])
    if len(real) < 3 or not np.isfinite(rows).all() or not (np.ptp(real, axis=0) > 0).sum() >= 2:
        raise ConfigError(
            f"found {len(real)} real embeddings that are too few, not finite or all equal, expected at least three "
            "different ones; draw more classes or images per class, or take another network"
        )
    if method == "pca":
        return np.asarray(PCA(2, svd_solver="full").fit(real).transform(rows))
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    kept = PCA(min(_COMPONENTS, *rows.shape), svd_solver="full").fit_transform(rows)
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    with threadpool_limits(limits=1):
        return np.asarray(TSNE(perplexity=perplexity, random_state=seed % 2**32).fit_transform(kept), dtype=np.float64)


def draw_embedding_map(points: EmbeddingMap, path: str | Path, *, title: str = "", force: bool = False) -> None:
    """Draw real images as small faint points and synthetic ones as large marks, a colour per class, to a picture file.

    Beyond 20 classes colours repeat with another mark; the legend names up to 100. Raises StoreError if writing fails.
    """
    from matplotlib.figure import Figure

    target = Path(path)
    picture_format(target)
    refuse_existing(target, force=force)
    columns = math.ceil(min(len(points.classes), _NAMED) / _PER_COLUMN)
    # A Figure of its own, without pyplot: neither the global backend nor the list of open figures is touched.
    figure = Figure(figsize=(7.4 + 1.1 * columns, 6.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    handles, names = _draw_points(axes, points)
    axes.set(xticks=[], yticks=[])
    made = f"{PROJECTIONS[points.method]} of the embeddings of a {points.network}"
    heading = [line for line in (legible(title, longest=100), made) if line]
    axes.set_title("\n".join(heading), loc="left", parse_math=False, fontproperties=_font_for("".join(heading), 10))
    _add_legend(figure, handles, names, columns)
    if told := without_font([points.class_names[label] for label in points.classes[:_NAMED]]):
        _logger.warning("%s: %s", target, told)
    write_figure(figure, target, force=force)


def _font_for(text: str, size: float) -> FontProperties:
    """A font with the characters of ``text``; matplotlib draws boxes for characters that DejaVu Sans lacks."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=font_with(text) or font_with(""), size=size)


def _network_config(synthetic_set: SyntheticSet, config: EmbeddingMapConfig) -> SelectConfig:
    """The set's network in the requested state, and the training of the default recipe."""
    return SelectConfig.from_recipe(
        "atom",
        ipc=1,
        method="herding",  # a method that embeds
        embedding=config.state,
        image_shape=synthetic_set.preprocessing.image_shape,
        network=asdict(network_of(synthetic_set)),
        seed=config.seed,
        precision=resolve_precision(config.precision, resolve_device(config.device)),
    )


def _real_rows(
    synthetic_set: SyntheticSet, data: SourceData, per_class: int | None, generator: torch.Generator
) -> torch.Tensor:
    """Indices of the training images to draw, class-major."""
    classes = synthetic_set.classes
    if not classes:
        raise ConfigError("found no images to draw, expected at least one; is the set empty?")
    most = per_class or max(10, _REAL_POINTS // len(classes))
    rows = []
    for label in classes:
        members = (data.train.labels == label).nonzero().flatten()
        if not len(members):
            raise SourceError(f"{data.name}: has no training images of class {synthetic_set.class_names[label]!r}")
        rows.append(members[torch.randperm(len(members), generator=generator)[:most]])
    return torch.cat(rows)


def _draw_points(axes: Axes, points: EmbeddingMap) -> tuple[list[Any], list[str]]:
    """Draw all points; return the legend's marks and texts."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    classes = points.classes
    colours: Sequence[Any] = colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    looks = list(itertools.islice(itertools.cycle(itertools.product(_MARKERS, colours)), len(classes)))
    # Real points of all classes in one go, in the order they were drawn at random: no class lies on top of another.
    of_class = {label: colour for label, (_, colour) in zip(classes, looks, strict=True)}
    shuffled = np.random.default_rng(0).permutation(len(points.real))
    axes.scatter(
        points.real[shuffled, 0],
        points.real[shuffled, 1],
        s=12,
        color=[of_class[label] for label in points.real_labels[shuffled].tolist()],
        alpha=0.4,
        linewidths=0,
    )
    few = len(points.synthetic) <= 300
    for label, (marker, colour) in zip(classes, looks, strict=True):
        own = points.synthetic[points.synthetic_labels == label]
        size = (150 if few else 60) * (1.0 if marker == "*" else 0.5)
        axes.scatter(
            own[:, 0], own[:, 1], s=size, color=[colour], marker=marker, edgecolors="black", linewidths=0.7, zorder=3
        )
    handles = [
        Line2D([], [], marker="o", markersize=3, markeredgewidth=0, linestyle="", color="black", alpha=0.5),
        Line2D([], [], marker="*", markersize=11, markeredgecolor="black", linestyle="", color="white"),
    ]
    names = [f"{len(points.real):,} real", f"{len(points.synthetic):,} synthetic"]
    for label, (marker, colour) in list(zip(classes, looks, strict=True))[:_NAMED]:
        handles.append(Line2D([], [], marker=marker, markersize=8, linestyle="", color=colour))
        names.append(legible(points.class_names[label], instead=f"class {label}"))
    if len(classes) > _NAMED:
        handles.append(Line2D([], [], linestyle=""))
        names.append(f"+{len(classes) - _NAMED} more classes")
    return handles, names


def _add_legend(figure: Figure, handles: list[Any], names: list[str], columns: int) -> None:
    many = columns > 1
    legend = figure.legend(
        handles,
        [str(number) for number in range(len(names))],
        loc="outside right center",
        ncols=columns,
        frameon=False,
        fontsize=7 if many else 9,
        handletextpad=0.2,
        columnspacing=0.8,
    )
    # Set afterwards: a legend leaves out names that begin with "_", and takes "$" for mathematics.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
        text.set_fontproperties(_font_for(name, 7 if many else 9))
