"""The options that say which real images, and how they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import click

from atom_plugin.cli.command import Command, OnlyWith, bundle
from atom_plugin.cli.options import FOLDER, FRACTION, POSITIVE_INT, SEED, Number

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest

# What says which images of a source, beside its name and its place: the file of a set knows it of the set's own source.
OF_IMAGES = ("image_size", "test_fraction", "split_seed", "class_order", "bit_depth", "max_pixels", "follow_links")
_OF_SOURCE = ("data_dir", "download", "cache_dir", "workers")

WITH_DATASET = OnlyWith("--dataset", OF_IMAGES, lambda values: values["dataset"])
"""For commands that take the source of a set unless another is named."""

WITH_SOURCE = OnlyWith("--dataset", (*OF_IMAGES, *_OF_SOURCE), lambda values: values["dataset"])
"""For commands that need no source unless one is named."""

WITH_DATA_DIR = OnlyWith("--data-dir", ("keep_paths",), lambda values: values["data_dir"])
"""For commands that make a set of a source."""

OF_SOURCE = ("dataset", *OF_IMAGES, *_OF_SOURCE)
"""The parameters of all source options."""

_OF_REQUEST = {*OF_IMAGES, *_OF_SOURCE, "validation"}


def source_options(command: Command) -> Command:
    """The options that say which real images: the command gets ``dataset`` (str) and ``request`` (SourceRequest)."""
    return _options(click.option("--dataset", default="digits", show_default=True, **_DATASET))(command)


def other_source_options(*, default: str) -> Callable[[Command], Command]:
    """As :func:`source_options`, but ``dataset`` is None where it is not given; ``default`` says what holds then."""
    words = f"{_DATASET['help']}  [default: {default}]"
    return _options(click.option("--dataset", **{**_DATASET, "help": words}))


_DATASET: dict[str, Any] = {
    "metavar": "NAME",
    "help": "Image source: digits (embedded), mnist, fashion-mnist, svhn, cifar10, cifar100, "
    "folder (your own images, with --data-dir), packed (a folder with decoded images, images.h5), or a plugin's.",
}


def source_request(values: Mapping[str, Any]) -> SourceRequest:
    """The request that the values of source options, by parameter, make; ``--validation`` where the command has it."""
    from atom_plugin.datasets import SourceRequest

    fields = {name: values[name] for name in (*OF_IMAGES, *_OF_SOURCE) if name != "split_seed"}
    progress = not values.get("quiet", False)
    return SourceRequest(**fields, seed=values["split_seed"], validation=values.get("validation"), progress=progress)


def _with_request(command: Command) -> Command:
    """The options as one SourceRequest."""

    @functools.wraps(command)
    def with_request(*args: Any, **given: Any) -> Any:
        request = source_request(given)
        others = {name: value for name, value in given.items() if name not in _OF_REQUEST}
        return command(*args, request=request, **others)

    return cast("Command", with_request)


def _options(dataset: Callable[..., Any]) -> Callable[[Command], Command]:
    """All options, in the order of the help."""
    return bundle(
        dataset,
        click.option(
            "--data-dir",
            metavar="FOLDER",
            type=FOLDER,
            help="Where the source's files are, or go.  [default: the source's own place]",
        ),
        click.option(
            "--image-size",
            metavar="PIXELS",
            type=POSITIVE_INT,
            help="Resize images to this side, square.  [default: the source's own size]",
        ),
        click.option("--download", is_flag=True, help="Fetch the source's files even where they are present."),
        click.option(
            "--test-fraction",
            metavar="SHARE",
            type=FRACTION,
            help="Share of a folder without test/ or val/ that is kept for testing, 0 to 1.  [default: 0.2]",
        ),
        click.option(
            "--split-seed",
            metavar="N",
            type=SEED,
            # Apart from --seed, so that sets made with different seeds are tested on the same images.
            help="Seed of the split of a folder without test/ or val/, and of the images that --validation holds out.  "
            "[default: 0]",
        ),
        click.option(
            "--cache-dir",
            metavar="FOLDER",
            type=FOLDER,
            help="Where decoded images are kept.  [default: the user's cache folder]",
        ),
        click.option(
            "--workers",
            metavar="N",
            type=POSITIVE_INT,
            help="Processes that decode images.  [default: one per core]",
        ),
        click.option(
            "--class-order",
            type=click.Choice(["name", "natural"]),  # written out: importing them takes Pillow
            help="Of a folder: class ids in the order of names, or with numbers by value, 2 before 10.  [default: name]",
        ),
        click.option(
            "--bit-depth",
            metavar="BITS",
            type=Number(int, at_least=8, at_most=16),
            help="Of a folder: how many bits its 16-bit grey images use, such as 12.  [default: 16]",
        ),
        click.option(
            "--max-pixels",
            metavar="N",
            type=POSITIVE_INT,
            help="Of a folder: refuse image files of more pixels than that.  [default: 89,478,485]",
        ),
        click.option("--follow-links", is_flag=True, help="Of a folder: follow links that lead out of it as well."),
        _with_request,
    )


def validation_option(command: Command) -> Command:
    """``--validation``, beside :func:`source_options`: the command's ``request`` holds it."""
    return click.option(
        "--validation",
        metavar="FRACTION|N",
        type=Number(float, above=0),
        help="Hold out a part of each class's training images, a share below 1 or their number, for `consume evaluate --on "
        "validation`.",
    )(command)


def keep_paths_option(command: Command) -> Command:
    """``--keep-paths``: the command gets ``keep_paths``."""
    return click.option(
        "--keep-paths",
        is_flag=True,
        help="Store the absolute path of --data-dir in the set.  [default: relative to the set, or not at all where the two "
        "share no folder but the root]",
    )(command)
