"""`atom-cli store export` and `import`: sets in other toolkits' formats."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import CheckedCommand, Command, bundle, gathered
from atom_plugin.cli.options import PATH, Number, force_option, key_value_pairs
from atom_plugin.cli.outputs import Output, claim
from atom_plugin.cli.source_options import WITH_DATA_DIR, WITH_SOURCE, keep_paths_option, other_source_options
from atom_plugin.cli.terminal import echo
from atom_plugin.errors import PluginError

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.store.formats.context import ImportContext


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The import's options; ``dataset`` is None if none is named."""

    like: Path | None
    dataset: str | None
    classes: tuple[str, ...]
    class_map: Path | None
    mean: str | None
    std: str | None
    method: str | None


def _format_name(ctx: click.Context, param: click.Parameter, name: str) -> str:
    from atom_plugin.store.formats import FORMATS

    try:
        FORMATS.entry(name)
    except PluginError as error:
        raise click.UsageError(f"--format: {error}", ctx) from None
    return name


def _list_formats(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from atom_plugin.store.formats import listing

    rows = listing()
    width = max(len(row.name) for row in rows)
    for row in rows:
        echo(f"{row.name:<{width}}  {', '.join(row.directions) or 'unusable':<14}  {row.description}")
    ctx.exit()


def _format_options(command: Command) -> Command:
    """The options of both directions: the command gets ``format_`` and ``option``."""
    return bundle(
        click.option(
            "--format",
            "format_",
            metavar="NAME",
            required=True,
            callback=_format_name,
            help="File format of another toolkit (see --list-formats).",
        ),
        click.option(
            "--list-formats",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_list_formats,
            help="List the formats and whether they can be exported and imported.",
        ),
        click.option(
            "-o",
            "--output",
            metavar="PATH",
            type=PATH,
            required=True,
            help="File or folder to write; --force replaces an existing one.",
        ),
        click.option(
            "--option",
            metavar="KEY=VALUE",
            multiple=True,
            callback=key_value_pairs,
            help="Set an option of the format (see docs/formats.md); may be repeated.",
        ),
        force_option,
    )(command)


@click.command(cls=CheckedCommand)
@click.argument("file", type=PATH)
@_format_options
@click.option(
    "--pixels",
    type=Choice(["preprocessed", "true-colour"]),
    help="For npz and pt: pixels as stored, or with the preprocessing undone.  [default: preprocessed]",
)
def export(*, file: Path, format_: str, output: Path, option: dict[str, Any], force: bool, pixels: str | None) -> None:
    """Write FILE in another format.

    Data that the format cannot represent is converted, with a note on stderr, or refused.

    \b
    Examples:
      atom-cli store export set.h5 --format datasetcondensation -o res.pt
      atom-cli store export set.h5 --format folder -o pictures --option image_format=webp
    """
    # Whether it is a file or a folder, and what of it may be replaced, is the format's to say.
    claim([Output(path=output, option="-o", shared=True)], inputs=[file], lock=False)
    from atom_plugin.store.formats import export_set
    from atom_plugin.store.synthetic_set import SyntheticSet

    options = {**option, **({} if pixels is None else {"pixels": pixels})}
    _say(export_set(SyntheticSet.load(file), output, format=format_, force=force, **options))
    echo(output)


@click.command(
    "import",
    cls=CheckedCommand,
    only_with=(WITH_SOURCE, WITH_DATA_DIR),
    shown="format_ list_formats option like dataset data_dir classes mean std output force",
)
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1, required=True)
@_format_options
@click.option(
    "--like",
    metavar="FILE",
    type=PATH,
    help="A set of this package with the same source, for class names and preprocessing.",
)
@other_source_options(default="none")
@keep_paths_option
@click.option(
    "--classes",
    metavar="NAMES",
    multiple=True,
    help="Class names in the order of their ids, comma separated; or repeat the option, one name each.",
)
@click.option(
    "--class-map",
    metavar="FILE",
    type=PATH,
    help="Text or JSON file with the class name of each id in PATH; ids are renumbered as in --like, --dataset or "
    "--classes.",
)
@click.option(
    "--mean",
    metavar="NUMBERS",
    help="Mean of each channel with which PATH was standardised, comma separated, in [0, 1].",
)
@click.option(
    "--std",
    metavar="NUMBERS",
    help="Standard deviation of each channel with which PATH was standardised, comma separated.",
)
@click.option("--method", metavar="NAME", help="Name of the method that made the images.  [default: unknown]")
@click.option(
    "--experiment",
    metavar="N",
    type=Number(int, at_least=0),
    help="Number of the experiment to read from a file with several, from 0.",
)
@click.option(
    "--trust-pickle",
    is_flag=True,
    help="Let the file run code while it is read. Use only for files from people you trust.",
)
@gathered("beside", Beside)
def import_(
    *,
    paths: tuple[Path, ...],
    format_: str,
    output: Path,
    option: dict[str, Any],
    force: bool,
    beside: Beside,
    request: SourceRequest,
    keep_paths: bool,
    experiment: int | None,
    trust_pickle: bool,
) -> None:
    """Make a set from PATH, a file or folder in another format. Several PATHs are parts of one set.

    Other formats store no class names and no preprocessing. Give them with --like, --dataset, or --classes with --mean and
    --std.

    \b
    Examples:
      atom-cli store import res.pt --format datasetcondensation --like set.h5 -o dc.h5
      atom-cli store import logged --format mtt --dataset cifar10 --option zca=true -o mtt.h5
      atom-cli store import part0.npz part1.npz --format arrays --dataset cifar10 -o whole.h5
    """
    claim(
        [Output(path=output, option="-o", replace=force, kind="HDF5")], inputs=[*paths, beside.like, request.data_dir]
    )
    from atom_plugin.store.concatenation import concatenate
    from atom_plugin.store.formats import import_set

    options = dict(option)
    if experiment is not None:
        options["experiment"] = experiment
    if trust_pickle:
        options["trust_pickle"] = True
    contexts = _contexts(beside, request, len(paths))
    parts = [
        import_set(path, format=format_, context=context, **options)
        for path, context in zip(paths, contexts, strict=True)
    ]
    held = parts[0] if len(parts) == 1 else concatenate(parts, names=list(map(str, paths)))
    held.save(output, force=force, keep_paths=keep_paths)
    _say(list(dict.fromkeys(note for context in contexts for note in context.notes)))
    echo(output)


def _contexts(beside: Beside, request: SourceRequest, count: int) -> list[ImportContext]:
    """One per file, since it stores the file's metadata; the source of --dataset is loaded once."""
    from atom_plugin.datasets import load_source
    from atom_plugin.store.formats.class_map import read_class_map
    from atom_plugin.store.formats.coding import both_or_none, per_channel
    from atom_plugin.store.formats.context import ImportContext
    from atom_plugin.store.synthetic_set import SyntheticSet

    classes, dataset = beside.classes, beside.dataset
    names = classes[0].split(",") if len(classes) == 1 else classes
    template = None if beside.like is None else SyntheticSet.load(beside.like)
    load = None if dataset is None else functools.cache(lambda: load_source(dataset, request))
    named = None if beside.class_map is None else read_class_map(beside.class_map)
    return [
        ImportContext(
            like=template,
            dataset=dataset,
            load_dataset=load,
            class_names=tuple(name.strip() for name in names) or None,
            class_map=named,
            constants=both_or_none(per_channel("mean", beside.mean), per_channel("std", beside.std)),
            method=beside.method,
        )
        for _ in range(count)
    ]


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        echo(f"note: {note}", err=True)
