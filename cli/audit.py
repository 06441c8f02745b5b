"""``atom-cli consume audit``: measure how much a set reveals of the real images it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import CheckedCommand, OnlyWith, bundle, gathered
from atom_plugin.cli.options import PATH, POSITIVE_INT, Number, force_option, json_option, run_options
from atom_plugin.cli.outputs import Output, claim
from atom_plugin.cli.source_options import WITH_DATASET, other_source_options
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.cli.training_options import settled_training, training_options

if TYPE_CHECKING:
    from atom_plugin.audit.auditing import NamedShadow
    from atom_plugin.audit.result import Audit
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.evaluation.training_recipes import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that the command writes."""

    csv_file: Path | None
    scores: Path | None
    picture: Path | None

    def claimed(self, *, force: bool) -> list[Output]:
        """The output files that the user named."""
        named = {"--csv": self.csv_file, "--scores": self.scores, "--picture": self.picture}
        return [
            Output(
                path=path,
                option=option,
                replace=force,
                picture=option == "--picture",
                kind="" if option == "--picture" else "CSV",
            )
            for option, path in named.items()
            if path is not None
        ]


_audit_options = bundle(
    click.option(
        "--networks",
        metavar="N",
        type=Number(int, at_least=2),
        default=8,
        show_default=True,
        help="Networks trained on each set, and shadow networks.",
    ),
    click.option(
        "--images",
        metavar="N",
        type=POSITIVE_INT,
        default=5000,
        show_default=True,
        help="Number of members to test, at most; equally many non-members of each class are tested.",
    ),
    click.option(
        "--baseline/--no-baseline",
        default=True,
        show_default=True,
        help="Also audit equally many random real images, which are a known leak, for comparison.",
    ),
    click.option(
        "--shadow",
        "shadow",
        metavar="FILE",
        multiple=True,
        type=PATH,
        help="Train the shadow networks on this set, made with the same options from other images; may be "
        "repeated.  [default: random images from half of the images that no set was made from]",
    ),
    click.option("--csv", "csv_file", metavar="FILE.csv", type=PATH, help="Write the results as CSV."),
    click.option("--scores", metavar="FILE.csv", type=PATH, help="Write the scores of every image as CSV."),
    click.option(
        "--picture",
        metavar="FILE",
        type=PATH,
        help="Draw the synthetic images that are nearest to members next to these members: .png, .jpg, .svg or .pdf.",
    ),
)


@click.command(
    cls=CheckedCommand,
    settled=settled_training,
    only_with=(
        WITH_DATASET,
        OnlyWith(
            "--csv, --scores or --picture",
            ("force",),
            lambda values: values["csv_file"] or values["scores"] or values["picture"],
        ),
    ),
    shown="data_dir images baseline shadow networks epochs csv_file picture as_json seed device",
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@_audit_options
@training_options
@other_source_options(default="the one that the sets name")
@run_options
@json_option
@force_option
@gathered("outputs", Outputs)
def audit(
    *,
    files: tuple[Path, ...],
    shadow: tuple[Path, ...],
    outputs: Outputs,
    dataset: str | None,
    request: SourceRequest,
    training: TrainConfig,
    as_json: bool,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure how much sets reveal of the images they were made from: membership inference, and near copies.

    Members are the training images that a set was made from. Non-members are training images that were held out (distill
    --validation), or else the test images. docs/privacy.md explains the attacks, and what a value near 0.5 does not prove.

    \b
    Examples:
      atom-cli distill --ipc 10 --validation 0.5 -o mine.h5
      atom-cli consume audit mine.h5 --picture nearest.png
    """
    claim(outputs.claimed(force=force), inputs=[*files, *shadow, request.data_dir])
    load_torch()
    from atom_plugin.audit import auditing
    from atom_plugin.audit.members import check_made_of
    from atom_plugin.audit.result import AuditConfig
    from atom_plugin.audit.tables import audit_table, to_json
    from atom_plugin.cli.search_jobs import short_names
    from atom_plugin.runtime.progress import progress_bar

    sets, sources = _read(files, dataset, request)
    config = AuditConfig(training=training, **options)
    shadows: list[NamedShadow] = [
        (str(file), held, source) for file, held, source in zip(shadow, *_read(shadow, dataset, request), strict=True)
    ]
    for name, each in zip(map(str, files), sets, strict=True):
        check_made_of(name, each, sources[0])
    named = auditing.with_baselines(list(zip(short_names(files), sets, strict=True)), sources[0], config)
    total = auditing.networks_to_train(named, shadows, config) * training.epochs
    with progress_bar(total, hidden=quiet, unit="epoch") as bar:
        result = auditing.audit(named, sources[0], config, shadows=shadows, on_epoch=lambda _: bar.update())
    echo(json.dumps(to_json(result)) if as_json else audit_table(result))
    _write(result, outputs, force=force)


def _read(files: Sequence[Path], dataset: str | None, request: SourceRequest) -> tuple[list[Any], list[Any]]:
    """The sets, and the source of each."""
    from atom_plugin import store
    from atom_plugin.evaluation import load_test_sources

    sets = [store.read(file) for file in files]
    return sets, load_test_sources(list(map(str, files)), sets, dataset, request)


def _write(result: Audit, outputs: Outputs, *, force: bool) -> None:
    from atom_plugin.audit.picture import draw_pairs
    from atom_plugin.audit.tables import as_csv, scores_csv
    from atom_plugin.runtime.files import write_bytes

    for path, table in ((outputs.csv_file, as_csv), (outputs.scores, scores_csv)):
        if path is not None:
            write_bytes(path, table(result).encode(), force=force)
    if outputs.picture is not None:
        draw_pairs(result, outputs.picture, force=force)
