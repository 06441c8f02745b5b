"""An ONNX file gives the probabilities of the network that it was made of."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import MissingExtraError
from atom_plugin.evaluation.onnx_export import require_onnx, write_onnx
from atom_plugin.evaluation.trained_network import TrainedNetwork, train_network
from atom_plugin.evaluation.training import TrainConfig

DATA = coloured_source()
MISSING = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]


def trained(model: str, zca: bool) -> TrainedNetwork:
    held = selected_set(small_selection(zca=zca), DATA)
    return train_network(held, TrainConfig(epochs=2), model=model, device=torch.device("cpu"))


@pytest.mark.skipif(not MISSING, reason="torch can export here")
def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=f"needs {' and '.join(MISSING)}.*pip install onnx onnxscript"):
        require_onnx()
    with pytest.raises(MissingExtraError):
        write_onnx(trained("convnet", zca=False), tmp_path / "net.onnx", force=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} are not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "zca"), [("convnet", True), ("resnet10", False)])
def test_its_probabilities_are_those_of_torch(tmp_path: Path, model: str, zca: bool) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    kept = trained(model, zca)
    write_onnx(kept, tmp_path / "net.onnx", force=False)
    loaded = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(loaded)
    assert json.loads({each.key: each.value for each in loaded.metadata_props}["class_names"]) == list(DATA.class_names)
    for count in (1, 5):
        pixels = DATA.test.images[:count]
        (found,) = ReferenceEvaluator(loaded).run(None, {"images": (pixels / 255).numpy()})
        expected = kept.probabilities(kept.preprocessing(pixels))
        assert np.allclose(found, expected.numpy(), atol=1e-5)
