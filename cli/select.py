"""``atom-cli select``: a set of real images, as a baseline for distilled sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import CheckedCommand, OnlyWith
from atom_plugin.cli.config_files import option_values
from atom_plugin.cli.distill_options import zca_option
from atom_plugin.cli.field_options import field_options, given_fields
from atom_plugin.cli.options import PATH, device_option, force_option, json_option, output_option, quiet_option
from atom_plugin.cli.outputs import Output, claim, write_set
from atom_plugin.cli.seeds import output_of, seeds_of, seeds_option
from atom_plugin.cli.source_options import (
    WITH_DATA_DIR,
    keep_paths_option,
    source_options,
    source_request,
    validation_option,
)
from atom_plugin.cli.terminal import load_torch
from atom_plugin.cli.written import report
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest


_PREPROCESSING = ("standardise", "zca", "zca_eps")


def _computes(values: Mapping[str, Any]) -> bool:
    return values["method"] not in (None, "random")


def _config(data: SourceData, options: Mapping[str, Any]) -> SelectConfig:
    """The config for the images of ``data``; the atom recipe fills the rest."""
    given = given_fields(SelectConfig, options)
    return SelectConfig.from_recipe("atom", image_shape=data.image_shape, zca=options["zca"], **given)


def _settled(values: Mapping[str, Any]) -> dict[str, Any]:
    """For ``--print-config``: the recipe's values."""
    from atom_plugin.datasets import load_source

    _refuse_contradictions(values)
    settled = option_values(_config(load_source(values["dataset"], source_request(values)), values).to_json())
    preprocessing = _PREPROCESSING if values["preprocessing_of"] else ()
    return {name: value for name, value in settled.items() if name not in preprocessing}


def _refuse_contradictions(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that are missing or that exclude each other."""
    if options["ipc"] is None:
        raise click.UsageError("--ipc is missing; say how many images per class you want, e.g. --ipc 10")
    if options["preprocessing_of"] and any(options[name] is not None for name in _PREPROCESSING):
        raise click.UsageError(
            "--preprocessing-of excludes --standardise, --zca and --zca-eps, because the file "
            "fixes them; leave these out"
        )


@click.command(
    cls=CheckedCommand,
    settled=_settled,
    only_with=(OnlyWith("a --method that computes, such as herding", ("device",), _computes), WITH_DATA_DIR),
    shown="dataset data_dir image_size ipc method output force seed seeds",
)
@source_options
@validation_option
@field_options(SelectConfig, first=("ipc", "method"), default="the atom recipe's")
@zca_option
@click.option(
    "--preprocessing-of",
    metavar="FILE",
    type=PATH,
    help="Use the preprocessing of this set, for a fair comparison with it.  [default: the atom recipe's]",
)
@device_option
@output_option("DATASET-METHOD-ipcN.h5")
@keep_paths_option
@seeds_option
@force_option
@quiet_option
@json_option
def select(
    *,
    dataset: str,
    request: SourceRequest,
    preprocessing_of: Path | None,
    device: str,
    output: Path | None,
    keep_paths: bool,
    seeds: tuple[int, ...] | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Select real images into a set, as a baseline for distilled sets.

    docs/selection.md describes each method and its cost.

    \b
    Example:
      atom-cli select --method random --ipc 20
      atom-cli select --method herding --embedding trained:20 --ipc 20
      atom-cli consume evaluate digits-atom-ipc20.h5 digits-random-ipc20.h5 digits-herding-ipc20.h5
    """
    options = {**options, "preprocessing_of": preprocessing_of}
    _refuse_contradictions(options)
    name = (dataset, options["method"] or "random", f"ipc{options['ipc']}")
    sweep = seeds_of(click.get_current_context(), options["seed"] or 0, seeds)
    outputs = {seed: output_of(output, name, seed, swept=seeds is not None) for seed in sweep}
    claim(
        [Output(path=path, option="-o", replace=force, kind="HDF5") for path in outputs.values()],
        inputs=[preprocessing_of, request.data_dir],
    )
    load_torch()
    from atom_plugin import store
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.selected_set import selected_set
    from atom_plugin.errors import ConfigError

    fitted = None if preprocessing_of is None else store.read(preprocessing_of)
    data = load_source(dataset, request)
    fitted_on = data.fingerprint if fitted is None else fitted.provenance.source.get("fingerprint")
    if data.validation is not None and fitted_on != data.fingerprint:
        raise ConfigError(
            f"{preprocessing_of}: its preprocessing was fitted on other training images than --validation leaves; "
            "give a set made with the same --validation"
        )
    config = _config(data, options)
    preprocessing = None if fitted is None else fitted.preprocessing
    images = config.choosing_epochs * len(data.train)
    made = {}
    for seed, path in outputs.items():
        hidden = quiet or not images
        with progress_bar(images, hidden=hidden, unit="image", desc=config.method, unit_scale=True, delay=0.5) as bar:
            made[path] = selected_set(
                replace(config, seed=seed), data, preprocessing=preprocessing, device=device, on_images=bar.update
            )
        write_set(made[path], path, force=force, keep_paths=keep_paths)
    report(made, made_from=len(data.train), as_json=as_json, keep_paths=keep_paths, swept=seeds is not None)
