"""Writers of several files, killed with SIGKILL at random moments: what they leave, counted. Run as a script.

    python tests/killed_writers.py WRITER HOW KILLS FOLDER

WRITER is a format of `atom-cli store export`, or ``replay``. HOW is ``new`` (a name that nothing has), ``force`` (over an
older export), or ``aside`` (the same where names cannot be exchanged). Prints JSON: how often the final name held nothing, the
old or the new content. It ends with an error where anything else was found, or where the next write does not work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from synthetic_sets import make_set

from atom_plugin.replay.plan import ComparisonFiles, foreign_files
from atom_plugin.runtime import folders, renames
from atom_plugin.store.formats import export_set, import_set
from atom_plugin.store.formats.context import ImportContext

SETS = {
    name: make_set(classes=20, ipc=3, shape=(3, 16, 16), pixels=seed, source={"name": "cifar10"})
    for seed, name in enumerate("ab")
}


class Export:
    """A format's export under one name."""

    def __init__(self, format: str, folder: Path) -> None:
        self.format, self.path = format, folder / "out"
        self.known = {}
        for name in SETS:
            self._write(folder / name, name, force=False)
            self.known[name] = self._read(folder / name)

    def write(self, name: str, *, force: bool) -> None:
        self._write(self.path, name, force=force)

    def found(self) -> str:
        """Which set is there; "nothing", where the name is free. Raises what an import raises."""
        if not self.path.exists() or (self.format == "dc-bench" and not list(self.path.rglob("*.pt"))):
            return "nothing"
        images = self._read(self.path)
        return next(name for name, known in self.known.items() if torch.equal(images, known))

    def _write(self, path: Path, name: str, *, force: bool) -> None:
        export_set(SETS[name], path, format=self.format, force=force)

    def _read(self, path: Path) -> torch.Tensor:
        return import_set(path, format=self.format, context=ImportContext(like=SETS["a"])).images


class Replay:
    """A comparison's folder, with the record of its options and a set."""

    def __init__(self, folder: Path) -> None:
        self.files = ComparisonFiles(folder / "out")
        self.path = self.files.folder

    def write(self, name: str, *, force: bool) -> None:
        self.files.refuse_leftovers(resume=False, force=force)
        self.files.open_results({"replay": {"set": name}}, {"set": name}, force=force)
        for step in range(5):
            SETS[name].save(self.path / f"atom-order0-step{step}.h5", force=True)

    def found(self) -> str:
        folders.recover(self.path, foreign_files)
        if not self.path.exists():
            return "nothing"
        name = json.loads((self.path / "configs.json").read_bytes())["memories"]["set"]
        files = ComparisonFiles(self.files.prefix)
        files.open_results({"replay": {"set": name}}, {"set": name}, force=False)  # as --resume does
        for path in self.path.glob("*.h5"):
            assert torch.equal(type(SETS[name]).load(path).images, SETS[name].images), path
        return str(name)


def killed(work: Callable[[], object], after: float) -> bool:
    """Do ``work`` in a forked process and kill it ``after`` seconds; whether it was still at it."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(writer: str, how: str, kills: int, folder: Path) -> dict[str, int]:
    torch.set_num_threads(1)
    if how == "aside":
        renames.exchange = lambda one, other: False
    subject = Replay(folder) if writer == "replay" else Export(writer, folder)
    began = time.perf_counter()
    subject.write("a", force=False)
    took = time.perf_counter() - began
    moments, counted = random.Random(0), Counter()
    while counted["killed"] < kills:
        if how == "new":
            folders.shutil.rmtree(subject.path, ignore_errors=True)
            if writer == "replay":
                subject.files.results.unlink(missing_ok=True)
        old, new = ("nothing", "a") if how == "new" else (subject.found(), "b" if subject.found() == "a" else "a")
        if not killed(lambda new=new: subject.write(new, force=how != "new"), moments.uniform(0, 1.1 * took)):
            continue
        counted["killed"] += 1
        if how == "aside" and writer != "replay":
            counted["name free until the next write"] += not subject.path.exists()
            folders.recover(subject.path, folders.foreign_files)
        found = subject.found()
        assert found in (old, new), f"found {found}, expected {old} or {new}"
        counted["old" if found == old else "new"] += 1
        began = time.perf_counter()
        subject.write("a", force=found != "nothing")  # the next run works
        took = time.perf_counter() - began
        assert subject.found() == "a"
    return dict(counted)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
