"""`atom-cli store`: show, verify, export, import, merge and subset sets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.class_options import ChosenClasses, classes_options
from atom_plugin.cli.command import CheckedCommand
from atom_plugin.cli.options import PATH, POSITIVE_INT, force_option, json_option
from atom_plugin.cli.outputs import Output, claim
from atom_plugin.cli.store_formats import export, import_
from atom_plugin.cli.store_show import show
from atom_plugin.cli.terminal import echo
from atom_plugin.errors import StoreError, listed
from atom_plugin.runtime.text import printable

if TYPE_CHECKING:
    from atom_plugin.store import SetHeader

_file_argument = click.argument("file", type=PATH)
_files_argument = click.argument("files", metavar="FILE...", type=PATH, nargs=-1, required=True)
_output_option = click.option(
    "-o", "--output", metavar="PATH", type=PATH, required=True, help="File to write; --force replaces an existing one."
)


@click.group()
def store() -> None:
    """Show, verify, export, import, merge and subset sets."""


@store.command(cls=CheckedCommand)
@_file_argument
@json_option
def info(file: Path, as_json: bool) -> None:
    """Print the metadata of FILE.

    Reads no pixels and does not check the checksum; use verify for that.
    """
    from atom_plugin.store import read_header

    header = read_header(file)
    echo(json.dumps(_as_json(header), indent=2) if as_json else _as_text(header))


@store.command(cls=CheckedCommand)
@_files_argument
@click.pass_context
def verify(ctx: click.Context, files: tuple[Path, ...]) -> None:
    """Check every byte of each FILE.

    Prints one line per file: OK, or the error. The exit code is 1 if any file fails.
    """
    from atom_plugin.store import verify as verify_file

    failed = False
    for file in files:
        try:
            header = verify_file(file)
        except StoreError as error:
            failed = True
            echo(str(error))
        else:
            held = f"{header.shape[0]} images of {len(header.counts)} classes"
            echo(f"{file}: OK ({held}, version {header.version}, sha256 {header.checksum[:16]}…)")
    if failed:
        ctx.exit(1)


store.add_command(show)
store.add_command(export)
store.add_command(import_)


@store.command(cls=CheckedCommand)
@_files_argument
@_output_option
@force_option
def merge(files: tuple[Path, ...], output: Path, force: bool) -> None:
    """Join sets of the same source into one.

    The sets must have the same class names and preprocessing. The joined set is sorted by class.
    """
    claim([Output(path=output, option="-o", replace=force, kind="HDF5")], inputs=files)
    from atom_plugin.store.concatenation import concatenate
    from atom_plugin.store.synthetic_set import SyntheticSet

    merged = concatenate([SyntheticSet.load(file) for file in files], names=[str(file) for file in files])
    merged.save(output, force=force)
    echo(output)


@store.command(cls=CheckedCommand)
@_file_argument
@classes_options
@click.option("--ipc", metavar="N", type=POSITIVE_INT, help="Keep the first N images of each class.")
@_output_option
@force_option
def subset(file: Path, chosen: ChosenClasses, ipc: int | None, output: Path, force: bool) -> None:
    """Keep some classes of FILE, in the given order, or the first images of each class.

    The result is sorted by class in that order, and keeps the class ids. In a nested set (distill --nested) the first images of
    each class form a good set; in other sets they were not optimised to be used alone.
    """
    if not chosen and ipc is None:
        raise click.UsageError(
            "no classes and no number of images given; give --classes NAMES, --class-ids IDS or --ipc N"
        )
    claim([Output(path=output, option="-o", replace=force, kind="HDF5")], inputs=[file])
    from atom_plugin.store.synthetic_set import SyntheticSet

    held = SyntheticSet.load(file)
    kept = chosen.of(held) if chosen else held
    if ipc is not None:
        kept = kept.first(ipc)
        if ipc not in held.prefixes:
            nested = f"is nested at {', '.join(map(str, held.prefixes))} images" if held.prefixes else "is not nested"
            echo(
                f"note: {file} {nested}: its first {ipc} images per class were not optimised to be used alone", err=True
            )
    kept.save(output, force=force)
    echo(output)


def _as_json(header: SetHeader) -> dict[str, Any]:
    from dataclasses import asdict

    from atom_plugin.store.schema import FORMAT

    return {
        "path": str(header.path),
        "format": FORMAT,
        "format_version": header.version,
        "written_by": header.written_by,
        "checksum": header.checksum,
        "bytes": header.size,
        "shape": list(header.shape),
        "storage": header.storage,
        "factor": header.factor,
        "prefixes": list(header.prefixes),
        "image_bytes": header.image_bytes,
        "soft_labels": None
        if header.soft_labels is None
        else {"kind": header.soft_labels.kind, "bytes": header.soft_label_bytes},
        "learned_lr": header.learned_lr,
        "classes": [
            {"id": label, "name": header.class_names[label], "images": count} for label, count in header.counts.items()
        ],
        "class_names": list(header.class_names),
        "preprocessing": {"mean": list(header.mean), "std": list(header.std), "zca_eps": header.zca_eps},
        "provenance": asdict(header.provenance),
    }


def _as_text(header: SetHeader) -> str:
    count, channels, height, width = header.shape
    made = header.provenance
    loss = "" if made.final_loss is None else f", final loss {made.final_loss:.6g}"
    fewest, most = min(header.counts.values(), default=0), max(header.counts.values(), default=0)
    each = f"{fewest} each" if fewest == most else f"{fewest} to {most} each"
    fingerprint = str(made.source.get("fingerprint", "none"))
    validation = (made.source.get("options") or {}).get("validation")
    held_out = "" if validation is None else f", without validation images ({validation:g})"
    rows = {
        "file": f"{header.path} ({header.size:,} bytes)",
        "written by": f"{header.written_by}, format version {header.version}",
        "images": f"{count} of {channels} x {height} x {width}, {_storage(header)}",
        "classes": f"{len(header.counts)} of {len(header.class_names)}, {each}: "
        + listed([header.class_names[label] for label in header.counts]),
        **({"nested at": ", ".join(map(str, header.prefixes)) + " images per class"} if header.prefixes else {}),
        **_learned(header),
        "mean, std": f"{_short(header.mean)}, {_short(header.std)}",
        "ZCA": "none" if header.zca_eps is None else f"eps {header.zca_eps:g}",
        "method": f"{made.method}, {made.iterations} iterations, seed {made.seed}{loss}",
        **_grown_from(made.config),
        "source": f"{made.source.get('name', 'not named')}, fingerprint {fingerprint[:16]}{held_out}",
        "made with": ", ".join(f"{package} {version}" for package, version in made.versions.items()) or "not said",
        "sha256": f"{header.checksum} (not checked; see verify)",
    }
    rows["in Python"] = f"atom_plugin.load({str(header.path)!r}).dataloader(batch_size=64, augment=True)"
    rows["own images"] = f"atom_plugin.preprocess_for({str(header.path)!r}), a transform from any size"
    return "\n".join(f"{name + ':':<13}{printable(value)}" for name, value in rows.items())


def _learned(header: SetHeader) -> dict[str, str]:
    """What was learned beside the images."""
    rows, soft = {}, header.soft_labels
    if soft is not None:
        total = header.image_bytes + header.soft_label_bytes
        rows["soft labels"] = f"{soft.kind}; {soft.nbytes:,} bytes, with the images {total:,}{_share(header, total)}"
    if header.learned_lr is not None:
        rows["learned lr"] = f"{header.learned_lr:.6g}"
    return rows


def _grown_from(config: Mapping[str, Any]) -> dict[str, str]:
    """The earlier parts of an extended set, oldest first; empty for a set that was not extended."""
    parts = [
        f"{sum(part.get('images', {}).values())} images of {len(part.get('images', {}))} classes ({part.get('method')}, "
        f"{part.get('iterations')} iterations, seed {part.get('seed')})"
        for part in config.get("extended", [])
    ]
    moved = "thawed" if config.get("thaw") else "as they were"
    return {"grown from": f"{', then '.join(parts)}, {moved}"} if parts else {}


def _storage(header: SetHeader) -> str:
    """How images are stored, with their bytes compared with as many real images."""
    tiles = header.factor**2
    packed = f", each of {tiles} tiles: {header.shape[0] * tiles} images" if tiles > 1 else ""
    return f"{header.storage}{packed}; {header.image_bytes:,} bytes{_share(header, header.image_bytes)}"


def _share(header: SetHeader, taken: int) -> str:
    """What ``taken`` bytes are of those of as many real images, a byte a value; empty where there are no images."""
    real = math.prod(header.shape) * header.factor**2
    return f", {taken / real:.3g} of as many real ones" if real else ""


def _short(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
