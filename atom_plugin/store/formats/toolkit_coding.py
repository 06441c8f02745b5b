"""The coding of sets in the formats of distillation scripts, for writing and reading."""

from __future__ import annotations

from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.store.formats.coding import (
    Toolkit,
    both_or_none,
    convert,
    is_identity,
    per_channel,
    standardised,
    without_whitening,
)
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import DATADAM_EPS

NOT_HELD = "class names, preprocessing and provenance are not in it: keep the .h5 file, and import with --like"


def toolkit_tensors(
    held: SyntheticSet,
    toolkit: Toolkit,
    *,
    mean: Any = None,
    std: Any = None,
    zca: bool | None = None,
    dataset: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images and labels in the form that ``toolkit`` expects, class-major on the CPU, and notes.

    Standardised with ``mean`` and ``std``, else with the constants of the toolkit's loader for ``dataset`` (default: the set's
    source), else with the set's own. ``zca`` True keeps the set's whitening; None keeps it if the toolkit stores sets whitened,
    by the same recipe. Raises ConfigError.
    """
    preprocessing = held.preprocessing
    keep = _flag("zca", zca)
    if keep is None:
        keep = toolkit.stores_zca and toolkit.whitens_like(preprocessing) and mean is None and std is None
    if keep:
        if preprocessing.whitening is None:
            raise ConfigError("zca=true keeps a set's whitening, but this set is not whitened; leave it out")
        if mean is not None or std is not None:
            raise ConfigError("zca=true keeps the set's own standardisation; leave mean and std out")
        coding, notes = preprocessing, _whitening_notes(preprocessing, toolkit)
    else:
        coding, notes = _standardised_coding(held, toolkit, mean=mean, std=std, dataset=dataset)
    order = held.labels.argsort(stable=True).cpu()
    images = convert(held.images.detach().cpu(), preprocessing, coding)[order].contiguous()
    return images, held.labels.detach().cpu()[order], [*notes, NOT_HELD]


def find_toolkit_coding(
    context: ImportContext,
    toolkit: Toolkit,
    image_shape: tuple[int, int, int],
    *,
    zca: bool | None = None,
    dataset: str | None = None,
) -> Preprocessing:
    """The coding of a file that ``toolkit`` wrote: the inverse of :func:`toolkit_tensors`. Raises ConfigError if unknown.

    ``dataset``: the dataset that the file itself names, if it does.
    """
    template, given = context.template(), context.given_constants()
    whitened = _flag("zca", zca)
    if whitened is None:
        like = template.preprocessing if template is not None and given is None else None
        whitened = like is not None and toolkit.stores_zca and toolkit.whitens_like(like)
        if whitened:
            context.note(
                f"images were read as whitened, since the set of --like is, as {toolkit.name} does; or pass zca=false"
            )
    if whitened:
        return _whitened_coding(context, toolkit)
    known = given or toolkit.constants.get(dataset or "") or toolkit.constants.get(context.dataset_name() or "")
    if known is not None:
        return standardised(known, image_shape)
    if template is not None:
        return without_whitening(template.preprocessing)
    source = context.source()
    if source is not None:
        return Preprocessing.fit(source.train.images, mean=source.mean, std=source.std)
    raise ConfigError(
        f"a file of {toolkit.name} does not name the standardisation of its images; pass --like FILE.h5 (a set of "
        "the same source), --dataset NAME, or --mean and --std with --classes"
    )


def _standardised_coding(
    held: SyntheticSet, toolkit: Toolkit, *, mean: Any, std: Any, dataset: str | None
) -> tuple[Preprocessing, list[str]]:
    preprocessing = held.preprocessing
    own = without_whitening(preprocessing)
    known = both_or_none(per_channel("mean", mean), per_channel("std", std))
    known = known or toolkit.constants.get(dataset or held.provenance.source.get("name") or "")
    coding = own if known is None else standardised(known, preprocessing.image_shape)
    notes = []
    if preprocessing.whitening is not None:
        notes.append(f"the ZCA whitening was undone: images are {coding.describe()}")
    elif not coding.matches(own):
        notes.append(f"images are {coding.describe()}; in the set they are {own.describe()}")
    if known is None:
        has = (
            "in [0, 1]" if is_identity(own) else f"standardised with mean {_exact(own.mean)} and std {_exact(own.std)}"
        )
        notes.append(
            f"{toolkit.name} has no constants for this source; images are {has}, as in the set: load test images so"
        )
    return coding, notes


def _whitening_notes(preprocessing: Preprocessing, toolkit: Toolkit) -> list[str]:
    if toolkit.whitens_like(preprocessing):
        return [
            "images are whitened; a fit of the toolkit's own ZCA on the same training images gives the same transform"
        ]
    recipe = "plain [0, 1] images" if toolkit.zca_on_plain else "standardised images"
    return [
        f"images are whitened as in the set, {preprocessing.describe()}; {toolkit.name} whitens {recipe} with eps 0.1"
    ]


def _whitened_coding(context: ImportContext, toolkit: Toolkit) -> Preprocessing:
    template, given = context.template(), context.given_constants()
    if template is not None:
        if template.preprocessing.whitening is None:
            raise ConfigError("zca=true, but the set of --like is not whitened; give a whitened set")
        return template.preprocessing
    source = context.source()
    if source is None:
        raise ConfigError("whitened images need their ZCA; pass --like FILE.h5, or --dataset NAME to fit it again")
    if toolkit.zca_on_plain:
        return Preprocessing.fit(source.train.images, standardise=False, zca_eps=DATADAM_EPS)
    mean, std = given or toolkit.constants.get(source.name) or (source.mean, source.std)
    return Preprocessing.fit(source.train.images, mean=mean, std=std, zca_eps=DATADAM_EPS)


def _flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {value!r}")
    return value


def _exact(values: torch.Tensor) -> str:
    return ",".join(f"{value:.7g}" for value in values.tolist())
