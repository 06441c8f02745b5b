"""``atom-cli consume``: train, evaluate and replay with sets."""

from __future__ import annotations

import click

from atom_plugin.cli.audit import audit
from atom_plugin.cli.evaluate import evaluate
from atom_plugin.cli.predict import predict
from atom_plugin.cli.replay import replay
from atom_plugin.cli.score import score
from atom_plugin.cli.search import search
from atom_plugin.cli.train import train


@click.group()
def consume() -> None:
    """Train networks on sets, evaluate and score sets, and replay them."""


consume.add_command(evaluate)
consume.add_command(train)
consume.add_command(predict)
consume.add_command(score)
consume.add_command(replay)
consume.add_command(search)
consume.add_command(audit)
