"""Outputs are checked together and taken before the work; what fails at the end keeps the result."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import pytest
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin.cli.options import FOLDER, PATH
from atom_plugin.cli.outputs import Output, claim, default_name, quoted, write_set
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.locks import lock_file, locked
from atom_plugin.store.pictures import grid
from atom_plugin.store.synthetic_set import SyntheticSet


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def claimed(*outputs: Output, inputs: tuple[Path, ...] = (), lock: bool = True) -> list[str]:
    """The names in the working folder while the outputs are claimed, after which nothing of that is left."""
    before = names()
    with click.Context(click.Command("work")):
        claim(outputs, inputs=inputs, lock=lock)
        during = [name for name in names() if name not in before]
    assert names() == before
    return during


def out(path: str, option: str = "-o", **options) -> Output:
    return Output(path=Path(path), option=option, **options)


def test_names_are_taken_until_the_command_ends(inside):
    locks = sorted(lock_file(Path(name)).name for name in ("a.csv", "a.png"))
    assert claimed(out("a.csv"), out("a.png"), out("a.jsonl", shared=True)) == locks
    assert claimed(out("a.csv"), lock=False) == []
    with locked(Path("a.png"), "another"), pytest.raises(StoreError, match=rf"a\.png: process {os.getpid()} on"):
        claimed(out("a.csv"), out("a.png"))


@pytest.mark.parametrize("other", ["x", "./x", "sub/../x", "X", "symlink", "hardlink", "sub-link/x"])
def test_two_outputs_are_two_files(inside, other):
    Path("x").touch()
    Path("sub").mkdir()
    Path("sub-link").symlink_to(".")
    Path("symlink").symlink_to("x")
    os.link("x", "hardlink")
    with pytest.raises(ConfigError, match=r"--csv x and --chart .* are the same file; give different names"):
        claimed(out("x", "--csv", replace=True), out(other, "--chart", replace=True))
    with pytest.raises(ConfigError, match=r"--csv is the name of x, which the command reads; choose another name"):
        claimed(out(other, "--csv", replace=True), inputs=(Path("x"),))


def test_names_that_do_not_exist_yet_are_compared_as_well(inside):
    with pytest.raises(ConfigError, match="are the same file"):
        claimed(out("new", "--csv"), out("NEW", "--chart"))


def test_files_of_a_folder_that_is_read_are_kept(inside):
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/0.png").write_bytes(b"\x89PNG mine")
    Path("photos/images.h5").write_bytes(b"\x89HDF mine")
    for name in ("photos/cat/0.png", "photos/images.h5"):
        with pytest.raises(ConfigError, match="is a file in photos, which the command reads, and was not written"):
            claimed(out(name, replace=True), inputs=(Path("photos"),))
    held = make_set()
    held.save("photos/set.h5")
    grid(held, held.labels, held.class_names, "photos/set.png")
    claimed(
        *(out("photos/set.h5", replace=True), out("photos/set.png", replace=True), out("photos/new.h5")),
        inputs=(Path("photos"),),
    )
    with pytest.raises(ConfigError, match=r"photos: -o contains photos/set\.h5, which the command reads"):
        claimed(out("photos", replace=True, shared=True), inputs=(Path("photos/set.h5"),))


def test_made_up_names_replace_only_files_of_ours(inside):
    Path("a.log").write_text("mine")
    for replace in (True, False):
        with pytest.raises(StoreError, match=r"a\.log: exists, is not the log of an earlier run, and is kept"):
            claimed(out("a.log", "the log", replace=replace, ours=lambda path: False))
    claimed(out("a.log", "the log", replace=True, ours=lambda path: True))
    with pytest.raises(StoreError, match=r"a\.log: continue with --resume"):
        claimed(out("a.log", "the log", ours=lambda path: True, kept="continue with --resume"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("there", "already exists and is kept"),
        ("folder", "is a folder"),
        ("no/a", "there is no folder no"),
        ("there/a", "there is not a folder"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_could_not_be_written_is_found_out_at_once(inside, path, said):
    Path("there").touch()
    Path("folder").mkdir()
    with pytest.raises(StoreError, match=said):
        claimed(out(path))


def test_a_set_whose_name_is_taken_is_kept_beside_it(inside):
    Path("a b.h5").write_text("theirs")
    Path("a b-2.h5").write_text("theirs too")
    with pytest.raises(StoreError, match=r"a b\.h5: already exists .*; the finished set is kept in a b-3\.h5$"):
        write_set(make_set(), Path("a b.h5"), force=False, keep_paths=False)
    assert_equal_sets(SyntheticSet.load("a b-3.h5"), make_set())
    assert Path("a b.h5").read_text() == "theirs"


def test_a_set_that_nothing_can_store_is_its_own_error(inside, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    with pytest.raises(StoreError, match="not written") as caught:
        write_set(make_set(config={"lr": float("nan")}), Path("a.h5"), force=False, keep_paths=False)
    assert "is kept in" not in str(caught.value)
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_default_names_carry_a_seed_that_is_not_zero():
    assert default_name("digits", "atom", "ipc1", seed=0, suffix=".h5") == Path("digits-atom-ipc1.h5")
    assert default_name("digits", "atom", "ipc1", seed=3, suffix=".h5") == Path("digits-atom-ipc1-seed3.h5")


def test_suggested_names_survive_a_shell():
    assert quoted(Path("out pút.h5")) == "'out pút.h5'"
    assert quoted(Path("a.h5")) == "a.h5"


@pytest.mark.parametrize("kind", [PATH, FOLDER])
def test_home_is_expanded(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kind.convert("~/x.h5", None, None) == tmp_path / "x.h5"
    assert kind.convert("~nobody-of-this-name/x", None, None) == Path("~nobody-of-this-name/x")
    assert kind.convert("a/~/x", None, None) == Path("a/~/x")


def test_every_path_of_every_command_is_of_that_type():
    from atom_plugin.cli.main import COMMANDS, atom_cli

    def walk(command: click.Command) -> list[click.Parameter]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            names = command.list_commands(context)
            return [found for name in names for found in walk(command.get_command(context, name) or command)]
        return list(command.params)

    assert COMMANDS
    paths = [param for param in walk(atom_cli) if isinstance(param.type, click.Path)]
    assert len(paths) > 20
    assert [param.name for param in paths if type(param.type) is not type(PATH)] == []
