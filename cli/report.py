"""``atom-cli report``: one page with sets, the runs that made them, and the accuracy of networks trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import CheckedCommand, OnlyWith
from atom_plugin.cli.options import PATH, POSITIVE_INT, force_option, placing_network_option, run_options
from atom_plugin.cli.outputs import Output, claim
from atom_plugin.cli.source_options import WITH_DATASET, other_source_options
from atom_plugin.cli.terminal import echo, load_torch

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.evaluation.embedding_map import EmbeddingMapConfig
    from atom_plugin.store.synthetic_set import SyntheticSet


@click.command(
    cls=CheckedCommand,
    only_with=(
        WITH_DATASET,
        OnlyWith(
            "an --embedding other than none",
            ("network_state", "seed", "device", "precision"),
            lambda values: values["embedding"] != "none",
        ),
    ),
    shown="data_dir output results title per_class embedding force quiet",
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", metavar="FILE.html", type=PATH, required=True, help="File of the page.")
@click.option(
    "--results",
    metavar="FILE.jsonl",
    type=PATH,
    help="Add a table and a chart of the accuracies in this file, written by consume evaluate --results.",
)
@click.option("--title", metavar="TEXT", help="Heading of the page.  [default: the names of the files]")
@click.option(
    "--per-class",
    metavar="N",
    type=POSITIVE_INT,
    default=10,
    show_default=True,
    help="Number of images of each class on the page, at most.",
)
@click.option(
    "--embedding",
    type=Choice(["pca", "tsne", "none"]),
    default="pca",
    show_default=True,
    help="Draw the embeddings of synthetic and real images as points in a plane.",
)
@placing_network_option(default="random")
@other_source_options(default="the one that each set names")
@run_options
@force_option
def report(
    *,
    files: tuple[Path, ...],
    output: Path,
    results: Path | None,
    title: str | None,
    per_class: int,
    dataset: str | None,
    request: SourceRequest,
    quiet: bool,
    force: bool,
    **options: Any,
) -> None:
    """Write one HTML page that compares the sets in FILEs side by side and opens in any browser without a network.

    The page shows the images in true colours, how the sets were made, the loss curve from each set's log, the nearest real
    images, a map of the embeddings, and with --results the accuracies. Real images come from the source that each set names; if
    a source is missing, the page says why.

    \b
    Examples:
      atom-cli report photos.h5 -o photos.html
      atom-cli report digits-*.h5 --results results.jsonl -o digits.html
    """
    claim([Output(path=output, option="-o", replace=force, kind="HTML")], inputs=[*files, results, request.data_dir])
    load_torch()
    from atom_plugin.evaluation.recorded import recorded_evaluations
    from atom_plugin.report.gather import shown_set
    from atom_plugin.report.page import ReportConfig, report_page
    from atom_plugin.runtime.files import write_bytes
    from atom_plugin.runtime.progress import phase
    from atom_plugin.store.loading import load

    embedding = _embedding(options)
    sets = [load(file) for file in files]
    evaluations = [] if results is None else recorded_evaluations(results)
    names = list(map(str, files))
    sources, absent = _sources(names, sets, dataset, request)
    shown = [
        shown_set(file, held, name, data) for file, held, name, data in zip(files, sets, names, sources, strict=True)
    ]
    config = ReportConfig(
        title=title or ", ".join(file.name for file in files), per_class=per_class, embedding=embedding
    )
    with phase("drawing"):
        page = report_page(shown, evaluations, config, absent=absent)
    write_bytes(output, page.encode("utf-8", "backslashreplace"), force=force)
    echo(output)


def _embedding(options: dict[str, Any]) -> EmbeddingMapConfig | None:
    from atom_plugin.evaluation.embedding_map import EmbeddingMapConfig

    if options["embedding"] == "none":
        return None
    how = {name: options[name] for name in ("seed", "device", "precision")}
    return EmbeddingMapConfig(method=options["embedding"], state=options["network_state"], **how)


def _sources(
    names: Sequence[str], sets: Sequence[SyntheticSet], dataset: str | None, request: SourceRequest
) -> tuple[list[SourceData | None], dict[str, str]]:
    """The source of each set, None if it is missing, and the reasons by name. A source that options name must be there."""
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.errors import AtomError
    from atom_plugin.evaluation import load_test_sources

    try:
        return list(load_test_sources(names, sets, dataset, request)), {}
    except AtomError:
        if dataset is not None or request != SourceRequest(progress=request.progress):
            raise
    found: list[SourceData | None] = []
    absent: dict[str, str] = {}
    for name, held in zip(names, sets, strict=True):
        try:
            found += load_test_sources([name], [held], None, request)
        except AtomError as error:
            found.append(None)
            absent[name] = f"The real images are missing: {error}"
    return found, absent
