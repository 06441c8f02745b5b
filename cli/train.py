"""``atom-cli consume train``: train a network on a set and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atom_plugin.cli.command import CheckedCommand
from atom_plugin.cli.options import PATH, force_option, run_options
from atom_plugin.cli.outputs import Output, claim, quoted
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.cli.training_options import label_options, settled_training, training_options
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.evaluation.training_recipes import TrainConfig


@click.command(
    cls=CheckedCommand,
    settled=settled_training,
    shown="model training_recipe epochs output onnx force seed device",
)
@click.argument("file", metavar="SET", type=PATH)
@click.option(
    "--model",
    metavar="NAME",
    default="convnet",
    show_default=True,
    help="Network architecture to train: convnet (with the set's settings), alexnet, vgg11, resnet18, vit, "
    "resnet10, or a timm model, e.g. timm:convnext_atto.",
)
@click.option(
    "-o", "--output", metavar="FILE", type=PATH, required=True, help="File of the network, e.g. model.safetensors."
)
@click.option(
    "--onnx",
    metavar="FILE",
    type=PATH,
    help="Also write the network with its preprocessing as ONNX; needs the packages onnx and onnxscript.",
)
@training_options
@label_options
@run_options
@force_option
def train(
    *,
    file: Path,
    model: str,
    output: Path,
    onnx: Path | None,
    training: TrainConfig,
    normalisation: str | None,
    seed: int,
    device: str,
    precision: str,
    quiet: bool,
    force: bool,
) -> None:
    """Train a network on SET and keep it, with the set's preprocessing and class names.

    This is the first network that `consume evaluate` trains with the same options, so it has the accuracy printed there. Use it
    with `consume predict`.

    \b
    Examples:
      atom-cli consume train photos.h5 -o photos.safetensors
      atom-cli consume train photos.h5 --model resnet18 --training-recipe dm -o resnet.safetensors --onnx resnet.onnx
    """
    outputs = [Output(path=output, option="-o", replace=force, kind="safetensors")]
    if onnx is not None:
        outputs.append(Output(path=onnx, option="--onnx", replace=force, kind="ONNX"))
    claim(outputs, inputs=[file])
    load_torch()
    from atom_plugin.evaluation.onnx_export import require_onnx, write_onnx
    from atom_plugin.evaluation.trained_network import train_network
    from atom_plugin.runtime.device import resolve_device, resolve_precision
    from atom_plugin.store.loading import load

    if onnx is not None:
        require_onnx()
    held, where = load(file), resolve_device(device)
    with progress_bar(training.epochs, hidden=quiet, unit="epoch", desc=f"{model} on {file.name}") as bar:
        trained = train_network(
            held,
            training,
            model=model,
            normalisation=normalisation,
            seed=seed,
            device=where,
            precision=resolve_precision(precision, where),
            name=str(file),
            on_epoch=lambda _: bar.update(),
        )
    trained.module.cpu()
    trained.save(output, force=force)
    echo(f"{output}: {model}, {training.epochs} epochs on {held.decoded_count} images of {len(held.classes)} classes")
    if onnx is not None:
        write_onnx(trained, onnx, force=force)
        echo(onnx)
    echo(f"use it: atom-cli consume predict {quoted(output)} IMAGES…")
