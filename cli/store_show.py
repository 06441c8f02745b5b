"""`atom-cli store show`: draw a set's images in true colours, or as points with the real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.class_options import ChosenClasses, classes_options
from atom_plugin.cli.command import CheckedCommand, OnlyWith
from atom_plugin.cli.options import PATH, POSITIVE_INT, force_option, placing_network_option, run_options
from atom_plugin.cli.outputs import Output, claim
from atom_plugin.cli.source_options import OF_SOURCE, WITH_DATASET, other_source_options
from atom_plugin.cli.terminal import echo
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.evaluation.embedding_map import EmbeddingMap
    from atom_plugin.store.synthetic_set import SyntheticSet

_IMAGES_PER_ROW = 10
_OF_EMBEDDING = (*OF_SOURCE, "network_state", "seed", "device", "precision", "quiet")


@click.command(
    cls=CheckedCommand,
    only_with=(OnlyWith("--embedding", _OF_EMBEDDING, lambda values: values["embedding"]), WITH_DATASET),
    shown="data_dir classes embedding per_class output force",
)
@click.argument("file", type=PATH)
@click.option(
    "-o",
    "--output",
    metavar="PICTURE",
    type=PATH,
    help="Picture file, .png, .jpg, .svg or .pdf.  [default: FILE with .png]",
)
@classes_options
@click.option(
    "--per-class",
    metavar="N",
    type=POSITIVE_INT,
    help="Number of images per row, at most; with --embedding, the number of real images of each class.  [default: "
    "10; 1,000 real images in all]",
)
@click.option(
    "--embedding",
    type=Choice(["pca", "tsne"]),
    help="Draw the embeddings of synthetic and real images as points in a plane, instead of the images; the default "
    "file is FILE with .pca.png or .tsne.png.",
)
@placing_network_option(default="trained:10")
@other_source_options(default="the one that the set names")
@run_options
@force_option
def show(
    *,
    file: Path,
    output: Path | None,
    chosen: ChosenClasses,
    embedding: str | None,
    dataset: str | None,
    request: SourceRequest,
    force: bool,
    **options: Any,
) -> None:
    """Draw the images of FILE in true colours, or with --embedding as points in a plane with the real images.

    The picture has one row per class; its file name is printed. With --embedding, a network of the set's architecture, trained
    on the real images, places the points. Real images come from the source that the set names; --data-dir gives its folder if
    it moved, and --dataset names another source.

    \b
    Examples:
      atom-cli store show set.h5
      atom-cli store show set.h5 --embedding tsne --classes cat,dog
    """
    from atom_plugin.evaluation.embedding_map import draw_embedding_map
    from atom_plugin.store.pictures import grid
    from atom_plugin.store.synthetic_set import SyntheticSet

    held = SyntheticSet.load(file)
    target = output or file.with_suffix(".png" if embedding is None else f".{embedding}.png")
    claim([Output(path=target, option="-o", replace=force, picture=True)], inputs=[file, request.data_dir])
    held = chosen.of(held)
    title = f"{file.name}: {held.provenance.method}, {len(held.classes)} classes, {len(held)} images"
    if embedding is None:
        rows = options["per_class"] or _IMAGES_PER_ROW
        grid(held, held.labels, held.class_names, target, per_class=rows, title=title, force=force)
    else:
        points = _embedded(held, file, dataset, request, {**options, "method": embedding})
        draw_embedding_map(points, target, title=title, force=force)
    echo(target)


def _embedded(
    held: SyntheticSet, file: Path, dataset: str | None, request: SourceRequest, options: dict[str, Any]
) -> EmbeddingMap:
    """The embeddings of the set and of its source, or of ``dataset``, as points."""
    from atom_plugin.distillation.set_config import trained_epochs
    from atom_plugin.evaluation import load_test_sources
    from atom_plugin.evaluation.embedding_map import EmbeddingMapConfig, embedding_map

    state, quiet = options["network_state"], options["quiet"]
    epochs = trained_epochs(state, "--network-state")  # before anything is loaded
    names = ("method", "per_class", "seed", "device", "precision")
    config = EmbeddingMapConfig(state=state, **{name: options[name] for name in names})
    (data,) = load_test_sources([str(file)], [held], dataset, request)
    images = epochs * len(data.train)
    with progress_bar(
        images, hidden=quiet or not images, unit="image", desc="training", unit_scale=True, delay=0.5
    ) as bar:
        return embedding_map(held, data, config, on_images=bar.update)
