"""What must hold before a comparison starts, so that nothing is found out after hours."""

from __future__ import annotations

from collections.abc import Sequence

from atom_plugin.datasets import SourceData
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.integrations.avalanche.class_orders import Streams
from atom_plugin.integrations.avalanche.experiment_config import ReplayConfig
from atom_plugin.integrations.avalanche.plugin_setup import STORED, check_policy
from atom_plugin.matchers import MATCHERS
from atom_plugin.replay.suppliers import PrecomputedSupplier


def check_comparison(policies: Sequence[str], orders: int, config: ReplayConfig, streams: Streams) -> None:
    """Raises ConfigError, SourceError or PluginError unless each of ``policies`` can run on the first ``orders`` orders."""
    matchers = set(MATCHERS.names())
    for name in policies:
        check_policy(name, stored=bool(streams.sets))
        if name in matchers:
            config.distill_config(streams.data.image_shape, **{**config.distillation, "matcher": name})
    if set(policies) - {STORED, "naive", "joint"}:
        check_images(streams.data, config.ipc)
    if STORED in policies:
        check_sets(streams, config.ipc, orders)


def check_images(data: SourceData, ipc: int) -> None:
    """Raises SourceError unless every class has ``ipc`` training images to choose or to start from."""
    counts = data.train.labels.bincount(minlength=len(data.class_names))
    fewest = int(counts.argmin())
    if counts[fewest] < ipc:
        raise SourceError(
            f"{data.name}: class {data.class_names[fewest]!r} has {int(counts[fewest])} training image(s), fewer than the "
            f"{ipc} per class asked for; lower --ipc or add images"
        )


def check_sets(streams: Streams, ipc: int, orders: int) -> None:
    """Raises ConfigError unless the stored sets have ``ipc`` images of each class, and one holds each step's classes."""
    sets = PrecomputedSupplier(streams.sets).sets  # refuses sets that do not go together
    for number, held in enumerate(sets, start=1):
        few = held.labels.bincount()[held.classes]
        if int(few.min()) < ipc:
            raise ConfigError(
                f"set {number} of the memory has {int(few.min())} image(s) of class {held.classes[int(few.argmin())]}, fewer "
                f"than the {ipc} per class asked for; lower --ipc, or give a larger set"
            )
    for order in range(orders):
        for step, classes in enumerate(streams.classes(order), start=1):
            if not any(set(classes) <= set(held.classes) for held in sets):
                raise ConfigError(
                    f"no set of the memory holds the classes {sorted(classes)} of step {step} in class order {order}; give "
                    "one set of all classes, or, for --orders 1, one for every step"
                )
