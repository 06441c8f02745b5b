"""The options that choose real images and how they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import Command, OnlyWith, bundle
from atom_plugin.cli.options import FOLDER, FRACTION, POSITIVE_INT, SEED, Number

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest

# What says which images of a source, beside its name and its place: the file of a set knows it of the set's own source.
OF_IMAGES = (
    "image_size",
    "test_fraction",
    "split_seed",
    "class_order",
    "bit_depth",
    "max_pixels",
    "follow_links",
    "skip_unreadable",
)
_OF_SOURCE = ("data_dir", "download", "cache_dir", "workers")

WITH_DATASET = OnlyWith("--dataset", OF_IMAGES, lambda values: values["dataset"])
"""For commands that use a set's source by default."""

WITH_SOURCE = OnlyWith("--dataset", (*OF_IMAGES, *_OF_SOURCE), lambda values: values["dataset"])
"""For commands that use a source only if one is given."""

WITH_DATA_DIR = OnlyWith("--data-dir", ("keep_paths",), lambda values: values["data_dir"])
"""For commands that make a set from a source."""

OF_SOURCE = ("dataset", *OF_IMAGES, *_OF_SOURCE)
"""The parameters of all source options."""

_OF_REQUEST = {*OF_IMAGES, *_OF_SOURCE, "validation"}


def source_options(command: Command) -> Command:
    """The options that choose real images: the command gets ``dataset`` (str) and ``request`` (SourceRequest)."""
    return _options(click.option("--dataset", default="digits", show_default=True, **_DATASET))(command)


def other_source_options(*, default: str) -> Callable[[Command], Command]:
    """As :func:`source_options`, but ``dataset`` is None if it is not given; ``default`` describes the default."""
    words = f"{_DATASET['help']}  [default: {default}]"
    return _options(click.option("--dataset", **{**_DATASET, "help": words}))


_DATASET: dict[str, Any] = {
    "metavar": "NAME",
    "help": "Image source: digits (included), mnist, fashion-mnist, svhn, cifar10, cifar100, folder (your images in "
    "--data-dir), packed (a folder with decoded images, images.h5), or a plugin's source.",
}


def source_request(values: Mapping[str, Any]) -> SourceRequest:
    """The request for the values of source options, by parameter, with ``--validation`` if the command has it."""
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
            help="Folder of the source's files; downloads go there too.  [default: the source's own folder]",
        ),
        click.option(
            "--image-size",
            metavar="PIXELS",
            type=POSITIVE_INT,
            help="Resize images to squares of this side.  [default: the source's own size]",
        ),
        click.option("--download", is_flag=True, help="Download the source's files even if they exist."),
        click.option(
            "--test-fraction",
            metavar="SHARE",
            type=FRACTION,
            help="Fraction of the images used for testing, 0 to 1, for a folder without test/ or val/.  [default: 0.2]",
        ),
        click.option(
            "--split-seed",
            metavar="N",
            type=SEED,
            # Apart from --seed, so that sets made with different seeds are tested on the same images.
            help="Seed that splits a folder without test/ or val/ into training and test images, and chooses the "
            "images of --validation.  [default: 0]",
        ),
        click.option(
            "--cache-dir",
            metavar="FOLDER",
            type=FOLDER,
            help="Folder for decoded images.  [default: the user's cache folder]",
        ),
        click.option(
            "--workers",
            metavar="N",
            type=POSITIVE_INT,
            help="Number of processes that decode images.  [default: one per core]",
        ),
        click.option(
            "--class-order",
            type=Choice(["name", "natural"]),  # written out: importing them takes Pillow
            help=(
                "Order of class ids of a folder source: by name, or natural, with numbers by value (2 before 10).  "
                "[default: name]"
            ),
        ),
        click.option(
            "--bit-depth",
            metavar="BITS",
            type=Number(int, at_least=8, at_most=16),
            help="Number of bits that the 16-bit grey images of a folder source use, e.g. 12.  [default: 16]",
        ),
        click.option(
            "--max-pixels",
            metavar="N",
            type=POSITIVE_INT,
            help="Refuse images with more pixels, for a folder source.  [default: 89,478,485]",
        ),
        click.option(
            "--follow-links", is_flag=True, help="Follow links that lead out of the folder, for a folder source."
        ),
        click.option(
            "--skip-unreadable",
            is_flag=True,
            help="Leave out image files that cannot be read, with a warning, for a folder source.",
        ),
        _with_request,
    )


def validation_option(command: Command) -> Command:
    """``--validation``, to use with :func:`source_options`: the command's ``request`` has it."""
    return click.option(
        "--validation",
        metavar="FRACTION|N",
        type=Number(float, above=0),
        help="Hold out training images of each class, a fraction below 1 or a number, for `consume evaluate --on "
        "validation`.",
    )(command)


def keep_paths_option(command: Command) -> Command:
    """``--keep-paths``: the command gets ``keep_paths``."""
    return click.option(
        "--keep-paths",
        is_flag=True,
        help="Store the absolute path of --data-dir in the set.  [default: a path relative to the set, or no path "
        "if the two share no folder but the root]",
    )(command)
