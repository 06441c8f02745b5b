"""Representative real batches: the images nearest to the k-means centres of a class (Liu et al., "DREAM", ICCV 2023).

A random batch leaves parts of a class out and weighs others twice. Here the embeddings of all images of a class, under the
network of the moment, fall into as many clusters as the batch has images, and the image nearest to each centre is taken. The
batch serves for a period of several draws of the network, and is then chosen again. A run that is resumed within a period draws
its first network again and repeats the choice.

DREAM chooses every ten steps of its inner loop, under a network that is trained in between; here a period begins with a network
as it is drawn. Its images also start from k-means centres.
"""

from __future__ import annotations

import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine import Engine, blank_features
from atom_plugin.distillation.engine.chunking import Chunks, readable
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.matching_network import MatchingNetwork
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import Matcher
from atom_plugin.matchers.set_matcher import SetMatcher
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import autocast
from atom_plugin.runtime.memory import machine_memory
from atom_plugin.runtime.randomness import generator_for


class Representatives:
    """Chooses the images of ``batches`` for each period, under the network of ``matching`` in ``engine``.

    Raises ConfigError if the embeddings of all images exceed the memory.
    """

    def __init__(
        self, config: DistillConfig, batches: RealBatches, matching: MatchingNetwork, engine: Engine, chunks: Chunks
    ) -> None:
        assert config.cluster_every is not None
        self._config = config
        self._batches = batches
        self._matching = matching
        self._engine = engine
        self._period = config.cluster_every * config.inner_loop
        self._together = config.real_batch * max(map(len, chunks.own_chunks))
        self._chosen_in: int | None = None
        values = blank_features(engine, batches.image_shape).embedding.shape[1]
        _check_memory(4 * values * len(batches.labels), len(batches.labels))

    def renew(self, iteration: int) -> None:
        """Choose the batch of the period of ``iteration``, which has set up its network, unless that is done."""
        first = iteration - iteration % self._period
        if first == self._chosen_in:
            return
        if first == iteration:
            self._batches.fix(self._choice(first))
        else:
            with self._matching.as_drawn_in(first):
                self._batches.fix(self._choice(first))
        self._chosen_in = first

    def _choice(self, first: int) -> torch.Tensor:
        """Indices of training images, int64 (K, real batch), for the period that begins with the iteration ``first``.

        Batch normalisation sees all classes mixed, as in a step.
        """
        labels, wanted = self._batches.labels, self._config.real_batch
        generator = generator_for(self._config.seed, "clusters", first)
        order = torch.randperm(len(labels), generator=generator)
        parts = order.split(self._together)
        embeddings = torch.cat(list(map(self._embedded, parts, [*parts[1:], None])))
        chosen = []
        for label in range(self._batches.classes):
            rows = (labels[order] == label).nonzero().flatten()
            seed = int(torch.randint(2**31 - 1, (), generator=generator))
            nearest = rows if len(rows) <= wanted else rows[nearest_to_centres(embeddings[rows], wanted, seed)]
            chosen.append(order[nearest[torch.arange(wanted) % len(nearest)]])
        return torch.stack(chosen)

    @torch.no_grad()
    def _embedded(self, rows: torch.Tensor, ahead: torch.Tensor | None) -> torch.Tensor:
        """The embeddings, float32 (n, D) on the CPU, of the training images ``rows`` (n,); ``ahead`` are the next."""
        images = self._batches.fetch(rows, ahead=ahead).contiguous(memory_format=torch.channels_last)
        with autocast(images.device, self._config.precision):
            return self._engine.features(images, groups=1).embedding.float().cpu()


def nearest_to_centres(embeddings: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Of float32 (n, D), the row nearest to each of the ``count`` centres of k-means: int64 (count,).

    On one thread, because threads add up in no fixed order.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_limits

    values = embeddings.numpy()
    with threadpool_limits(limits=1):
        centres = KMeans(count, n_init=1, random_state=seed).fit(values).cluster_centers_
        return torch.from_numpy(pairwise_distances_argmin(centres, values)).long()


def refuse_clusters(config: DistillConfig, matcher: Matcher) -> None:
    """Raise ConfigError where a run cannot choose its real batches by k-means."""
    if isinstance(matcher, SetMatcher) or not getattr(matcher, "uses_network", True):
        raise ConfigError(
            f"cluster_every has no effect on the matcher {config.matcher!r}, which compares no classes under a drawn network; "
            "leave it out"
        )
    if distributed.count() > 1:
        raise ConfigError(
            f"cluster_every embeds all images in one process, found {distributed.count()} processes; start one, or leave it out"
        )


def _check_memory(needed: int, count: int) -> None:
    if needed > (room := machine_memory() // 2):
        raise ConfigError(
            f"cluster_every needs the embeddings of {count:,} images in memory, {readable(needed)}, but half of the memory is "
            f"{readable(room)}; leave it out, or choose a narrower network"
        )
