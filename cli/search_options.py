"""The options of ``atom-cli consume search``: what is searched, by which proxies, and what is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from atom_plugin.cli.command import Command, OnlyWith, bundle
from atom_plugin.cli.options import PATH, POSITIVE_INT, TABLE_PRINTED
from atom_plugin.cli.source_options import OF_IMAGES
from atom_plugin.cli.training_options import names_joined_by_commas


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Which candidates are compared."""

    space: str
    pick: str | None
    sample: int | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What candidates are trained on; ``reference`` is its kind and its epochs."""

    proxy: list[str]
    repeats: int
    reference: tuple[str, int]
    reference_ipc: int | None
    halving: bool


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What is written and printed."""

    results: Path | None
    csv_file: Path | None
    chart: Path | None
    top: int
    dry_run: bool
    latex: bool


ONLY_WITH = (
    # The seed is also that of the validation images, where the sets were made of all training images.
    OnlyWith("--dataset", tuple(name for name in OF_IMAGES if name != "split_seed"), lambda values: values["dataset"]),
    OnlyWith(
        "a search that runs, which --dry-run excludes",
        ("csv_file", "chart", "force", "as_json", "top", "latex"),
        lambda values: not values["dry_run"],
    ),
    TABLE_PRINTED,
    OnlyWith("--csv or --chart", ("force",), lambda values: values["csv_file"] or values["chart"]),
    OnlyWith("--reference full:EPOCHS", ("chart",), lambda values: values["reference"][0] == "full"),
    OnlyWith("a --reference", ("reference_ipc",), lambda values: values["reference"][0] != "none"),
)


def _reference(ctx: click.Context, param: click.Parameter, given: str) -> tuple[str, int]:
    kind, colon, epochs = given.partition(":")
    if given == "none":
        return "none", 0
    if kind not in ("full", "best") or not colon:
        raise click.UsageError(f"--reference must be full:EPOCHS, best:EPOCHS or none, not {given!r}", ctx)
    return kind, int(POSITIVE_INT.convert(epochs, param, ctx))


def _proxies(ctx: click.Context, param: click.Parameter, given: str) -> list[str]:
    return [] if given == "none" else names_joined_by_commas(ctx, param, given) or []


def space_options(command: Command) -> Command:
    """Which candidates are compared."""
    return bundle(
        click.option(
            "--space",
            metavar="NAME",
            default="convnet-720",
            show_default=True,
            help="Architectures to compare: convnet-720, or a file FILE.toml with a grid of ConvNets or a list of models.",
        ),
        click.option(
            "--pick",
            metavar="FIELD=VALUE,…",
            help="Compare only those of the space that have these values, as depth=3,width=64|128.",
        ),
        click.option(
            "--sample", metavar="N", type=POSITIVE_INT, help="Compare N of them, drawn by --seed.  [default: all]"
        ),
    )(command)


def proxy_options(command: Command) -> Command:
    """What candidates are trained on."""
    return bundle(
        click.option(
            "--proxy",
            metavar="NAME,…",
            default="random,herding,early-stopping",
            show_default=True,
            callback=_proxies,
            help="Proxies beside the sets: random, herding, k-center or forgetting choose as many real images as a set has, "
            "early-stopping trains on all until as many were shown; or none.",
        ),
        click.option(
            "--repeats",
            metavar="N",
            type=POSITIVE_INT,
            default=1,
            show_default=True,
            help="Networks per candidate and proxy; their mean counts.",
        ),
        click.option(
            "--reference",
            metavar="KIND:EPOCHS",
            default="full:20",
            show_default=True,
            callback=_reference,
            help="What proxies stand for: full:EPOCHS trains every candidate on all real images, best:EPOCHS only the best of "
            "each proxy, and none nothing.",
        ),
        click.option(
            "--reference-ipc",
            metavar="N",
            type=POSITIVE_INT,
            help="Real images per class that the reference trains on.  [default: all]",
        ),
        click.option(
            "--halving",
            is_flag=True,
            help="Train all on each proxy for a ninth of the epochs, the best third for a third, and the best third of these "
            "for all of them.",
        ),
    )(command)


def result_options(command: Command) -> Command:
    """What is written and printed."""
    return bundle(
        click.option(
            "--results",
            metavar="FILE.jsonl",
            type=PATH,
            help="Add each finished network to this file, and skip those that stand in it: a stopped search goes on.",
        ),
        click.option("--csv", "csv_file", metavar="FILE.csv", type=PATH, help="Write all candidates as CSV."),
        click.option(
            "--chart",
            metavar="FILE",
            type=PATH,
            help="Draw each proxy against the reference, a point per candidate: .png, .jpg, .svg or .pdf.",
        ),
        click.option(
            "--top",
            metavar="K",
            type=POSITIVE_INT,
            default=10,
            show_default=True,
            help="Candidates in the printed ranking, and of a proxy's choice whose regret is shown.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be trained, and how long that takes, and stop."),
    )(command)
