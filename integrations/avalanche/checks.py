"""Checks before a comparison starts, so that errors do not appear only after hours."""

from __future__ import annotations

from collections.abc import Sequence

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.integrations.avalanche.class_orders import Streams
from atom_plugin.integrations.avalanche.experiment_config import ReplayConfig
from atom_plugin.replay.plan import BASELINES
from atom_plugin.replay.policies import PACKED, STORED, check_policy, is_selection, parts_of
from atom_plugin.replay.suppliers import PrecomputedSupplier


def check_comparison(policies: Sequence[str], orders: int, config: ReplayConfig, streams: Streams) -> None:
    """Raises ConfigError, SourceError or PluginError unless each of ``policies`` can run on the first ``orders`` orders."""
    shape, needed = streams.data.image_shape, [0]
    for name in policies:
        check_policy(name, stored=bool(streams.sets))
        parts = [] if name in BASELINES else parts_of(name)
        if len(parts) > config.ipc:
            raise ConfigError(f"the policy {name!r} has {len(parts)} parts, but --ipc is {config.ipc}; raise --ipc")
        for part in parts:
            made = config.distill_config(shape, **({} if is_selection(part) or part == STORED else {"matcher": part}))
            if part.endswith(PACKED) and made.factor == 1:
                raise ConfigError(f"the policy {part!r} packs images, but the factor is 1; give --factor 2")
            if len(parts) > 1 and is_selection(part) and made.factor > 1 and not part.endswith(PACKED):
                raise ConfigError(
                    f"the policy {name!r} mixes images packed by {made.factor} with others; take {part + PACKED!r}, or "
                    "--factor 1"
                )
            needed.append(0 if part == STORED else config.ipc * (1 if part in METHODS else made.tiles))
        if name in BASELINES and name not in ("naive", "joint"):
            needed.append(config.ipc)
    if max(needed):
        check_images(streams.data, max(needed))
    if any(STORED in parts_of(name) for name in policies):
        check_sets(streams, config.ipc, orders)


def check_images(data: SourceData, wanted: int) -> None:
    """Raises SourceError unless every class has ``wanted`` training images to choose or to start from."""
    counts = data.train.labels.bincount(minlength=len(data.class_names))
    fewest = int(counts.argmin())
    if counts[fewest] < wanted:
        raise SourceError(
            f"{data.name}: class {data.class_names[fewest]!r} has {int(counts[fewest])} training image(s), fewer than the "
            f"{wanted} that a memory is made of; lower --ipc or add images"
        )


def check_sets(streams: Streams, ipc: int, orders: int) -> None:
    """Raises ConfigError unless the stored sets have ``ipc`` images of each class, and one set has all classes of each step."""
    sets = PrecomputedSupplier(streams.sets).sets  # refuses incompatible sets
    for number, held in enumerate(sets, start=1):
        few = held.labels.bincount()[held.classes]
        if int(few.min()) < ipc:
            raise ConfigError(
                f"set {number} of the memory has {int(few.min())} image(s) of class {held.classes[int(few.argmin())]}, fewer "
                f"than the {ipc} per class that --ipc requests; lower --ipc, or give a larger set"
            )
    for order in range(orders):
        for step, classes in enumerate(streams.classes(order), start=1):
            if not any(set(classes) <= set(held.classes) for held in sets):
                raise ConfigError(
                    f"no set of the memory has the classes {sorted(classes)} of step {step} in class order {order}; give "
                    "one set of all classes, or, for --orders 1, one for every step"
                )
