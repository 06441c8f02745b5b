"""Find the real images to test a set's networks on: the source that the set names, or another one. Validation images always
come from the source that the set names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atom_plugin.datasets import SPLIT, SourceData, SourceRequest, load_source, reload_source
from atom_plugin.datasets.request_fields import flag
from atom_plugin.errors import AtomError, ConfigError, SourceError, listed, shape_text
from atom_plugin.store.synthetic_set import SyntheticSet


def find_test_source(synthetic_set: SyntheticSet, name: str, request: SourceRequest) -> SourceData:
    """The source that the set (called ``name``) was made from, by its file.

    ``request`` may give the place of its files now, and how to read them; without that nothing is downloaded. Raises
    SourceError if it is not found, or has other images than the set was made from.
    """
    source = synthetic_set.provenance.source
    if "name" not in source:
        raise SourceError(f"{name}: names no image source to test on; give --dataset, and --data-dir if it is a folder")
    try:
        data = reload_source(source["name"], source.get("options", {}), request)
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
    """The source of every set's test images, each loaded once: ``dataset``, or the set's own if that is None.

    ``names`` are the sets' names in messages. Raises as :func:`find_test_source` and :func:`check_test_source`.
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


def check_validation_parts(names: Sequence[str], sources: Sequence[SourceData]) -> None:
    """Raises ConfigError unless all ``sources``, of the sets ``names``, hold out the same validation images."""
    for name, data in zip(names, sources, strict=True):
        if data.validation is None:
            raise ConfigError(
                f"{name}: was made from all training images of {data.name!r}, without held-out images; make it with "
                "--validation, or evaluate it on test"
            )
        if data.fingerprint != sources[0].fingerprint:
            raise ConfigError(
                f"{names[0]} and {name} hold out different validation images ({_held_out(sources[0])}; "
                f"{_held_out(data)}), so accuracies cannot be compared; evaluate them one at a time"
            )


def _held_out(data: SourceData) -> str:
    assert data.validation is not None
    return f"{len(data.validation)} of {data.name!r} by seed {data.options['seed']}"


def check_test_source(synthetic_set: SyntheticSet, name: str, data: SourceData) -> None:
    """Raises ConfigError unless the test images have the set's shape and classes, and are not among its training images.

    The latter is judged by the split of a folder into training and test images in the set's file.
    """
    shape = synthetic_set.preprocessing.image_shape
    if data.image_shape != shape:
        raise ConfigError(
            f"{name}: has images of {shape_text(shape)}, but the test images of {data.name!r} are "
            f"{shape_text(data.image_shape)}; choose another --dataset or --image-size"
        )
    if data.class_names != synthetic_set.class_names:
        reordered = sorted(data.class_names) == sorted(synthetic_set.class_names)
        remedy = "they are the same in another order, see --class-order" if reordered else "choose another --dataset"
        raise ConfigError(
            f"{name}: its classes ({listed(synthetic_set.class_names, most=3)}) are not those of {data.name!r} "
            f"({listed(data.class_names, most=3)}); {remedy}"
        )
    _refuse_other_split(synthetic_set, name, data)


def _refuse_other_split(synthetic_set: SyntheticSet, name: str, data: SourceData) -> None:
    """Raises ConfigError if ``data`` splits the set's source in another way: its test images would include training images."""
    source = synthetic_set.provenance.source
    if data.name != source.get("name") or data.fingerprint == source.get("fingerprint"):
        return
    made_of: Mapping[str, Any] = source.get("options", {})
    own, other = _split_text(made_of), _split_text(data.options)
    seeded = "test_fraction" in made_of and "test_fraction" in data.options
    if own != other and (seeded or _is_inside(data.options.get("data_dir"), made_of.get("data_dir"))):
        raise ConfigError(
            f"{name}: was made from the training images of {own}, and the test images are from {other}: some of them "
            "would be training images of the set; give the split of the set, or leave --dataset out"
        )


def _split_text(options: Mapping[str, Any]) -> str:
    """A description of how a folder with these options is split."""
    if "test_fraction" not in options:  # a seed may be that of the validation images
        return "a folder with its own test images"
    return " ".join(f"{flag(name)} {options[name]}" for name in SPLIT if name in options)


def _is_inside(folder: Any, other: Any) -> bool:
    """Whether ``folder`` is ``other``, or is in it; False if one of them is unknown."""
    return isinstance(folder, str) and isinstance(other, str) and Path(folder).is_relative_to(other)
