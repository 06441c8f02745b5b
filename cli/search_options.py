"""The options of ``atom-cli consume search``: candidates, proxies and output files."""

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
    """The options that choose the candidates."""

    space: str
    pick: str | None
    sample: int | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The training of candidates; ``reference`` is its kind and its epochs."""

    proxy: list[str]
    repeats: int
    reference: tuple[str, int]
    reference_ipc: int | None
    test_best: bool
    halving: bool


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Output files and the form of the printed results."""

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
    OnlyWith("--reference full:EPOCHS", ("chart", "test_best"), lambda values: values["reference"][0] == "full"),
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
    """The options that choose the candidates."""
    return bundle(
        click.option(
            "--space",
            metavar="NAME",
            default="convnet-720",
            show_default=True,
            help="Architectures to compare: convnet-720 (720 ConvNets), or a TOML file with a grid of ConvNets or a "
            "list of models.",
        ),
        click.option(
            "--pick",
            metavar="FIELD=VALUE,…",
            help="Compare only the architectures with these values, e.g. depth=3,width=64|128.",
        ),
        click.option(
            "--sample",
            metavar="N",
            type=POSITIVE_INT,
            help="Compare N random architectures of the space, drawn with --seed.  [default: all]",
        ),
    )(command)


def proxy_options(command: Command) -> Command:
    """The options for the training of candidates."""
    return bundle(
        click.option(
            "--proxy",
            metavar="NAME,…",
            default="random,herding,early-stopping",
            show_default=True,
            callback=_proxies,
            help="Other training data to compare with the sets: random, herding, k-center or forgetting select as "
            "many real images as a set has, early-stopping trains on all real images for as many images as a "
            "set's training; or none.",
        ),
        click.option(
            "--repeats",
            metavar="N",
            type=POSITIVE_INT,
            default=1,
            show_default=True,
            help="Networks per candidate and proxy; the mean accuracy counts.",
        ),
        click.option(
            "--reference",
            metavar="KIND:EPOCHS",
            default="full:20",
            show_default=True,
            callback=_reference,
            help="Reference for the proxies' rankings: full:EPOCHS trains every candidate on all real images, "
            "best:EPOCHS only the best candidate of each proxy; or none.",
        ),
        click.option(
            "--reference-ipc",
            metavar="N",
            type=POSITIVE_INT,
            help="Real images per class for the reference.  [default: all]",
        ),
        click.option(
            "--test-best/--no-test-best",
            default=True,
            show_default=True,
            help="At the end, train the best candidate of each proxy on all real images, and test it on the test images.",
        ),
        click.option(
            "--halving",
            is_flag=True,
            help="Successive halving: train all candidates for a ninth of the epochs, the best third for a third, "
            "and the best third of those for all epochs.",
        ),
    )(command)


def result_options(command: Command) -> Command:
    """The options for output files and printed results."""
    return bundle(
        click.option(
            "--results",
            metavar="FILE.jsonl",
            type=PATH,
            help="Append each trained network's results to FILE, and skip networks already in FILE, so that a "
            "stopped search continues.",
        ),
        click.option("--csv", "csv_file", metavar="FILE.csv", type=PATH, help="Write all candidates as CSV."),
        click.option(
            "--chart",
            metavar="FILE",
            type=PATH,
            help="Draw the accuracies of each proxy against the reference, one point per candidate: .png, .jpg, "
            ".svg or .pdf.",
        ),
        click.option(
            "--top",
            metavar="K",
            type=POSITIVE_INT,
            default=10,
            show_default=True,
            help="Number of candidates in the printed ranking, and in each proxy's choice for which regret is "
            "reported.",
        ),
        click.option("--dry-run", is_flag=True, help="Print what would be trained and the predicted time, and exit."),
    )(command)
