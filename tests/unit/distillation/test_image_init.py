"""Runs that start from another set's images."""

from dataclasses import replace

import pytest
import torch
from small import coloured_source, small_config

from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.transforms.packing import pack

DATA = coloured_source(per_class=40)


def start_from(path, data=DATA, **options):
    return Distiller(small_config(image_init=f"set:{path}", **options), data, device="cpu").images


def test_a_run_starts_from_a_set_whatever_the_preprocessing_of_either(tmp_path):
    made = distill(small_config(ipc=3, zca=True), DATA, device="cpu")
    made.save(tmp_path / "a.h5")
    first = torch.cat([made.true_colour()[3 * label : 3 * label + 2] for label in range(3)])
    run = Distiller(small_config(image_init=f"set:{tmp_path / 'a.h5'}"), DATA, device="cpu")
    torch.testing.assert_close(run.preprocessing.inverse(run.images), first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(start_from(tmp_path / "a.h5", storage="uint8"), first.clamp(0, 1), rtol=1e-4, atol=1e-4)
    assert run.synthetic_set().provenance.config["image_init"] == "set:a.h5"


@pytest.mark.parametrize(("held", "wanted"), [(2, 2), (1, 2), (2, 1)])
def test_packed_sets_and_runs(tmp_path, held, wanted):
    made = distill(small_config(ipc=8, factor=held), DATA, device="cpu")
    made.save(tmp_path / "a.h5")
    colours = made.as_stored() if held == wanted else made.true_colour()
    each, need = len(colours) // 3, 2 if held == wanted else 2 * wanted**2
    first = torch.cat([colours[each * label : each * label + need] for label in range(3)])
    run = Distiller(small_config(image_init=f"set:{tmp_path / 'a.h5'}", factor=wanted), DATA, device="cpu")
    expected = first if held == wanted else pack(first, wanted)
    torch.testing.assert_close(run.preprocessing.inverse(run.images), expected, rtol=1e-4, atol=1e-5)


def test_classes_go_by_name(tmp_path):
    made = distill(small_config(), DATA, device="cpu")
    made.save(tmp_path / "a.h5")
    renamed = replace(DATA, class_names=DATA.class_names[::-1])
    own, swapped = start_from(tmp_path / "a.h5"), start_from(tmp_path / "a.h5", renamed)
    assert torch.equal(own[:2], swapped[4:])


def test_sets_that_do_not_fit_are_refused(tmp_path):
    distill(small_config(), DATA, device="cpu").save(tmp_path / "a.h5")
    with pytest.raises(ConfigError, match="has 2 images of the class 'class 0', expected at least 3"):
        start_from(tmp_path / "a.h5", ipc=3)
    with pytest.raises(ConfigError, match="has 0 images of the class 'class 3'"):
        start_from(tmp_path / "a.h5", coloured_source(classes=4))
    with pytest.raises(ConfigError, match="8x8"):
        start_from(tmp_path / "a.h5", coloured_source(size=16))
    with pytest.raises(StoreError, match="no such file"):
        start_from(tmp_path / "none.h5")
