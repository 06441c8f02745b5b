"""Select real images per class: for the initial images of distillation and for baselines.

Everything here uses labels, embeddings, (N, D) float rows of a network's features, and counts of forgetting events; no pixels.
docs/selection.md compares the methods. Indices are class-major: ``ipc`` for the lowest class id first, in the order in which
they were selected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, SourceError, unknown


def select(
    method: str,
    labels: torch.Tensor,
    ipc: int,
    *,
    generator: torch.Generator,
    embeddings: torch.Tensor | None = None,
    events: torch.Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Select ``ipc`` samples of each class in ``labels`` (N,) by one of :data:`~.set_config.METHODS`: int64 (K * ipc,).

    ``generator`` draws for ``random``, and among equals for ``forgetting``, which needs ``events`` (N,); herding and k-center
    do not use it and need ``embeddings`` (N, D). Raises ConfigError for an unknown method, ``ipc`` below 1, or embeddings or
    events that are missing or do not fit; SourceError for a class with fewer than ``ipc`` samples, by its name if
    ``class_names`` are given.
    """
    if method not in METHODS:
        raise ConfigError(unknown("selection method", method, METHODS))
    if method == "random":
        return random_indices(labels, ipc, generator, class_names=class_names)
    if method == "forgetting":
        if events is None:
            raise ConfigError(
                "the selection method 'forgetting' needs forgetting events; count them, or choose 'random'"
            )
        return forgetting_indices(events, labels, ipc, generator, class_names=class_names)
    if embeddings is None:
        raise ConfigError(f"the selection method {method!r} needs embeddings; give them, or choose 'random'")
    if method == "herding":
        return herding_indices(embeddings, labels, ipc, class_names=class_names)
    return k_center_indices(embeddings, labels, ipc, class_names=class_names)


def random_indices(
    labels: torch.Tensor, ipc: int, generator: torch.Generator, *, class_names: Sequence[str] | None = None
) -> torch.Tensor:
    """``ipc`` samples of each class, drawn without replacement: int64 (K * ipc,). Raises as :func:`select`."""
    return torch.cat(
        [
            members[torch.randperm(len(members), generator=generator)[:ipc]]
            for members in _classes(labels, ipc, class_names)
        ]
    )


def herding_indices(
    embeddings: torch.Tensor, labels: torch.Tensor, ipc: int, *, class_names: Sequence[str] | None = None
) -> torch.Tensor:
    """Greedy herding (Welling, 2009): each choice brings the mean of the selected samples closest to the class mean.

    ``embeddings`` (N, D) float, ``labels`` (N,); int64 (K * ipc,). Computed in float64; ties go to the lowest index. Raises as
    :func:`select`.
    """
    _check_embeddings(embeddings, labels)
    chosen = []
    for members in _classes(labels, ipc, class_names):
        rows = _rows(embeddings, members)
        mean, total = rows.mean(0), torch.zeros_like(rows[0])
        free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        picks = []
        for step in range(1, ipc + 1):
            # |mean - (total + x) / step| is smallest where x is nearest to step * mean - total.
            distances = (rows - (step * mean - total)).square().sum(1)
            pick = int(distances.where(free, torch.inf).argmin())
            picks.append(pick)
            free[pick] = False
            total += rows[pick]
        chosen.append(members[picks])
    return torch.cat(chosen)


def k_center_indices(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    ipc: int,
    generator: torch.Generator | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Greedy k-center (Sener & Savarese, 2018): each choice is the sample farthest from all selected so far.

    ``embeddings`` (N, D) float, ``labels`` (N,); int64 (K * ipc,). A class starts with the sample nearest to its mean, or with
    one that ``generator`` draws. Computed in float64; ties go to the lowest index. Raises as :func:`select`.
    """
    _check_embeddings(embeddings, labels)
    chosen = []
    for members in _classes(labels, ipc, class_names):
        rows = _rows(embeddings, members)
        if generator is None:
            pick = int((rows - rows.mean(0)).square().sum(1).argmin())
        else:
            pick = int(torch.randint(len(rows), (), generator=generator))
        nearest = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
        picks = [pick]
        while len(picks) < ipc:
            nearest = torch.minimum(nearest, (rows - rows[pick]).square().sum(1))
            # Below any distance, so that a copy of a chosen sample may follow but the sample itself may not.
            nearest[pick] = -1.0
            pick = int(nearest.argmax())
            picks.append(pick)
        chosen.append(members[picks])
    return torch.cat(chosen)


def forgetting_indices(
    events: torch.Tensor,
    labels: torch.Tensor,
    ipc: int,
    generator: torch.Generator,
    *,
    class_names: Sequence[str] | None = None,
) -> torch.Tensor:
    """The most forgotten samples of each class (Toneva et al., 2019): int64 (K * ipc,).

    ``events`` (N,) counts forgetting events, infinite for a sample that was never learnt, as in
    :meth:`ForgettingCounter.scores`: these come first, then the others from most to fewest. Counts are small and ties many, so
    equals come in an order that ``generator`` draws, not in the source's. Raises as :func:`select`.
    """
    if events.shape != labels.shape or bool(events.isnan().any()):
        raise ConfigError(
            f"events must be one number per label, ({len(labels)},), not {tuple(events.shape)}, and none of them NaN"
        )
    chosen = []
    for members in _classes(labels, ipc, class_names):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        chosen.append(shuffled[events[shuffled].argsort(descending=True, stable=True)[:ipc]])
    return torch.cat(chosen)


class ForgettingCounter:
    """Counts, over a training run, the forgetting events (Toneva et al., 2019) of images with ``labels`` (N,), int64.

    An event is an image that is classified right in one batch and wrong when its batch comes the next time (their algorithm 1),
    with the training's augmentation and before the batch's step.
    """

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels = labels
        self._events = torch.zeros(len(labels), dtype=torch.int64)
        self._right = torch.zeros(len(labels), dtype=torch.bool)
        self._learnt = torch.zeros(len(labels), dtype=torch.bool)

    def update(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        """Record ``logits`` (n, classes) of the distinct images at ``rows`` (n,)."""
        right = logits.argmax(1).cpu() == self._labels[rows]
        self._events[rows] += self._right[rows] & ~right
        self._right[rows] = right
        self._learnt[rows] |= right

    def scores(self) -> torch.Tensor:
        """Events of each image, float64 (N,); infinite for one that was never classified right, as in the paper."""
        return self._events.double().masked_fill(~self._learnt, torch.inf)


def check_counts(labels: torch.Tensor, ipc: int, class_names: Sequence[str] | None = None) -> None:
    """Raise the errors of :func:`select` about ``labels`` (N,) and ``ipc``, before embeddings or events are computed."""
    if ipc < 1:
        raise ConfigError(f"ipc (images per class) must be at least 1, not {ipc}")
    if not len(labels):
        raise SourceError("there are no images to choose from")
    found, counts = labels.unique(return_counts=True)
    few = int(counts.argmin())
    if counts[few] < ipc:
        label, count = int(found[few]), int(counts[few])
        name = repr(class_names[label]) if class_names is not None else str(label)
        raise SourceError(
            f"class {name} has {count} image(s), fewer than the {ipc} per class asked for; "
            f"lower --ipc to {count} or add images"
        )


def _classes(labels: torch.Tensor, ipc: int, class_names: Sequence[str] | None) -> Iterator[torch.Tensor]:
    """The indices of each class's samples, ascending, on the CPU, class by class."""
    check_counts(labels, ipc, class_names)
    # One stable sort instead of one comparison of all labels per class.
    in_order, indices = labels.cpu().sort(stable=True)
    _, counts = torch.unique_consecutive(in_order, return_counts=True)
    yield from torch.split(indices, counts.tolist())


def _check_embeddings(embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(labels) or not embeddings.is_floating_point():
        raise ConfigError(
            f"embeddings must be float ({len(labels)}, D), one row per label, not {embeddings.dtype} "
            f"{tuple(embeddings.shape)}"
        )
    if not bool(torch.isfinite(embeddings).all()):
        raise ConfigError("embeddings have NaN or infinite values; check the network that made them")


def _rows(embeddings: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    return embeddings[members.to(embeddings.device)].double()
