"""Distributions of other people: built into wheels, installed by pip into an environment of their own, and used.

Their sources are in tests/third_party/; ``stripes`` is the template that docs/plugging-in.md points to.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from atom_plugin.datasets import reload_source
from atom_plugin.store.synthetic_set import SyntheticSet

SOURCES = Path(__file__).parents[1] / "third_party"
ATOM_CLI = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"
DISTILL = (
    "distill --dataset stripes --matcher contrast --ipc 1 --iterations 2 --device cpu --precision float32 --quiet -o"
)


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def pip(*arguments: str | Path, cwd: Path) -> None:
    done = run(sys.executable, "-m", "pip", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def wheels(*sources: Path, into: Path) -> list[Path]:
    """The wheels of the distributions in ``sources``, folders that the build writes to."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", into, *sources, cwd=into)
    return [next(into.glob(f"atom_{source.name}-1.0-*.whl")) for source in sources]


@dataclass(frozen=True)
class Environment:
    """A virtual environment in ``folder``/environment; commands run in ``folder``."""

    folder: Path

    @property
    def python(self) -> Path:
        return self._path("scripts") / "python"

    @property
    def packages(self) -> Path:
        """Where pip installs to."""
        return self._path("purelib")

    @property
    def rival(self) -> Path:
        return self.folder / "rival-installed"

    def cli(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """``atom-cli`` with these arguments."""
        return run(self.python, "-c", ATOM_CLI, *arguments, cwd=self.folder, **variables)

    def create(self) -> None:
        """Holds what the running environment holds, without being able to change it."""
        venv.create(self.folder / "environment", symlinks=os.name != "nt")
        # --system-site-packages would show the packages of the interpreter that this environment was itself made with.
        # addsitedir, unlike a line with a path, reads the .pth files there too, which an editable install lives by.
        outer = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in outer)
        (self.packages / "outer.pth").write_text(lines)

    def _path(self, kind: str) -> Path:
        base = str(self.folder / "environment")
        scheme = "nt" if os.name == "nt" else "posix_prefix"
        return Path(sysconfig.get_path(kind, scheme, {"base": base, "platbase": base}))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the wheel of ``stripes``, to which a matcher whose module cannot be imported was added.

    The wheel of ``rival`` lies in a folder beside it, for commands that put it on the path.
    """
    made = Environment(tmp_path_factory.mktemp("third-party"))
    made.create()
    stripes, rival = (shutil.copytree(SOURCES / name, made.folder / name) for name in ("stripes", "rival"))
    project = (stripes / "pyproject.toml").read_text()
    entry = 'contrast = "atom_stripes.matcher:Contrast"\n'
    assert entry in project
    (stripes / "pyproject.toml").write_text(project.replace(entry, f'{entry}broken = "atom_stripes.broken:Broken"\n'))
    (stripes / "atom_stripes" / "broken.py").write_text("import a_library_that_nobody_has\n")
    first, second = wheels(stripes, rival, into=made.folder)
    offline = ("install", "--no-deps", "--no-index")
    pip("--python", made.python, *offline, first, cwd=made.folder)
    pip(*offline, "--target", made.rival, second, cwd=made.folder)
    return made


@pytest.fixture(scope="module")
def stored(environment: Environment) -> Path:
    """A set of the plugin's source, distilled with the plugin's matcher, by the command line."""
    done = environment.cli(*DISTILL.split(), "stripes.h5", "--matcher-option", "balance=0.5")
    assert done.returncode == 0, done.stderr
    assert "stripes.h5: 3 images, 1 per class, contrast, 2 steps" in done.stdout
    return environment.folder / "stripes.h5"


def test_the_running_environment_knows_nothing_of_it(environment: Environment) -> None:
    assert (environment.folder / "environment").exists()
    found = run(sys.executable, "-c", "import importlib.util as i; print(i.find_spec('atom_stripes'))", cwd=SOURCES)
    assert found.stdout.strip() == "None"


def test_its_matcher_is_listed_and_a_broken_one_hides_no_other(environment: Environment) -> None:
    done = environment.cli("distill", "--list-matchers")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(re.split(r"\s+", line, maxsplit=1) for line in done.stdout.splitlines())
    assert lines["contrast"] == "Standard deviation of every channel over an image, and the mean embedding."
    assert lines["broken"] == (
        "unusable: the matcher 'broken' of atom-stripes cannot be loaded (ModuleNotFoundError: No module named "
        "'a_library_that_nobody_has'); update or uninstall that distribution"
    )
    assert lines["atom"].startswith("ATOM: ")
    assert [name for name, line in lines.items() if line.startswith("unusable")] == ["broken"]


def test_its_source_is_distilled_with_its_matcher(stored: Path) -> None:
    held = SyntheticSet.load(stored)
    assert held.images.shape == (3, 1, 8, 8)
    assert held.class_names == ("level", "upright", "slanted")
    assert held.provenance.method == "contrast"
    assert held.provenance.config["matcher_options"] == {"balance": 0.5}
    assert held.provenance.source["name"] == "stripes"


def test_its_tracker_follows_a_run(environment: Environment) -> None:
    done = environment.cli(*DISTILL.split(), "followed.h5", "--tracker", "lines:course.txt")
    assert done.returncode == 0, done.stderr
    told = (environment.folder / "course.txt").read_text().splitlines()
    assert told == ["followed: contrast", "1 loss seconds", "2 loss seconds", "end"]


def test_its_source_is_loaded_again_from_what_the_set_remembers(
    environment: Environment, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(environment.packages)
    remembered = SyntheticSet.load(stored).provenance.source
    try:
        data = reload_source(remembered["name"], remembered["options"])
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "atom_stripes"]:
            del sys.modules[name]
    assert (len(data.train), len(data.test)) == (72, 24)
    assert data.fingerprint == remembered["fingerprint"]


def test_its_exporter_writes(environment: Environment, stored: Path) -> None:
    options = ("--format", "csv", "--option", "delimiter=;")
    done = environment.cli("store", "export", stored.name, *options, "-o", "stripes.csv")
    assert (done.returncode, done.stdout) == (0, "stripes.csv\n"), done.stderr
    assert "pixels were rounded to 256 levels" in done.stderr
    with (environment.folder / "stripes.csv").open() as file:
        rows = list(csv.reader(file, delimiter=";"))
    held = SyntheticSet.load(stored)
    expected = held.true_colour().clamp(0, 1).mul(255).round().int().flatten(1).tolist()
    assert [row[:2] for row in rows] == [["0", "level"], ["1", "upright"], ["2", "slanted"]]
    assert [[int(level) for level in row[2:]] for row in rows] == expected


def test_two_distributions_that_claim_one_name_are_named(environment: Environment) -> None:
    done = environment.cli(
        *DISTILL.split(), "none.h5", PYTHONPATH=os.pathsep.join([str(environment.rival), os.environ["PYTHONPATH"]])
    )
    line = "Error: the matcher name 'contrast' is claimed by atom-rival and atom-stripes; uninstall one of them\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert not list(environment.folder.glob("none.*"))
