"""Judge a set as the papers do: fresh networks trained on it, tested on real images, the last epoch reported."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from atom_plugin.config import DistillConfig
from atom_plugin.device import resolve_device, resolve_precision
from atom_plugin.errors import AtomError, ConfigError, SourceError
from atom_plugin.networks import ConvNetConfig
from atom_plugin.sources import SourceData, SourceRequest, Split, load_source, reload_source
from atom_plugin.spread import sample_std
from atom_plugin.synthetic_set import SyntheticSet
from atom_plugin.training import TrainConfig, accuracy, train


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracies, in [0, 1], of networks trained on one set, after their last epoch, and the budget they had."""

    accuracies: tuple[float, ...]
    training: TrainConfig
    network: ConvNetConfig
    images: int
    test_images: int

    @property
    def mean(self) -> float:
        """The mean over networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """The sample standard deviation over networks; 0 for a single one."""
        return sample_std(self.accuracies)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"mean": self.mean, "std": self.std, **asdict(self), "accuracies": list(self.accuracies)}

    def describe(self) -> str:
        """One line for people."""
        count = len(self.accuracies)
        networks = f"{count} networks" if count > 1 else "1 network"
        return (
            f"{100 * self.mean:.2f} % ± {100 * self.std:.2f} ({networks}, {self.network.normalisation} normalisation, "
            f"{self.training.epochs} epochs; last epoch, {self.test_images} test images)"
        )


def evaluate(
    synthetic_set: SyntheticSet,
    test: Split,
    config: TrainConfig,
    *,
    normalisation: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    on_epoch: Callable[[], object] | None = None,
) -> Evaluation:
    """Train ``repeats`` fresh networks on the set and test each. Network r of seed s is the same whatever the set.

    The network is the set's own (see :func:`network_of`), with another ``normalisation`` if given.
    """
    network = network_of(synthetic_set)
    if normalisation is not None:
        network = replace(network, normalisation=normalisation)
    on = resolve_device(device)
    resolved = resolve_precision(precision, on)
    accuracies = []
    for repeat in range(repeats):
        trained = train(
            synthetic_set,
            network,
            config,
            seed=network_seed(seed, repeat),
            device=on,
            precision=resolved,
            on_epoch=None if on_epoch is None else lambda _: on_epoch(),
        )
        accuracies.append(accuracy(trained, synthetic_set.preprocessing, test, device=on))
    return Evaluation(
        accuracies=tuple(accuracies),
        training=config,
        network=network,
        images=len(synthetic_set),
        test_images=len(test),
    )


def network_seed(seed: int, repeat: int) -> int:
    """The seed of the ``repeat``-th network of an evaluation, whatever the set."""
    return seed * 1_000_003 + repeat


def network_of(synthetic_set: SyntheticSet) -> ConvNetConfig:
    """The network that the set was made with; for a set that names none, the default recipe's for its images."""
    config: Mapping[str, Any] = synthetic_set.provenance.config
    if merged := config.get("merged"):
        config = merged[0].get("config", {})
    stored = config.get("network")
    if stored is None:
        shape = synthetic_set.preprocessing.image_shape
        return DistillConfig.from_recipe("atom", ipc=max(1, synthetic_set.ipc), image_shape=shape).network
    try:
        return ConvNetConfig(**stored)
    except TypeError as error:
        raise ConfigError(f"the set's config names a network this release does not know ({error}); update") from None


def find_test_source(synthetic_set: SyntheticSet, name: str, request: SourceRequest) -> SourceData:
    """The source that the set (called ``name``) was made from, as its file tells.

    ``request`` may say where its files are now, and whether to show progress. Raises SourceError where it is not found, or
    holds other images than the set was made from.
    """
    source = synthetic_set.provenance.source
    if "name" not in source:
        raise SourceError(
            f"{name}: names no image source to test on; give --dataset, and --data-dir where it is a folder"
        )
    try:
        data = reload_source(
            source["name"], source.get("options", {}), data_dir=request.data_dir, progress=request.progress
        )
    except AtomError as error:
        raise SourceError(f"{name}: its test images cannot be read: {error} (or name others with --dataset)") from error
    if data.fingerprint != source.get("fingerprint"):
        raise SourceError(
            f"{name}: the images of its source {source['name']!r} are not those it was made from (fingerprint "
            f"{data.fingerprint[:12]}, expected {str(source.get('fingerprint'))[:12]}); name the test images with --dataset"
        )
    return data


def load_test_sources(
    names: Sequence[str], sets: Sequence[SyntheticSet], dataset: str | None, request: SourceRequest
) -> list[SourceData]:
    """The source of every set's test images, each loaded once: ``dataset``, or the set's own where that is None.

    ``names`` are what messages call the sets. Raises as :func:`find_test_source` and :func:`check_test_source`.
    """
    loaded: dict[str, SourceData] = {}
    tests = []
    for name, synthetic_set in zip(names, sets, strict=True):
        key = dataset or json.dumps(synthetic_set.provenance.source, sort_keys=True)
        if key not in loaded:
            loaded[key] = load_source(dataset, request) if dataset else find_test_source(synthetic_set, name, request)
        check_test_source(synthetic_set, name, loaded[key])
        tests.append(loaded[key])
    return tests


def check_test_source(synthetic_set: SyntheticSet, name: str, data: SourceData) -> None:
    """Raises ConfigError unless the test images have the set's shape and classes."""
    shape = synthetic_set.preprocessing.image_shape
    if data.image_shape != shape:
        raise ConfigError(
            f"{name}: holds images of {_shape(shape)}, the test images of {data.name!r} are {_shape(data.image_shape)}; "
            "choose another --dataset or --image-size"
        )
    if data.class_names != synthetic_set.class_names:
        raise ConfigError(
            f"{name}: its classes ({_few(synthetic_set.class_names)}) are not those of {data.name!r} "
            f"({_few(data.class_names)}); choose another --dataset"
        )


def _shape(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]}x{shape[1]}x{shape[2]}"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" … {len(names)} in all" if len(names) > 3 else "")
