"""``atom-cli select``: real images as a set of the same format, the baseline that a distilled set has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import OnlyWith, SectionedCommand, section
from atom_plugin.cli.distill_options import zca_option
from atom_plugin.cli.field_options import field_options, given_fields
from atom_plugin.cli.options import PATH, device_option, force_option, json_option, output_option, quiet_option
from atom_plugin.cli.outputs import Output, claim, default_name, write_set
from atom_plugin.cli.source_options import WITH_DATA_DIR, keep_paths_option, source_options, validation_option
from atom_plugin.cli.terminal import load_torch
from atom_plugin.cli.written import report
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest


def _computes(values: Mapping[str, Any]) -> bool:
    return values["method"] not in (None, "random")


@click.command(
    cls=SectionedCommand,
    only_with=(OnlyWith("a --method that computes, such as herding", ("device",), _computes), WITH_DATA_DIR),
)
@section("Source", source_options, validation_option)
@field_options(SelectConfig, first=("ipc", "method"), default="the atom recipe's")
@zca_option
@section(
    "Preprocessing",
    click.option(
        "--preprocessing-of",
        metavar="FILE",
        type=PATH,
        help="Take the preprocessing of this set, so that the two compare.  [default: the atom recipe's]",
    ),
)
@section("Computation", device_option)
@section("Files", output_option("DATASET-METHOD-ipcN.h5"), keep_paths_option, force_option)
@quiet_option
@json_option
def select(
    *,
    dataset: str,
    request: SourceRequest,
    zca: bool | None,
    preprocessing_of: Path | None,
    device: str,
    output: Path | None,
    keep_paths: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Select real images into a set of the same format: the baseline.

    docs/selection.md says what each method chooses, and what it costs.

    \b
    Example:
      atom-cli select --method random --ipc 20
      atom-cli select --method herding --embedding trained:20 --ipc 20
      atom-cli consume evaluate digits-atom-ipc20.h5 digits-random-ipc20.h5 digits-herding-ipc20.h5
    """
    given = given_fields(SelectConfig, options)
    if "ipc" not in given:
        raise click.UsageError("--ipc is missing; say how many images per class you want, e.g. --ipc 10")
    if preprocessing_of is not None and (zca is not None or given.keys() & {"standardise", "zca_eps"}):
        raise click.UsageError("--preprocessing-of excludes --standardise, --zca and --zca-eps: the file decides")
    method, seed = given.get("method", "random"), given.get("seed", 0)
    output = output or default_name(dataset, method, f"ipc{given['ipc']}", seed=seed, suffix=".h5")
    claim([Output(path=output, option="-o", replace=force)], inputs=[preprocessing_of, request.data_dir])
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
            f"{preprocessing_of}: its preprocessing was fitted on other images than those that --validation leaves; take a "
            "set made with the same --validation"
        )
    config = SelectConfig.from_recipe("atom", image_shape=data.image_shape, zca=zca, **given)
    images = config.choosing_epochs * len(data.train)
    with progress_bar(images, hidden=quiet or not images, unit="image", desc=method, unit_scale=True, delay=0.5) as bar:
        preprocessing = None if fitted is None else fitted.preprocessing
        selected = selected_set(config, data, preprocessing=preprocessing, device=device, on_images=bar.update)
    write_set(selected, output, force=force, keep_paths=keep_paths)
    report(selected, output, made_from=len(data.train), as_json=as_json, keep_paths=keep_paths)
