"""The `atom-cli` command: its table of commands, and the only place that turns errors into exit codes.

0 done · 1 failed · 2 wrong usage · 130 interrupted · 143 terminated. Every failure is one line on stderr.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from atom_plugin.cli.terminal import echo, messages_shown
from atom_plugin.errors import AtomError, ConfigError, Interrupted, unknown
from atom_plugin.runtime import rendezvous
from atom_plugin.runtime.text import printable
from atom_plugin.runtime.versions import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "distill": ("atom_plugin.cli.distill:distill", "Distil an image source into a few synthetic images per class."),
    "select": ("atom_plugin.cli.select:select", "Select real images into a set, as a baseline."),
    "store": ("atom_plugin.cli.store:store", "Show, verify, export, import, merge and subset sets."),
    "pool": ("atom_plugin.cli.pool:pool", "Train networks that distillations match under."),
    "consume": ("atom_plugin.cli.consume:consume", "Train networks on sets, evaluate and score sets, replay them."),
    "report": ("atom_plugin.cli.report:report", "Write one HTML page on sets: images, runs, accuracies, embeddings."),
}
"""Name to import path and help line, so that listing the commands imports none of them."""


class LazyGroup(click.Group):
    """A group that imports a command only to run it, not to list commands."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table, which is the order of work."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name; None if there is no such name."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but the error for an unknown name suggests the nearest one."""
        name = args[0]
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(self._elsewhere(ctx, name) or unknown("command", name, self.table), ctx)
        if isinstance(ctx.obj, Session):
            ctx.obj.path = f"{ctx.command_path} {name}"
        return super().resolve_command(ctx, args)

    def _elsewhere(self, ctx: click.Context, name: str) -> str | None:
        """What to say of ``name`` where it is a command of one of this group's groups: `evaluate` for `consume evaluate`."""
        for group in self.table:
            command = self.get_command(ctx, group)
            if isinstance(command, click.Group) and name in command.commands:
                return f"the command {name!r} belongs to {group!r}: {ctx.command_path} {group} {name}"
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


@dataclass
class Session:
    """State of a run for :func:`main`, passed as ``ctx.obj``: the --debug flag, the command's path, and all words."""

    debug: bool = False
    path: str = "atom-cli"
    args: tuple[str, ...] = ()


@click.group("atom-cli", cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="atom-cli", help="Show the version and exit.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and warnings of libraries.")
@click.pass_obj
def atom_cli(session: Session, debug: bool) -> None:
    """Distil image datasets into a few synthetic images per class; store them, show them, train on them.

    \b
    A first run, offline, in under a minute:
      atom-cli distill --ipc 20
    """
    session.debug = debug
    if debug:
        warnings.simplefilter("default")


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, like KeyboardInterrupt, so that only `finally` and `with` blocks see it."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line on ``args`` (default: ``sys.argv[1:]``) and return the exit code."""
    args = tuple(sys.argv[1:] if args is None else args)
    session = Session(args=args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is no text, or that the terminal's encoding lacks, is printed escaped and ends no command.
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings(), _sigterm_raises(), messages_shown():
        if not sys.warnoptions:
            # Libraries warn their developers; a user of the command can do nothing about it. `--debug` shows them.
            warnings.simplefilter("ignore")
        try:
            result = atom_cli.main(list(args), prog_name="atom-cli", standalone_mode=False, obj=session)
        except NoArgsIsHelpError as error:
            error.show()
            return 2
        except (Exception, KeyboardInterrupt, Terminated) as error:
            if session.debug and not isinstance(error, click.ClickException):
                traceback.print_exception(error)
            line, code = _explain(error, session.path)
            # Under torchrun all processes meet the same error, or are stopped for one that another has explained.
            if rendezvous.first_to_say(line, unless_explained=isinstance(error, Terminated)):
                echo(_one_line(line), err=True)
            _drop_unwritten_output()
            return code
    return result if isinstance(result, int) else 0


def _explain(error: BaseException, path: str) -> tuple[str, int]:
    """The message and the exit code for an error."""
    if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # click takes every EOFError for Ctrl-D at a prompt, a truncated file's too
    disk_full = _disk_full(error)
    code = 1
    match error:
        case Interrupted():
            line, code = str(error), 128 + error.signum
        case KeyboardInterrupt() | click.Abort():
            line, code = "Interrupted.", 128 + signal.SIGINT
        case Terminated():
            line, code = "Terminated.", 128 + signal.SIGTERM
        case ConfigError():
            line, code = f"Error: {error}", 2
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else path  # click's parser knows no context
            line, code = f"Error: {error.format_message().rstrip('.')} (see {path} --help)", 2
        case click.ClickException():
            line, code = f"Error: {error.format_message()}", error.exit_code
        case AtomError():
            line = f"Error: {error}"
        case _ if disk_full is not None:
            line = f"Error: no space left on device{_at(disk_full)}; free some, or write elsewhere"
        case _ if _out_of_memory(error):
            line = f"Error: out of memory ({_shortened(error)}); lower the batch, the image size or the ipc"
        case OSError() if error.strerror:
            line = f"Error: {error.strerror}{_at(error)}"
        case _:
            line = (
                f"Error: internal error: {_shortened(error)}; run again with --debug for the traceback "
                "(atom-cli --debug …), and please report it"
            )
    return line, code


def _disk_full(error: BaseException | None) -> BaseException | None:
    """The error for a full disk, in the causes of ``error``. HDF5 reports it only as text when it closes a file."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: OutOfMemoryError on accelerators, RuntimeError on CPUs. torch may not be imported here."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _at(error: BaseException) -> str:
    filename = getattr(error, "filename", None)
    return f": {filename!r}" if filename else ""


def _shortened(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"  # CUDA's errors run to pages


def _one_line(text: str) -> str:
    """Lines folded into one, with unprintable characters (an escape code in a file name, say) escaped."""
    return printable(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def _drop_unwritten_output() -> None:
    """Flush stdout now; else the interpreter does at exit, fails again on a full disk, and prints more lines."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within: the first SIGTERM raises Terminated, so that files are closed and checkpoints written; a second kills."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in its main thread only
        return
    owner = os.getpid()

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != owner:  # a forked worker whose pool is being ended: it dies as if it had no handler
            os.kill(os.getpid(), signum)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
