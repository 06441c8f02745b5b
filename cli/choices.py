"""A choice among names that says which name is nearest to a misspelt one."""

from __future__ import annotations

from typing import Any

import click

from atom_plugin.errors import nearest


class Choice(click.Choice[str]):
    """As ``click.Choice``, with the nearest name in the message for a name that is not among the choices."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """click's message, after a suggestion where one name is near."""
        near = nearest(str(value), [str(each) for each in self.choices])
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        return super().get_invalid_choice_message(value, ctx).removesuffix(".") + hint
