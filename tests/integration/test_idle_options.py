"""No option of any command is accepted and ignored: each has an effect always, or is refused where it has none.

The commands and their options are click's own definitions, so that a new option fails here until it is put in a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from atom_plugin.cli.command import CheckedCommand, option_label
from atom_plugin.cli.main import atom_cli, main
from atom_plugin.cli.source_options import OF_SOURCE

SOURCE = set(OF_SOURCE) - {"dataset"}
RUN = {"seed", "device", "precision", "quiet", "as_json"}
TRAINING = {"training_recipe", "epochs", "batch_size", "lr", "schedule", "cutmix", "augmentation"}
NEEDED = {
    "distill": ("--ipc", "1"),
    "select": ("--ipc", "1"),
    "store info": ("set.h5",),
    "store verify": ("set.h5",),
    "store show": ("set.h5",),
    "store export": ("set.h5", "--format", "npz", "-o", "set.npz"),
    "store import": ("set.npz", "--format", "npz", "-o", "again.h5"),
    "store merge": ("set.h5", "-o", "merged.h5"),
    "store subset": ("set.h5", "--classes", "class 1", "-o", "part.h5"),
    "consume evaluate": ("set.h5",),
    "consume train": ("set.h5", "-o", "net.safetensors"),
    "consume predict": ("net.safetensors", "set.h5"),
    "consume score": ("set.h5",),
    "consume replay": ("--ipc", "1"),
    "consume search": ("set.h5",),
    "consume audit": ("set.h5",),
    "pool make": (),
    "report": ("set.h5", "-o", "page.html"),
}
ALWAYS: dict[str, set[str]] = {
    "distill": RUN
    | {"dataset", "ipc", "recipe", "matcher", "iterations", "real_batch", "augmentation", "matcher_option"}
    | {"image_lr", "image_momentum", "image_schedule", "image_init", "inner_loop", "memory_budget"}
    | {
        "standardise",
        "zca",
        "depth",
        "width",
        "factor",
        "nested",
        "extend",
        "storage",
        "pool",
        "validation",
        "activation",
        "normalisation",
        "pooling",
        "weight_init",
    }
    | {"tensorboard", "tracker", "seeds"}
    | {"engine", "loss_scale", "output", "checkpoint_every", "resume", "plot", "force"},
    # The precision stands in the set, also where nothing is computed in it.
    "select": (RUN - {"device"})
    | {
        "dataset",
        "validation",
        "factor",
        "storage",
        "ipc",
        "method",
        "standardise",
        "zca",
        "preprocessing_of",
        "seeds",
        "output",
        "force",
    },
    "store info": {"as_json"},
    "store verify": set(),
    "store show": {"embedding", "classes", "class_ids", "per_class", "output", "force"},
    "store export": {"format_", "output", "option", "force"},
    "store import": {"format_", "output", "option", "force", "like", "dataset", "class_map", "mean", "std"},
    "store merge": {"output", "force"},
    "store subset": {"classes", "class_ids", "ipc", "output", "force"},
    "consume search": (RUN - {"as_json"})
    | TRAINING
    | {
        "split_seed",
        "dataset",
        "validation",
        "space",
        "pick",
        "sample",
        "proxy",
        "repeats",
        "reference",
        "halving",
        "results",
        "dry_run",
    },
    "pool make": RUN
    | {"dataset", "validation", "networks", "epochs", "batch_size", "every", "zca", "output", "resume", "force"}
    | {"training_recipe"}
    | {"depth", "width", "activation", "normalisation", "pooling", "weight_init"},
    "consume evaluate": RUN | TRAINING | {"dataset", "models", "repeats", "full", "on", "results", "csv_file", "chart"},
    "consume train": (RUN - {"as_json"}) | TRAINING | {"model", "output", "onnx", "force"},
    "consume predict": {"top", "csv_file", "device", "quiet", "as_json"},
    "report": {"dataset", "output", "results", "title", "per_class", "embedding", "quiet", "force"},
    "consume score": RUN | TRAINING | {"dataset", "repeats", "full_accuracy", "weight", "normalisation"},
    "consume audit": RUN
    | TRAINING
    | {"dataset", "normalisation", "networks", "images", "baseline", "shadow", "csv_file", "scores", "picture"},
    # Also of policies that distil nothing: the comparison's file has them, and a policy added later keeps to them.
    "consume replay": RUN
    | {"factor", "storage", "iterations", "real_batch", "memory_augmentation", "memory_labels"}
    | {"dataset", "ipc", "steps", "memory", "policies", "distill", "baselines", "orders", "networks"}
    | {"epochs", "batch_size", "lr", "normalisation", "width", "zca", "output", "resume", "force"},
}
# The values of other options beside which those of a rule have none; where nothing stands here, it is by default.
BESIDE = {
    ("distill", "pool_size"): ("--pooling", "none"),
    ("pool make", "pool_size"): ("--pooling", "none"),
    ("consume evaluate", "latex"): ("--json",),
    ("consume replay", "latex"): ("--json",),
    **{("report", name): ("--embedding", "none") for name in ("network_state", "seed", "device", "precision")},
    ("consume search", "latex"): ("--dry-run",),
    ("consume search", "csv_file"): ("--dry-run",),
    ("consume search", "as_json"): ("--dry-run",),
    ("consume search", "top"): ("--dry-run",),
    ("consume search", "chart"): ("--reference", "best:5"),
    ("consume search", "reference_ipc"): ("--reference", "none"),
    ("consume search", "test_best"): ("--reference", "none"),
    ("consume score", "full_epochs"): ("--full-accuracy", "0.9"),
    ("consume score", "full_repeats"): ("--full-accuracy", "0.9"),
    ("consume replay", "stream_augmentation"): ("--mode", "from-memory"),
    ("consume replay", "asymmetric_loss"): ("--mode", "from-memory"),
    ("consume replay", "finetune_steps"): ("--mode", "from-memory"),
    ("consume replay", "separate_normalisation"): ("--mode", "from-memory"),
    ("consume replay", "modes"): ("--policy", "gdumb"),
    ("store import", "keep_paths"): ("--dataset", "digits"),
}
# What only the command itself finds out, each with the words that refuse it.
FOUND: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("distill", "zca_eps"): (("--zca-eps", "0.1", "--no-zca"), "ZCA eps"),
    ("distill", "embedding"): (("--embedding", "random"), "embedding"),
    ("distill", "forgetting_epochs"): (("--forgetting-epochs", "3"), "forgetting_epochs"),
    ("distill", "network_pool"): (("--network-pool", "3"), "network_pool"),
    ("distill", "network_radius"): (("--network-radius", "3"), "network_radius"),
    ("distill", "network_epochs"): (("--network-epochs", "3"), "network_epochs"),
    ("distill", "network_lr"): (("--network-lr", "0.1"), "network_lr"),
    ("distill", "network_momentum"): (("--network-momentum", "0.1"), "network_momentum"),
    ("distill", "queue_every"): (("--queue-every", "3"), "queue_every"),
    ("distill", "queue_length"): (("--queue-length", "3"), "queue_length"),
    ("distill", "calibration_by_accuracy"): (("--calibration-by-accuracy",), "calibration_by_accuracy"),
    ("distill", "cluster_every"): (("--cluster-every", "3", "--matcher", "mmd-pixel"), "cluster_every"),
    ("distill", "share_real"): (("--share-real",), "share_real"),
    ("distill", "thaw"): (("--thaw",), "thaw"),
    ("distill", "calibration"): (("--calibration", "0.1"), "calibration"),
    ("distill", "matching_layers"): (("--matching-layers", "blocks.0", "--matcher", "dm"), "matching_layers"),
    ("distill", "matching_model"): (("--matching-model", "resnet10", "--matcher", "mmd-pixel"), "matching_model"),
    ("distill", "network_state"): (("--network-state", "trained:1", "--matcher", "mmd-pixel"), "network_state"),
    ("distill", "p_s"): (("--p-s", "2", "--matcher", "dm"), "p_s"),
    ("distill", "p_c"): (("--p-c", "2", "--matcher", "datadam"), "p_c"),
    ("distill", "task_balance"): (("--task-balance", "2", "--matcher", "dm"), "task_balance"),
    ("distill", "preview_every"): (("--preview-every", "301"), "--preview-every"),
    ("select", "zca_eps"): (("--zca-eps", "0.1", "--no-zca"), "ZCA eps"),
    ("select", "embedding"): (("--embedding", "random"), "embedding"),
    ("select", "forgetting_epochs"): (("--forgetting-epochs", "3"), "forgetting_epochs"),
    ("store export", "pixels"): (("--pixels", "true-colour", "--format", "idc", "-o", "set.pt"), "pixels"),
    ("store import", "classes"): (("--classes", "a,b"), "class"),
    ("store import", "method"): (("--method", "dm"), "--method"),
    ("store import", "experiment"): (("--experiment", "1"), "experiment"),
    ("store import", "trust_pickle"): (("--trust-pickle",), "trust_pickle"),
    ("consume evaluate", "normalisation"): (("--normalisation", "batch", "--models", "vit"), "normalisation"),
    ("consume train", "normalisation"): (("--normalisation", "batch", "--model", "vit"), "normalisation"),
    ("consume replay", "markdown"): (("--markdown", "--json"), "--markdown"),
}
# Of sets without soft labels and without a learning rate of their own.
FOUND |= {
    (f"consume {command}", name): (given, name)
    for command in ("evaluate", "train")
    for name, given in {
        "labels": ("--labels", "hard"),
        "temperature": ("--temperature", "2"),
        "learned_lr": ("--learned-lr",),
    }.items()
}
# Digits take no other option of a source than --image-size; sets made of them likewise.
FOUND |= {
    (command, name): ((), name)
    for command in (
        "distill",
        "select",
        "pool make",
        "consume evaluate",
        "consume score",
        "consume replay",
        "consume search",
        "consume audit",
        "report",
    )
    for name in SOURCE - {"image_size"}
    if (command, name) != ("consume search", "split_seed")
}


def commands(group: click.Group = atom_cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """All that do something, by their names."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        full = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, full)
        else:
            yield full, command


COMMANDS = dict(commands())


def options(command: click.Command) -> dict[str, click.Option]:
    return {str(p.name): p for p in command.params if isinstance(p, click.Option) and p.expose_value}


def ruled(command: click.Command) -> set[str]:
    """The options that are refused before the command begins."""
    rules = command.only_with if isinstance(command, CheckedCommand) else ()
    return {name for rule in rules for name in rule.options}


def words(option: click.Option) -> list[str]:
    """The option with some value of its type."""
    label, kind = option_label(option), option.type
    if option.is_flag:
        return [label]
    if isinstance(kind, click.Choice):
        return [label, str(kind.choices[-1])]
    return [label, {"integer": "8", "number": "0.5"}.get(kind.name, "none")]


def refusal(capsys: pytest.CaptureFixture[str], path: str, *given: str) -> str:
    """The one line that the command refuses these options with."""
    code = main([*path.split(), *NEEDED[path], *given])
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1] if err.strip() else ""
    assert code in (1, 2) and last.startswith("Error: "), (code, out, err)
    return last


@pytest.fixture
def inside(inside: Path) -> Path:
    """A folder with a set of digits, and its export."""
    assert main(["select", "--ipc", "1", "--precision", "float32", "-o", "set.h5", "--quiet"]) == 0
    assert main(["store", "export", "set.h5", "--format", "npz", "-o", "set.npz"]) == 0
    return inside


def test_every_option_of_every_command_is_in_one_list() -> None:
    assert set(COMMANDS) == set(NEEDED)
    for path, command in COMMANDS.items():
        found = {name for each, name in FOUND if each == path}
        lists = [ALWAYS[path], ruled(command) - found, found, {"image_size"} - ruled(command)]
        known = set(options(command))
        assert set().union(*lists) >= known, (path, known.difference(*lists))
        for name in known:
            assert sum(name in each for each in lists) == 1, (path, name)


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, command in COMMANDS.items() for name in sorted(ruled(command))]
)
def test_an_option_without_effect_is_refused_at_once(
    inside: Path, capsys: pytest.CaptureFixture[str], path: str, name: str
) -> None:
    capsys.readouterr()
    option = options(COMMANDS[path])[name]
    told = refusal(capsys, path, *BESIDE.get((path, name), ()), *words(option))
    assert option_label(option) in told and "has no effect without" in told and "leave" in told


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, command in COMMANDS.items() for name in sorted(ruled(command))]
)
def test_in_a_file_it_is_refused_as_well_unless_it_is_a_flag_that_is_off(
    inside: Path, capsys: pytest.CaptureFixture[str], path: str, name: str
) -> None:
    capsys.readouterr()
    option = options(COMMANDS[path])[name]
    label, *value = words(option)
    key = f"[{path.replace(' ', '.')}]\n{label.removeprefix('--')} ="
    (inside / "mine.toml").write_text(f"{key} {json.dumps(value[0]) if value else 'true'}")
    told = refusal(capsys, path, *BESIDE.get((path, name), ()), "--config", "mine.toml")
    assert f"mine.toml: {label} has no effect without" in told
    if option.is_flag and not option.secondary_opts:
        (inside / "mine.toml").write_text(f"{key} false")
        arguments = [*path.split(), *NEEDED[path], *BESIDE.get((path, name), ()), "--config", "mine.toml"]
        assert main([*arguments, "--print-config"]) == 0


@pytest.mark.auto_precision("float32")
@pytest.mark.parametrize(("path", "name"), sorted(FOUND))
def test_an_option_without_effect_is_refused_before_the_work(
    inside: Path, capsys: pytest.CaptureFixture[str], path: str, name: str
) -> None:
    capsys.readouterr()
    given, told = FOUND[path, name]
    if not given:
        option = options(COMMANDS[path])[name]
        given, told = tuple(words(option)), option_label(option)
    assert told in refusal(capsys, path, *given)


@pytest.mark.parametrize("options", [("--split-seed", "3"), ("--test-fraction", "0.5")])
def test_a_folder_with_test_images_takes_no_split(
    inside: Path, capsys: pytest.CaptureFixture[str], options: tuple[Any, ...]
) -> None:
    from PIL import Image

    for number, split in enumerate(("train", "test")):
        for name in ("a", "b"):
            (inside / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (40 * number, 9, 9)).save(inside / "photos" / split / name / "0.png")
    capsys.readouterr()
    told = refusal(capsys, "select", "--dataset", "folder", "--data-dir", "photos", *options)
    assert options[0] in told and "its own test images" in told
