"""The frame of the command line: lazy commands, a help that answers at once, and one line per failure."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from synthetic_sets import make_set

from atom_plugin import __version__, errors
from atom_plugin.cli import main as cli

PROGRAM = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"
HEAVY = ("torch", "numpy", "h5py", "matplotlib", "kornia", "sklearn", "avalanche", "wandb")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call with a command's body and arguments: (exit code, stdout, stderr) of `atom-cli do`."""

    def run_body(body: Callable[[], Any], *args: str, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
        command = click.command("do")(click.option("--ipc", type=int)(lambda ipc: body()))
        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, context, name: command)
        monkeypatch.setitem(cli.COMMANDS, "do", ("", "Does what the test says."))
        code = cli.main([*before, "do", *args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_body


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.SourceError("no image in 'x'"), 1, "Error: no image in 'x'"),
        (errors.ConfigError("atom and dm do not mix"), 2, "Error: atom and dm do not mix"),
        (errors.Interrupted("stopped at 12", signal.SIGINT), 130, "stopped at 12"),
        (errors.Interrupted("stopped at 12", signal.SIGTERM), 143, "stopped at 12"),
        (click.Abort(), 130, "Interrupted."),
        (cli.Terminated(), 143, "Terminated."),
        (click.UsageError("give one file."), 2, "Error: give one file (see atom-cli do --help)"),
        (click.ClickException("it failed"), 1, "Error: it failed"),
        (
            OSError(errno.ENOSPC, "No space left on device", "set.h5"),
            1,
            "Error: no space left on device: 'set.h5'; free some, or write elsewhere",
        ),
        (
            chained(errors.StoreError("/home/me/s.h5: no space for 9 bytes"), OSError(errno.EDQUOT, "Quota", "x")),
            1,
            "Error: /home/me/s.h5: no space for 9 bytes",
        ),
        (
            RuntimeError("can't decrement id ref count (errno = 28, error message = 'No space left on device')"),
            1,
            "Error: no space left on device; free some, or write elsewhere",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1, "Error: Permission denied: '/root/x'"),
        (MemoryError(), 1, "Error: out of memory (MemoryError); lower the batch, the image size or the ipc"),
        (
            OutOfMemoryError("tried to allocate 2 GiB"),
            1,
            "Error: out of memory (OutOfMemoryError: tried to allocate 2 GiB); lower the batch, the image size or "
            "the ipc",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 400 bytes"),
            1,
            "Error: out of memory (RuntimeError: DefaultCPUAllocator: can't allocate memory: 400 bytes); lower the "
            "batch, the image size or the ipc",
        ),
        (
            ZeroDivisionError("division by zero"),
            1,
            "Error: internal error: ZeroDivisionError: division by zero; run again with --debug for the traceback "
            "(atom-cli --debug …), and please report it",
        ),
        (errors.StoreError("two\n  lines\n\nof it"), 1, "Error: two lines of it"),
        (errors.StoreError("a name like \x1b[31m"), 1, "Error: a name like \\x1b[31m"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_and_an_exit_code(run: Any, error: BaseException, code: int, line: str) -> None:
    assert run(raising(error)) == (code, "", line + "\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EOFError("ended early")], ids=["ctrl-c", "truncated file"])
def test_ctrl_c_is_told_from_a_truncated_file(run: Any, error: BaseException) -> None:
    code, out, err = run(raising(error))
    lines = [line for line in err.splitlines() if line]  # click ends the terminal's ^C line first
    assert (out, len(lines)) == ("", 1)
    assert (code, lines[0][:40]) in [(130, "Interrupted."), (1, "Error: internal error: EOFError: ended e")]
    assert (code == 130) == isinstance(error, KeyboardInterrupt)


def test_pages_of_an_unknown_error_are_cut(run: Any) -> None:
    _, _, err = run(raising(RuntimeError("CUDA error\n" * 500)))
    assert len(err.splitlines()) == 1
    assert len(err) < 500


def test_debug_shows_the_traceback_too(run: Any) -> None:
    code, _, err = run(raising(errors.StoreError("damaged")), before=("--debug",))
    assert code == 1
    assert err.startswith("Traceback (most recent call last)")
    assert err.splitlines()[-1] == "Error: damaged"
    assert "Traceback" not in run(raising(errors.StoreError("damaged")))[2]


def test_a_command_that_ends_well_is_0_and_one_that_exits_keeps_its_code(run: Any) -> None:
    assert run(lambda: click.echo("done")) == (0, "done\n", "")
    assert run(lambda: click.get_current_context().exit(1)) == (1, "", "")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["do", "--ipc"], "Error: Option '--ipc' requires an argument (see atom-cli do --help)"),
        (["do", "extra"], "Error: Got unexpected extra argument (extra) (see atom-cli do --help)"),
        (["--nonsense"], "Error: No such option --nonsense (see atom-cli --help)"),
        (
            ["distil"],
            "Error: no command is called 'distil'; did you mean 'distill'? "
            "known: distill, select, store, pool, consume, report, do (see atom-cli --help)",
        ),
        (
            ["xyzzy"],
            "Error: no command is called 'xyzzy'; known: distill, select, store, pool, consume, report, do (see atom-cli "
            "--help)",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_where_to_look(
    run: Any, capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    run(lambda: None)  # so that `do` exists
    assert cli.main(args) == 2
    err = capsys.readouterr().err
    assert err.replace("option: --", "option --").replace("'--nonsense'", "--nonsense") == line + "\n"  # click varies


def test_no_command_shows_the_help_and_counts_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Usage: atom-cli [OPTIONS] COMMAND")
    for name, (_, line) in cli.COMMANDS.items():
        assert f"  {name}" in err
        assert line in err


def test_warnings_of_libraries_stay_off_stderr_unless_asked_for(run: Any) -> None:
    def warn() -> None:
        warnings.warn_explicit("old torch call", DeprecationWarning, "torch/nn.py", 1, module="torch.nn")

    filters = list(warnings.filters)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as shown:
        patch.setattr(sys, "warnoptions", [])
        assert run(warn) == (0, "", "")
        assert shown == []
        assert run(warn, before=("--debug",))[0] == 0
    assert [str(warning.message) for warning in shown] == ["old torch call"]
    assert list(warnings.filters) == filters


def test_sigterm_runs_finally_and_is_one_line(run: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)

    assert run(body) == (143, "", "Terminated.\n")
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_forked_worker_dies_of_sigterm_as_if_it_had_no_handler(run: Any) -> None:
    statuses = []

    def body() -> None:
        worker = os.fork()
        if not worker:
            try:
                time.sleep(30)
            finally:
                os._exit(99)  # reached only if the handler raised in the worker
        time.sleep(0.1)
        os.kill(worker, signal.SIGTERM)
        statuses.append(os.waitpid(worker, 0)[1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        assert run(body)[0] == 0
    assert os.WIFSIGNALED(statuses[0])
    assert os.WTERMSIG(statuses[0]) == signal.SIGTERM


def test_main_runs_outside_the_main_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert capsys.readouterr().out == f"atom-cli, version {__version__}\n"


def subprocess_run(*args: str, code: str = PROGRAM, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-c", code, *args], check=False, **options)


def test_help_imports_nothing_heavy_and_answers_at_once() -> None:
    listing = f"{PROGRAM.replace('sys.exit(main())', 'main()')}; print([m for m in {HEAVY} if m in sys.modules])"
    took = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess_run("--help", code=listing)
        took.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert done.stderr == ""
        assert done.stdout.endswith("[]\n")
    # 0.1 s on an idle machine; 0.5 s is promised; the bound leaves room for a busy one.
    assert min(took) < 1.5


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess_run("--help", stdout=writer)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_under_stdout_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess_run("--help", stdout=full)
    assert done.stderr == "Error: no space left on device; free some, or write elsewhere\n"
    assert done.returncode == 1


def test_a_closed_stdout_does_not_matter() -> None:
    done = subprocess_run("--version", code=f"import sys; sys.stdout = None; {PROGRAM}")
    assert (done.returncode, done.stderr) == (0, "")


def commands() -> Iterator[Any]:
    """Every command of the tree that can be imported, with its full name."""

    def walk(group: click.Group, path: str) -> Iterator[Any]:
        context = click.Context(group, info_name=path)
        for name in group.list_commands(context):
            full = f"{path} {name}"
            try:
                command = group.get_command(context, name)
            except ModuleNotFoundError as error:
                if error.name in MODULES:
                    continue  # a command still to be written
                raise
            assert command is not None, full
            yield pytest.param(command, id=full)
            if isinstance(command, click.Group):
                yield from walk(command, full)

    yield pytest.param(cli.atom_cli, id="atom-cli")
    yield from walk(cli.atom_cli, "atom-cli")


MODULES = {target.partition(":")[0] for target, _ in cli.COMMANDS.values()}


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_and_option_has_a_help_text(command: click.Command) -> None:
    assert command.help, f"{command.name} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command.name} {parameter.opts[-1]} has no help"


def test_the_table_says_where_each_command_is() -> None:
    assert list(cli.COMMANDS) == ["distill", "select", "store", "pool", "consume", "report"]
    for name, (target, line) in cli.COMMANDS.items():
        assert target == f"atom_plugin.cli.{name}:{name}"
        assert line.endswith(".")


@pytest.mark.parametrize(
    ("encoding", "printed"), [("utf-8", b"\\udcff\xc4\x85.h5: OK"), ("latin-1", b"\\udcff\\u0105.h5: OK")]
)
def test_a_name_that_no_terminal_can_show_is_printed_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, printed: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    make_set().save("\udcffą.h5")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.main(["store", "verify", "\udcffą.h5"]) == 0
    stdout.flush()
    assert stdout.buffer.getvalue().startswith(printed)
