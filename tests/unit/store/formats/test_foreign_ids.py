"""What foreign files number: class ids, iterations, folders; and pixels that do not look as they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_sets import make_set
from torch.nn import functional as F

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats import export_set, import_set
from atom_plugin.store.formats.class_map import read_class_map
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.idc import padded_unpacked

HELD = make_set(shape=(3, 8, 8), class_names=("1", "10", "2"), source={"name": "cifar10"})


@pytest.mark.parametrize(
    "text",
    [
        "0 1\n1 2\n\n2 10\n",
        "0: 1\n1: 2\n2: 10",
        '["1", "2", "10"]',
        '{"0": "1", "1": "2", "2": "10"}',
        '{"10": 2, "1": 0, "2": 1}',
    ],
)
def test_a_class_map_in_any_of_its_forms(tmp_path, text):
    (tmp_path / "map").write_text(text)
    assert read_class_map(tmp_path / "map") == {0: "1", 1: "2", 2: "10"}


@pytest.mark.parametrize("text", ["", "[]", "1", "a b", "0 a\n0 b", "0 a\n1 a", '{"a": "b"}', "[1]"])
def test_what_is_no_class_map(tmp_path, text):
    (tmp_path / "map").write_text(text)
    with pytest.raises(ConfigError, match=r"--class-map .*expected lines"):
        read_class_map(tmp_path / "map")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_class_map(tmp_path / "absent")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "9" * 5000 + " a",
            f"{10**18} a",
            '{"a": -1}',
            f'{{"a": {2**31}}}',
            f'{{"{2**40}": "a"}}',
            '{"' + "9" * 5000 + '": "a"}',
        ),
        *("[" * 100_000, f'{{"a": {10**400}}}', '{"a": NaN}'),
    ],
)
def test_ids_beyond_any_class_are_refused_at_once(tmp_path, text):
    (tmp_path / "map").write_text(text)
    with pytest.raises(ConfigError, match=r"--class-map .*expected"):
        read_class_map(tmp_path / "map")


def test_a_map_with_a_gap_is_refused_without_counting_to_its_end():
    context = ImportContext(class_map={0: "a", 2**31 - 1: "b"})
    with pytest.raises(ConfigError, match="names no class 1; name all ids up to 2147483647"):
        context.names()


def test_ids_are_mapped_by_name(tmp_path):
    torch.save({"data": [[HELD.images, HELD.labels]], "accs_all_exps": {}}, tmp_path / "res.pt")
    context = ImportContext(like=HELD, class_map={0: "1", 1: "2", 2: "10"})
    found = import_set(tmp_path / "res.pt", format="datasetcondensation", context=context)
    # The file's 1 is "2", which is our 2, and its 2 is "10", our 1.
    plain = import_set(tmp_path / "res.pt", format="datasetcondensation", context=ImportContext(like=HELD))
    assert torch.equal(found.labels, HELD.labels) and torch.equal(found.images, plain.images[[0, 1, 4, 5, 2, 3]])
    assert any("mapped by name: 1 in the file is 2 here" in note for note in context.notes)


def test_a_class_map_alone_names_the_classes(tmp_path):
    torch.save([HELD.images, HELD.labels], tmp_path / "data.pt")
    found = import_set(tmp_path / "data.pt", format="idc", context=ImportContext(class_map={0: "x", 1: "z", 2: "ä"}))
    assert found.class_names == ("x", "z", "ä") and torch.equal(found.labels, HELD.labels)
    for class_map, said in (({0: "x", 2: "y"}, "names no class 1"), ({0: "x", 1: "y"}, "no name for the id 2")):
        with pytest.raises(ConfigError, match=said):
            import_set(
                tmp_path / "data.pt",
                format="idc",
                context=ImportContext(class_map=class_map, class_names=None if 2 in class_map else ("x", "y", "z")),
            )
    with pytest.raises(ConfigError, match="'lorry', which is not one"):
        import_set(
            tmp_path / "data.pt", format="idc", context=ImportContext(like=HELD, class_map={0: "1", 1: "lorry", 2: "2"})
        )


def test_a_name_is_found_however_it_is_composed(tmp_path):
    torch.save([HELD.images, HELD.labels], tmp_path / "data.pt")
    context = ImportContext(class_names=("a", "caf\u00e9", "b"), class_map={0: "b", 1: "cafe\u0301", 2: "a"})
    assert import_set(tmp_path / "data.pt", format="idc", context=context).labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("factor", [2, 3])
def test_idms_packed_files(tmp_path, factor):
    torch.save({"data": [[HELD.images, HELD.labels]], "accs_all_exps": {}}, tmp_path / "res.pt")
    like = replace(HELD, preprocessing=replace(HELD.preprocessing))
    plain = ImportContext(like=like)
    found = import_set(tmp_path / "res.pt", format="datasetcondensation", context=plain, factor=factor)
    assert len(found) == factor**2 * len(HELD)
    constants = ImportContext(class_names=HELD.class_names, constants=((0.0,) * 3, (1.0,) * 3))
    kept = import_set(tmp_path / "res.pt", format="datasetcondensation", context=constants, factor=factor)
    torch.testing.assert_close(kept.images, padded_unpacked(HELD.images, factor))
    assert torch.equal(kept.labels, HELD.labels.repeat_interleave(factor**2))
    with pytest.raises(ConfigError, match="factor must be a whole number"):
        import_set(tmp_path / "res.pt", format="datasetcondensation", context=plain, factor=0)


def test_mtts_numbered_files(tmp_path):
    for number in (0, 2000, 500):
        torch.save(HELD.images + number, tmp_path / f"images_{number}.pt")
        torch.save(HELD.labels, tmp_path / f"labels_{number}.pt")
    context = ImportContext(class_names=HELD.class_names, constants=((0.0,) * 3, (1.0,) * 3))
    with pytest.raises(ConfigError, match=r"iterations 0, 500, 2000.*iteration=2000"):
        import_set(tmp_path, format="mtt", context=context)
    with pytest.raises(ConfigError, match=r"no images_7\.pt"):
        import_set(tmp_path, format="mtt", context=context, iteration=7)
    found = import_set(tmp_path, format="mtt", context=context, iteration=2000)
    assert torch.equal(found.images, HELD.images + 2000)
    for wrong in (-1, True, "x"):
        with pytest.raises(ConfigError, match="iteration must be"):
            import_set(tmp_path, format="mtt", context=context, iteration=wrong)


@pytest.mark.parametrize("pattern", ["{:05d}", "new{:03d}", "{}"])
def test_numbered_folders_are_class_ids(tmp_path, pattern):
    names = tuple(f"n{number:02}" for number in range(12))
    for label in range(12):
        folder = tmp_path / pattern.format(label)
        folder.mkdir()
        Image.fromarray(np.full((8, 8, 3), label, np.uint8)).save(folder / "class_id0.png")
    context = ImportContext(class_names=names)
    found = import_set(tmp_path, format="folder", context=context)
    assert found.labels.tolist() == list(range(12)) and found.class_names == names
    assert (found.images[:, 0, 0, 0] * 255).round().tolist() == list(range(12))
    assert any("'n11'" in note and "class ids" in note for note in context.notes)
    with pytest.raises(ConfigError, match="numbered up to 11"):
        import_set(tmp_path, format="folder", context=ImportContext(class_names=names[:5]))


def test_folders_whose_classes_are_called_by_numbers_keep_their_names(tmp_path):
    export_set(HELD, tmp_path / "set", format="folder")
    (tmp_path / "set" / "classes.json").unlink()
    context = ImportContext(class_names=HELD.class_names)
    assert import_set(tmp_path / "set", format="folder", context=context).labels.tolist() == HELD.labels.tolist()
    assert not any("class ids" in note for note in context.notes)


def photographs(count: int = 4) -> torch.Tensor:
    """Smooth images on the [0, 1] scale, float32 (count, 3, 16, 16)."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(16, 16), mode="bicubic", align_corners=True).clamp(0, 1)


def noted(tmp_path, images, **constants) -> list[str]:
    torch.save({"data": [[images, torch.tensor([0, 0, 1, 1])]], "accs_all_exps": {}}, tmp_path / "res.pt")
    given = constants or {"constants": ((0.5,) * 3, (0.25,) * 3)}
    context = ImportContext(class_names=("a", "b"), **given)
    import_set(tmp_path / "res.pt", format="datasetcondensation", context=context)
    return [note for note in context.notes if "--option" in note or "true colours" in note]


def test_pixels_read_as_they_were_written_are_not_doubted(tmp_path):
    assert noted(tmp_path, (photographs() - 0.5) / 0.25) == []


def test_pixels_that_look_otherwise_are_told(tmp_path):
    standard = (photographs() - 0.5) / 0.25
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert "whitened" in noted(tmp_path, noise)[0] and "correlation" in noted(tmp_path, noise)[0]
    assert "far outside" in noted(tmp_path, standard, constants=((0.5,) * 3, (2.0,) * 3))[0]
    assert "true colours already" in noted(tmp_path, photographs() * 0.9, constants=((0.5,) * 3, (0.2,) * 3))[0]


def test_another_tools_file_is_told_its_format(tmp_path):
    torch.save({"data": [[HELD.images, HELD.labels]], "accs_all_exps": {}}, tmp_path / "dc.pt")
    torch.save([HELD.images, HELD.labels], tmp_path / "pair.pt")
    torch.save({"x": HELD.images, "y": HELD.labels}, tmp_path / "xy.pt")
    torch.save({"pixels": HELD.images}, tmp_path / "odd.pt")
    for name, fits in (("dc", "datasetcondensation"), ("pair", "idc"), ("xy", "arrays"), ("odd", "images=NAME")):
        for format in ("pt", "datasetcondensation") if name != "dc" else ("pt",):
            with pytest.raises(StoreError, match=fits):
                import_set(
                    tmp_path / f"{name}.pt",
                    format=format,
                    context=ImportContext(like=HELD) if format != "pt" else ImportContext(),
                )
