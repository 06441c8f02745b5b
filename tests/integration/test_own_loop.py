"""Sets and memories as data sets of plain loops: every block of docs/own-loop.md runs and does what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from atom_plugin.replay.memory import ReplayMemory

PAGE = Path(__file__).parents[2] / "docs" / "own-loop.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks on plain loops leave behind."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("loop"))
        for block in BLOCKS[:3]:
            exec(block, found)
        found["saved"] = ReplayMemory.load("memory.h5")
    return found


@pytest.mark.auto_precision("float32")
def test_a_network_learns_from_a_file_read_by_workers(names):
    assert isinstance(names["synthetic"], Dataset)
    assert len(names["synthetic"]) == 50
    assert names["accuracy"] > 0.7


@pytest.mark.auto_precision("float32")
def test_soft_labels_are_targets_of_a_plain_loop(names):
    assert isinstance(names["soft"], Dataset)
    torch.testing.assert_close(names["soft"][3][1], (names["logits"][3] / 2).softmax(0))
    assert names["targets"].shape == (25, 10)


@pytest.mark.auto_precision("float32")
def test_a_memory_is_replayed_in_a_plain_loop(names):
    memory = names["memory"]
    assert isinstance(memory.images.as_dataset(), Dataset)
    assert memory.images.labels.bincount().tolist() == [5] * 10
    assert (names["saved"].images.images == memory.images.images).all()
    assert len(names["replayed"].dataset) == 25, "the second step replays the first one's classes"
    assert len(names["labels"]) > 25
    known = names["network"](names["preprocessing"](names["data"].test.images)).argmax(1)
    right = known == names["data"].test.labels
    assert right[names["data"].test.labels < 5].float().mean() > 0.5, "without the memory these are forgotten"


@pytest.mark.auto_precision("float32")
@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="Lightning is no dependency of this package")
@pytest.mark.filterwarnings("ignore")  # of Lightning, on the small number of batches and of workers
def test_lightning_takes_both_as_they_are(names, inside):
    exec(BLOCKS[3], names)
    assert names["trainer"].global_step == 2 * len(names["loaders"]["stream"])


@pytest.mark.auto_precision("float32")
def test_logits_are_stored_and_compared_in_a_plain_loop(names):
    found = dict(names)
    exec(BLOCKS[4], found)
    logits = found["memory"].logits
    assert logits.shape == (50, 10)
    assert logits.isfinite().all()
    assert float(found["term"].detach()) > 0
    outputs = found["network"].eval()(found["memory"].images.decoded().images)
    assert torch.allclose(logits[25:], outputs[25:], atol=0.02)  # of the last classes the network's own, in float16
    assert not torch.allclose(logits[:25], outputs[:25], atol=0.02)


def test_there_are_five_blocks():
    assert len(BLOCKS) == 5
