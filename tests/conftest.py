"""The surroundings of every test: a home, a cache and a plotting backend of its own, set before anything is imported."""

from __future__ import annotations

import os
import runpy
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

_HOME = pytest.StashKey[str]()
_EVERY_PYTHON = Path(__file__).parent / "every_python"


def pytest_configure(config: pytest.Config) -> None:
    # Here rather than in a fixture: avalanche writes ~/.avalanche and matplotlib reads its settings at import,
    # which happens while the tests are collected. Subprocesses inherit these.
    # One thread for each of torch's loops: the tests run in as many processes as there are cores, and two processes with two
    # threads each wait for one another most of the time.
    os.environ["OMP_NUM_THREADS"] = "1"
    home = config.stash[_HOME] = tempfile.mkdtemp(prefix="atom-plugin-tests-")
    os.environ.update(HOME=home, XDG_CACHE_HOME=f"{home}/.cache", XDG_CONFIG_HOME=f"{home}/.config", MPLBACKEND="Agg")
    # No Python that a test starts asks the processor whether it multiplies in bfloat16, nor does this one.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_EVERY_PYTHON), os.environ.get("PYTHONPATH")]))
    runpy.run_path(str(_EVERY_PYTHON / "sitecustomize.py"))
    import torch  # not before the number of its threads is set

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = (
            "1"  # kernels run on CPU tensors; triton reads it once, when it is first imported
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around the fixtures of wider scopes too, which may compute."""
    mark = item.get_closest_marker("auto_precision")
    os.environ["ATOM_PLUGIN_TESTS_FAST_PRECISION"] = mark.args[0] if mark else ""
    return (yield)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which it runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(inside: Path) -> Path:
    """The folder ``photos/`` of the README and the tutorials, and a folder to work in."""
    import numpy as np  # not before the number of threads is set, as torch above
    from PIL import Image

    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for kind in ("cat", "dog", "owl"):
            folder = inside / "photos" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return inside
