"""``atom-cli select``: real images as a set of the same format, the baseline that a distilled set has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.distill_options import choosing_options
from atom_plugin.cli.options import (
    PATH,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    force_option,
    json_option,
    run_options,
    source_options,
)
from atom_plugin.cli.outputs import Output, claim, default_name, write_set
from atom_plugin.cli.report import report

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest


@click.command()
@source_options
@click.option("--ipc", metavar="N", type=POSITIVE_INT, required=True, help="Images per class.")
@click.option(
    "--method",
    type=click.Choice(["random", "herding", "k-center", "forgetting"]),
    default="random",
    show_default=True,
    help="How images are chosen: herding and k-center compare embeddings, forgetting counts what training forgets.",
)
@choosing_options
@click.option(
    "--preprocessing-of",
    metavar="FILE",
    type=PATH,
    help="Take the preprocessing of this set, so that the two compare.  [default: the atom recipe's]",
)
@click.option("--zca/--no-zca", default=None, help="ZCA whitening.  [default: the atom recipe's]")
@click.option("--zca-eps", metavar="EPS", type=POSITIVE_FLOAT, help="Its eps, and turns it on.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=PATH,
    help="The set to write.  [default: DATASET-METHOD-ipcN.h5, with -seedN before .h5 where --seed is not 0]",
)
@run_options
@force_option
@json_option
def select(
    *,
    dataset: str,
    request: SourceRequest,
    ipc: int,
    method: str,
    embedding: str | None,
    forgetting_epochs: int | None,
    preprocessing_of: Path | None,
    zca: bool | None,
    zca_eps: float | None,
    output: Path | None,
    seed: int,
    device: str,
    precision: str,
    quiet: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Select real images into a set of the same format: the baseline.

    docs/selection.md says what each method chooses, and what it costs.

    \b
    Example:
      atom-cli select --method random --ipc 20
      atom-cli select --method herding --embedding trained:20 --ipc 20
      atom-cli consume evaluate digits-atom-ipc20.h5 digits-random-ipc20.h5 digits-herding-ipc20.h5
    """
    if preprocessing_of is not None and (zca is not None or zca_eps is not None):
        raise click.UsageError("--preprocessing-of excludes --zca and --zca-eps: the file decides")
    output = output or default_name(dataset, method, f"ipc{ipc}", seed=seed, suffix=".h5")
    claim([Output(path=output, option="-o", replace=force)], inputs=[preprocessing_of, request.data_dir])
    from tqdm import tqdm

    from atom_plugin import store
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.assembly import selected_set
    from atom_plugin.distillation.config import DistillConfig

    preprocessing = None if preprocessing_of is None else store.read(preprocessing_of).preprocessing
    data = load_source(dataset, request)
    choosing: dict[str, Any] = {"embedding": embedding, "forgetting_epochs": forgetting_epochs}
    config = DistillConfig.from_recipe(
        "atom",
        ipc=ipc,
        image_shape=data.image_shape,
        seed=seed,
        precision=precision,
        initialiser=method,
        zca=zca,
        zca_eps=zca_eps,
        **{name: value for name, value in choosing.items() if value is not None},
    )
    images = config.choosing_epochs * len(data.train)
    with tqdm(total=images, disable=quiet or not images, unit="image", unit_scale=True, desc=method, delay=0.5) as bar:
        selected = selected_set(config, data, preprocessing=preprocessing, device=device, on_images=bar.update)
    write_set(selected, output, force=force)
    report(selected, output, as_json=as_json)
