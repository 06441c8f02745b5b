"""What importing costs: nothing until it is used, no warning, no writable home; and one line where it is missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MISSING = "avalanche-lib is not installed; install it with: pip install 'atom-plugin[avalanche]'"


def python(
    code: str, *options: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )


def test_the_package_and_its_command_leave_avalanche_alone(tmp_path):
    done = python(
        """
        import contextlib, io, sys
        import atom_plugin, atom_plugin.integrations
        from atom_plugin.cli.main import main
        from atom_plugin.replay import memory, suppliers
        with contextlib.redirect_stdout(io.StringIO()):
            codes = [main(["--help"]), main(["consume", "--help"]), main(["consume", "replay", "--help"])]
        print(codes, sorted({name.partition(".")[0] for name in sys.modules} & {"avalanche", "wandb", "torchmetrics"}))
        """,
        folder=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("[0, 0, 0] []\n", "")


def test_without_it_one_line_says_how_to_get_it(tmp_path):
    done = python(
        """
        import importlib.abc, sys

        class Block(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "avalanche":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Block())
        from atom_plugin.cli.main import main
        from atom_plugin.errors import MissingExtraError
        try:
            import atom_plugin.integrations.avalanche
        except ImportError as error:
            assert isinstance(error, MissingExtraError), error
            print(error)
        print(main(["consume", "replay", "--ipc", "1", "-o", "out", "-q"]))
        """,
        folder=tmp_path,
    )
    assert done.stdout == f"{MISSING}\n1\n"
    assert done.stderr == f"Error: {MISSING}\n"
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_ours_warns_and_no_home_is_needed(tmp_path):
    below = tmp_path / "file" / "home"
    below.parent.write_text("a file, so that not even root can make a folder below it")
    done = python(
        """
        import os, sys
        def environment():  # but for what torch sets, where something imports its compiler
            return {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        before = environment()
        import torch, atom_plugin.integrations.avalanche
        assert environment() == before, "the environment was changed"
        assert "wandb" in sys.modules
        from avalanche_streams import *
        from atom_plugin.integrations.avalanche import SyntheticReplay, TrainFromMemory
        from atom_plugin.replay.memory import Budget
        for kind in ("xy", "nc"):
            benchmark = stream_of(kind)
            for plugin in (SyntheticReplay, TrainFromMemory):
                strategy = trained(strategy_with(plugin(processed_policy(Budget(ipc=1)))), benchmark.train_stream)
                print(len(strategy.eval(benchmark.test_stream)))
        """,
        "-W",
        "error",
        folder=tmp_path,
        HOME=str(below),
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ["PYTHONPATH"]]),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load modules of these texts in avalanche's place."""
    from atom_plugin.integrations.avalanche import _load

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_load, "_MODULES", ("stand_in_for_avalanche",))

    def load(text: str) -> None:
        (tmp_path / "stand_in_for_avalanche.py").write_text(text)
        monkeypatch.delitem(sys.modules, "stand_in_for_avalanche", raising=False)
        importlib.invalidate_caches()
        _load.load_avalanche()

    return load


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import no_such_module",
            "cannot be imported because 'no_such_module' is missing; reinstall it with: pip install",
        ),
        ("from json import nothing", r"cannot be imported \(ImportError: cannot import name 'nothing'"),
        ("raise RuntimeError('old')", r"cannot be imported \(RuntimeError: old\); reinstall it with: pip install"),
    ],
)
def test_a_broken_one_is_told_from_a_missing_one(load, text, words):
    from atom_plugin.errors import MissingExtraError

    before = dict(os.environ)
    with pytest.raises(MissingExtraError, match=words):
        load(text)
    assert dict(os.environ) == before


@pytest.mark.parametrize("home", ["missing", "below a file"])
def test_a_home_that_cannot_be_written_is_replaced_for_the_import_only(load, monkeypatch, tmp_path, home):
    (tmp_path / "file").touch()
    stated = tmp_path / "new" if home == "missing" else tmp_path / "file" / "home"
    monkeypatch.setenv("HOME", str(stated))
    load("import os, pathlib; HOME = os.environ['HOME']; pathlib.Path(HOME, 'written').touch()")
    used = Path(sys.modules["stand_in_for_avalanche"].HOME)
    assert os.environ["HOME"] == str(stated)
    assert (used == stated) == (home == "missing")
    assert used.exists() == (home == "missing")  # another one is gone again
