"""What is installed, under which names, and what an import costs."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import atom_plugin
from atom_plugin.runtime.versions import __version__

ROOT = Path(__file__).parents[2]
NOT_OURS = ("cli", "integrations", "tests", "benchmarks", "examples", "docs")
SET_UP = ["pip install -e . && atom-cli distill --ipc 20", "pip install -e '.[test]' && pytest"]


@pytest.fixture(scope="module")
def options() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(comment_prefixes=("#",))
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def distribution() -> metadata.Distribution:
    """The installed one: the checkout, which is on the path of the tests, may hold an old .egg-info beside it."""
    path = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
    return next(iter(metadata.distributions(name="atom-plugin", path=path)))


def python(code: str, folder: Path) -> str:
    """What a fresh interpreter, started outside the checkout, prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_every_package_lies_under_the_one_import_name(options: configparser.ConfigParser) -> None:
    packages = options["options"]["packages"].split()
    assert {package.partition(".")[0] for package in packages} == {"atom_plugin"}
    folders = dict(line.split(" = ") for line in options["options"]["package_dir"].strip().splitlines())
    assert folders == {
        "atom_plugin": "atom_plugin",
        "atom_plugin.integrations": "integrations",
        "atom_plugin.cli": "cli",
    }


def test_no_package_is_forgotten(options: configparser.ConfigParser) -> None:
    present = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "atom_plugin").rglob("__init__.py")}
    for room in ("cli", "integrations"):
        present |= {
            f"atom_plugin.{'.'.join(init.parent.relative_to(ROOT).parts)}"
            for init in (ROOT / room).rglob("__init__.py")
        }
    assert set(options["options"]["packages"].split()) == present


def test_nothing_of_ours_is_installed_at_top_level(distribution: metadata.Distribution, tmp_path: Path) -> None:
    assert (distribution.read_text("top_level.txt") or "").split() == ["atom_plugin"]
    installed = {file.parts[0] for file in distribution.files or []}
    assert not installed & set(NOT_OURS)
    found = python(
        f"""
import importlib.util
for name in {NOT_OURS}:
    spec = importlib.util.find_spec(name)
    print(*(spec.submodule_search_locations or [spec.origin]) if spec else [])
""",
        tmp_path,
    )
    assert str(ROOT) not in found


def test_every_entry_point_loads(distribution: metadata.Distribution) -> None:
    points = distribution.entry_points
    groups = {"matchers", "sources", "formats", "trackers"}
    assert {point.group for point in points} == {"console_scripts", *(f"atom_plugin.{name}" for name in groups)}
    for point in points:
        held = point.load()
        # A format may be a module with a function for each direction.
        assert any(map(callable, (held, getattr(held, "write", None), getattr(held, "read", None)))), point.name


def test_importing_the_package_imports_no_heavy_library(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "h5py", "matplotlib", "kornia", "timm", "sklearn", "avalanche", "wandb", "flwr")
    assert (
        python(f"import sys, atom_plugin; print([name for name in {heavy} if name in sys.modules])", tmp_path) == "[]"
    )


def test_every_public_name_can_be_had_and_others_fail_as_usual() -> None:
    for name in atom_plugin.__all__:
        assert getattr(atom_plugin, name) is not None
    with pytest.raises(AttributeError, match="'atom_plugin' has no attribute 'nonsense'"):
        _ = atom_plugin.nonsense


def test_one_version_everywhere(distribution: metadata.Distribution) -> None:
    assert atom_plugin.__version__ == __version__ == distribution.version
    assert re.search(rf"^## \[(Unreleased|{re.escape(__version__)})\]", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_test_extra_includes_avalanche_and_flower_and_the_core_does_not(
    distribution: metadata.Distribution,
) -> None:
    requirements = [Requirement(text) for text in distribution.requires or []]

    def required(extra: str) -> dict[str, str]:
        return {
            r.name: str(r.specifier) for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})
        }

    bounds = required("avalanche")
    assert set(bounds) - set(required("")) == {"avalanche-lib", "qpsolvers", "wandb"}
    assert bounds.items() <= required("test").items()
    assert set(required("flower")) - set(required("")) == {"flwr"}
    assert required("flower").items() <= required("test").items()
    assert required("test").items() <= required("dev").items()
    # flwr 1.25 asks for click below 8.2, the core for 8.2 or newer.
    assert ">=1.26" in required("flower")["flwr"]
    # The two bounds that keep jax, GPL solvers and a telemetry stack out: docs/notes/dependencies.md.
    assert "<2.4" in bounds["qpsolvers"]
    assert "<0.29" in bounds["wandb"]


def test_the_readme_holds_the_two_commands_that_set_up() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [lines.count(command) for command in SET_UP] == [1, 1]  # .ci/run takes the second from there
