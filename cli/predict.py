"""``atom-cli consume predict``: classify images with a network that `consume train` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import click

from atom_plugin.cli.command import CheckedCommand, OnlyWith
from atom_plugin.cli.options import PATH, POSITIVE_INT, device_option, force_option, json_option, quiet_option
from atom_plugin.cli.outputs import claim, table_outputs
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.runtime.progress import progress_bar

_TOLD = 5  # files that could not be read, each in a line


@click.command(cls=CheckedCommand, only_with=(OnlyWith("--csv", ("force",), lambda values: values["csv_file"]),))
@click.argument("model", metavar="MODEL", type=PATH)
@click.argument("images", metavar="IMAGES…", nargs=-1, required=True, type=PATH)
@click.option(
    "--top",
    metavar="N",
    type=POSITIVE_INT,
    default=1,
    show_default=True,
    help="Number of most probable classes to print per image.",
)
@click.option("--csv", "csv_file", metavar="FILE.csv", type=PATH, help="Write one line per image and class as CSV.")
@device_option
@quiet_option
@json_option
@force_option
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    *,
    model: Path,
    images: tuple[Path, ...],
    top: int,
    csv_file: Path | None,
    device: str,
    quiet: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Print the class of each image and its probability, predicted by a network that `consume train` wrote.

    IMAGES are image files, or folders that are searched for images at any depth. Each image is resized and preprocessed like
    the images of the set. A file that cannot be read gets an error line, the other files are still classified, and the exit
    code is 1.

    \b
    Examples:
      atom-cli consume predict photos.safetensors holiday.jpg
      atom-cli consume predict photos.safetensors photos/test --top 3 --csv predictions.csv
    """
    claim(table_outputs(csv_file, None, None, force=force), inputs=[model, *images])
    load_torch()
    from atom_plugin.evaluation.predictions import as_csv, image_files, prediction_table
    from atom_plugin.evaluation.predictions import predict as run
    from atom_plugin.evaluation.trained_network import TrainedNetwork
    from atom_plugin.runtime.device import resolve_device
    from atom_plugin.runtime.files import write_bytes

    where = resolve_device(device)
    trained = TrainedNetwork.load(model)
    trained.module.to(where)
    files = image_files(images)
    with progress_bar(len(files), hidden=quiet, unit="image", desc="predicting", delay=0.5) as bar:
        found = list(run(trained, files, top=top, on_images=bar.update))
    names = trained.class_names
    if as_json:
        echo(json.dumps([each.to_json(names) for each in found]))
    elif table := prediction_table(found, names):
        echo(table)
    if csv_file is not None:
        write_bytes(csv_file, as_csv(found, names).encode(errors="surrogateescape"), force=force)
    failed = [each for each in found if each.error is not None]
    for each in failed[:_TOLD]:
        echo(f"{each.file}: {each.error}", err=True)
    if len(failed) > _TOLD:
        echo(f"and {len(failed) - _TOLD} more of {len(found)} images cannot be used", err=True)
    if failed:
        ctx.exit(1)
