"""What stands above a table: the budget and the machine that its figures had."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from atom_plugin.evaluation.training import TrainConfig
from study.plan import AS_PRINTED, CHOICES_OF_SELECTIONS, PAPERS, SHARED

Line = dict[str, Any]


def groups(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines that may stand in one table: of one source and one protocol, the latest of each place.

    Selections take no iterations, so they stand beside whatever differs from them in that alone.
    """
    found: dict[str, list[Line]] = {}
    for line in lines:
        if line["selection"] is None:
            found.setdefault(_key(line), []).append(line)
    alone = [line for line in lines if line["selection"] is not None]
    for line in alone:
        fitting = [group for group in found.values() if _key(group[0], loop=False) == _key(line, loop=False)]
        for group in fitting or [found.setdefault(_key(line), [])]:
            group.append(line)
    return [list({(line["row"], line["column"]): line for line in group}.values()) for group in found.values()]


# What of a protocol touches a selection.
_BESIDE_THE_LOOP = ("sets", "networks", "seed", "training", "network", "standardise", "zca_eps")


def _key(line: Line, *, loop: bool = True) -> str:
    protocol = line["protocol"]
    if not loop:
        own = {name: value for name, value in protocol["changes"].items() if name in CHOICES_OF_SELECTIONS}
        protocol = {name: protocol[name] for name in _BESIDE_THE_LOOP} | {"changes": own}
    return json.dumps([line["data"], line["source"]["fingerprint"], protocol], sort_keys=True)


def budget(group: Sequence[Line]) -> str:
    """One sentence: how much was run, against the papers' protocol."""
    protocol = group[0]["protocol"]
    less = [
        f"{protocol[name]:,} of the papers' {papers:,} {name}"
        if name == "iterations"
        else f"{protocol[name]} of {papers} {name}"
        for name, papers in PAPERS.items()
        if protocol[name] < papers
    ]
    if not less:
        return f"{group[0]['data']}; the papers' budget: 8,000 iterations, five sets, 20 networks each."
    return f"{group[0]['data']}. This is a **reduced run**: {', '.join(less)}."


def caption(group: Sequence[Line], *, shared: bool = True) -> str:
    """Budget, recipe, training, machine and versions; with ``shared``, which cells are another one's measurement.

    And with it, which have other choices than the caption says: where the rows are no choices themselves.
    """
    protocol = group[0]["protocol"]
    timed = "steps" in protocol
    said = [
        f"{group[0]['data']}; {protocol['steps']} steps, after three to warm up." if timed else budget(group),
        recipe(group),
        *([] if timed else [_training(group[0])]),
        f"Measured on {', '.join(_distinct(map(_machine, group)))}; {', '.join(_distinct(map(_versions, group)))}.",
    ]
    if shared and (own := _distinct(text for line in group if (text := _own_choices(line)))):
        said.append(f"With loops of their own, and networks like theirs trained on their sets: {'; '.join(own)}.")
    same = [f"{line['row']} ({line['column']}): {line['same_as']}" for line in group if line["same_as"]]
    if same and shared:
        said.append(f"Measured once, under another name: {'; '.join(same)}.")
    return "\n".join(said)


def recipe(group: Sequence[Line]) -> str:
    """One sentence: the choices that all rows share."""
    protocol = group[0]["protocol"]
    return f"Recipe `{protocol['recipe']}`: {_loop(protocol)}."


def _training(line: Line) -> str:
    training, usual = line["protocol"]["training"], asdict(TrainConfig())
    said = [
        *(f"{training['epochs']:,} epochs", f"batch {training['batch_size']}", f"learning rate {training['lr']:g}"),
        f"augmentation {training['augmentation']}",
    ]
    told = {"epochs", "batch_size", "lr", "augmentation"}
    said += [
        f"{name} {value}" for name, value in training.items() if name not in told and usual.get(name, value) != value
    ]
    return f"Training: {', '.join(said)}; {line['test_images']:,} test images."


def _own_choices(line: Line) -> str:
    """What a row's config has other than its protocol, since its method comes with a loop of its own; else nothing."""
    config, protocol = line["config"], line["protocol"]
    if line["selection"] is not None or protocol["recipe"] == AS_PRINTED:
        return ""
    flat = [
        {**held, **{f"network {name}": value for name, value in held["network"].items()}} for held in (config, protocol)
    ]
    names = ["iterations", *(name for name in SHARED if name != "network")]
    names += [f"network {name}" for name in protocol["network"]]
    said = [f"{name} {flat[0][name]}" for name in names if name in flat[1] and flat[0].get(name) != flat[1][name]]
    return f"{line['row']} ({line['column']}): {', '.join(said)}" if said else ""


def _loop(protocol: dict[str, Any]) -> str:
    network = protocol["network"]
    eps = protocol["zca_eps"]
    steps = ["standardised"] * protocol["standardise"] + ([f"ZCA with eps {eps:g}"] if eps is not None else [])
    said = [
        *([f"{protocol['iterations']:,} iterations"] if "iterations" in protocol else []),
        f"real batch {protocol['real_batch']}",
        f"image learning rate {protocol['image_lr']:g} ({protocol['image_schedule']}), momentum {protocol['image_momentum']:g}",
        f"ConvNet of width {network['width']}, {network['normalisation']} normalisation, {network['pooling']} pooling "
        f"{network['pool_size']}x{network['pool_size']}, {network['initialisation']} weights",
        f"images {' and '.join(steps) or 'as they are'}",
        f"seeds from {protocol['seed']}",
    ]
    changes = {name: value for name, value in protocol["changes"].items() if name not in protocol}
    said += [f"{name} {json.dumps(value)}" for name, value in changes.items()]
    if protocol["recipe"] == AS_PRINTED:
        return f"each row's own paper, here as for ATOM: {', '.join(said)}"
    return ", ".join(said)


def _machine(line: Line) -> str:
    held = line["hardware"]
    return f"{held['name']} ({held['device']}, {held['threads']} threads of {held['cores']} cores)"


def _versions(line: Line) -> str:
    held = line["versions"]
    return f"atom-plugin {held['atom-plugin']}, torch {held['torch']}, Python {held['python']}"


def _distinct(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))
