"""Formats of third parties: found by name, checked before they run, clear about what they cannot do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from synthetic_sets import make_set

from atom_plugin.errors import ConfigError, PluginError
from atom_plugin.store.formats import FORMATS, export_set, format_options, import_set, listing
from atom_plugin.store.formats.context import ImportContext


class Labels:
    """Labels as JSON."""

    def write(self, synthetic_set, path, *, force, indent=None):
        path.write_text(json.dumps(synthetic_set.labels.tolist(), indent=indent))


class Constant:
    """Always the same set."""

    def read(self, path, context, *, ipc=1):
        context.note("nothing was read")
        return make_set(ipc=ipc)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(FORMATS, "_local", {})
    FORMATS.register("labels")(Labels())
    FORMATS.register("constant")(Constant)


def test_the_built_in_formats_are_registered_and_described():
    rows = {row.name: row for row in listing()}
    built_in = [
        "datasetcondensation",
        "mtt",
        "datm",
        "idc",
        "dc-bench",
        "dd-ranking",
        "arrays",
        "npz",
        "pt",
        "folder",
        "huggingface",
    ]
    assert set(rows) == {*built_in, "labels", "constant"}
    assert all(rows[name].directions == ("export", "import") for name in built_in if name != "arrays")
    assert rows["arrays"].directions == ("import",)
    assert all(10 < len(row.description) < 125 for row in rows.values())
    assert rows["labels"].directions == ("export",)
    assert rows["constant"].directions == ("import",)


def test_an_object_that_only_writes(tmp_path):
    assert export_set(make_set(), tmp_path / "a", format="labels", indent=2) == []
    assert json.loads((tmp_path / "a").read_text()) == [0, 0, 1, 1, 2, 2]
    assert format_options("labels", "write") == {"indent": None}
    with pytest.raises(
        ConfigError, match="the format 'labels' cannot be imported; formats that can: arrays, constant, dataset"
    ):
        import_set(tmp_path / "a", format="labels", context=ImportContext())
    with pytest.raises(ConfigError, match=r"'labels': .*'zca'; exported, it takes the options indent"):
        export_set(make_set(), tmp_path / "a", format="labels", zca=True)


def test_a_class_that_only_reads(tmp_path):
    (tmp_path / "a").touch()
    context = ImportContext()
    held = import_set(tmp_path / "a", format="constant", context=context, ipc=3)
    assert len(held) == 9
    assert held.provenance.config["imported"]["options"] == {"ipc": 3}
    assert context.notes == ["nothing was read"]
    with pytest.raises(ConfigError, match="the format 'constant' cannot be exported; formats that can: datasetcond"):
        export_set(held, tmp_path / "b", format="constant")


def test_formats_that_break(tmp_path):
    class Odd(Constant):
        """Reads something else."""

        def read(self, path, context):
            return [path]

    class Broken:
        """Cannot be made."""

        def __init__(self):
            raise OSError("no licence")

    FORMATS.register("odd")(Odd)
    FORMATS.register("broken")(Broken)
    with pytest.raises(PluginError, match=r"'odd' returned a list for .*, expected a SyntheticSet"):
        import_set(tmp_path, format="odd", context=ImportContext())
    with pytest.raises(PluginError, match=r"'broken' cannot be made \(OSError: no licence\)"):
        export_set(make_set(), tmp_path / "a", format="broken")
    assert {row.name: row.directions for row in listing()}["broken"] == ()


def test_sets_of_any_kind_leave_the_original_alone(tmp_path):
    held = make_set(shape=(3, 4, 4), zca=True, soft="logits")
    before = held.images.clone()
    leaf = replace(held, images=held.images.requires_grad_())
    for row in listing():
        if "export" in row.directions:
            export_set(leaf, tmp_path / row.name, format=row.name)
    assert (held.images == before).all()
