"""What stands above a table: the budget and the machine that its figures had."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]

PAPERS = {"iterations": 8000, "sets": 5, "networks": 20}


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
        protocol = {name: protocol[name] for name in _BESIDE_THE_LOOP}
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
        return f"{group[0]['data']}; the papers' protocol: 8,000 iterations, five sets, 20 networks each."
    return f"{group[0]['data']}. This is a **reduced run**: {', '.join(less)}."


def caption(group: Sequence[Line], *, shared: bool = True) -> str:
    """Budget, recipe, training, machine and versions; with ``shared``, which cells are another one's measurement."""
    protocol = group[0]["protocol"]
    timed = "steps" in protocol
    said = [
        f"{group[0]['data']}; {protocol['steps']} steps, after three to warm up." if timed else budget(group),
        f"Recipe `{protocol['recipe']}`: {_loop(protocol)}.",
        *([] if timed else [_training(group[0])]),
        f"Measured on {', '.join(_distinct(map(_machine, group)))}; {', '.join(_distinct(map(_versions, group)))}.",
    ]
    same = [f"{line['row']} ({line['column']}): {line['same_as']}" for line in group if line["same_as"]]
    if same and shared:
        said.append(f"Measured once, under another name: {'; '.join(same)}.")
    return "\n".join(said)


def _training(line: Line) -> str:
    training = line["protocol"]["training"]
    return (
        f"Training: {training['epochs']:,} epochs, batch {training['batch_size']}, learning rate {training['lr']:g}, "
        f"augmentation {training['augmentation']}; {line['test_images']:,} test images."
    )


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
    if protocol["recipe"] == "as-printed":
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
