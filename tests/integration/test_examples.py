"""Every example runs and does what it says."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import mammoth_stand_in
import pytest
import torch
from mammoth_streams import MammothStream
from synthetic_sets import make_set
from torch import nn

from atom_plugin.evaluation.dd_ranking import label_robust_score
from atom_plugin.replay import suppliers
from atom_plugin.store.synthetic_set import SyntheticSet

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


def test_atom_works_in_a_plain_loop_on_a_foreign_network(capsys):
    first, last = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["main"](iterations=60)
    assert last < 0.8 * first
    assert "loss" in capsys.readouterr().out


@pytest.mark.auto_precision("float32")
def test_avalanche_replays_a_distilled_memory(tmp_path, monkeypatch):
    distilled = suppliers.DistillingSupplier
    monkeypatch.setattr(
        suppliers, "DistillingSupplier", lambda overrides: distilled(overrides={**overrides, "iterations": 2})
    )
    monkeypatch.chdir(tmp_path)
    curve = runpy.run_path(str(EXAMPLES / "avalanche_replay.py"))["main"]()
    assert len(curve) == 5
    assert curve[0] > 0.9
    assert curve[-1] > 0.3, "without a memory only the last two of ten classes are known"
    assert SyntheticSet.load("memory.h5").ipc == 5


def test_flower_s_clients_send_images_or_weights():
    pytest.importorskip("flwr", reason="flwr is not installed; pip install 'atom-plugin[flower]'")
    from flower_grid import StraightGrid, context_of

    def run(server, client):
        server(StraightGrid(client, range(10)), context_of(0, 1))

    found = runpy.run_path(str(EXAMPLES / "flower_digits.py"))["main"](run, rounds=1, iterations=2, epochs=1)
    assert [concentration for concentration, _ in found] == [0.5] * 4 + [0.05] * 4
    for (_, method), results in found.items():
        right, sent, received = results[1]
        assert 0.05 < right <= 1
        assert (sent == received) == ("FedAvg" in method)
        assert (sent > received) == ("once" in method), "no weights go to clients that match under random networks"


def test_the_same_runs_on_a_part_of_other_images(capsys):
    pytest.importorskip("flwr", reason="flwr is not installed; pip install 'atom-plugin[flower]'")
    import federation
    from flower_grid import StraightGrid, context_of

    def run(server, client):
        server(StraightGrid(client, range(10)), context_of(0, 1))

    few = ("--images", "300", "--test-images", "40", "--rounds", "2", "--iterations", "1", "--epochs", "1")
    federation.main([*few], run)
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if "FedAvg" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [concentration, "weights (FedAvg)", number] for concentration in ("0.5", "0.05") for number in ("1", "2")
    ]


@pytest.mark.parametrize("options", [{}, {"memory": "random", "memory_options": '{"precision": "float32"}'}])
def test_mammoth_replays_a_memory_on_one_of_its_data_sets(inside, monkeypatch, options):
    modules = mammoth_stand_in.modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "atom_plugin.integrations.mammoth.model", raising=False)
    modules["datasets"].register_dataset("seq-coloured")(MammothStream)
    modules["backbone"].register_backbone("linear")(
        lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    )
    main = runpy.run_path(str(EXAMPLES / "mammoth_replay.py"))["main"]
    quick = {"memory_options": '{"iterations": 2, "precision": "float32", "network": {"width": 8, "depth": 2}}'}
    settings = {"backbone": "linear", "buffer_size": 30, "lr": 0.05, "n_epochs": 8, "batch_size": 8}
    accuracy = main("seq-coloured", **{**settings, **quick, **options})
    assert accuracy > 60, "without a memory only the last two of six classes are known"
    assert SyntheticSet.load("memory.h5").ipc == 5
    monkeypatch.delitem(sys.modules, "atom_plugin.integrations.mammoth.model")  # made on the stand-in


@pytest.fixture
def ddranking(monkeypatch):
    """A stand-in for ddranking, which needs an older numpy: notes what it is given, answers in percent."""
    noted = {}

    class LabelRobustScoreHard:
        def __init__(self, **settings):
            noted.update(settings)

        def compute_metrics(self, **inputs):
            noted.update(inputs)
            names = ("hard_label_recovery", "improvement_over_random", "label_robust_score")
            means = dict(zip((f"{name}_mean" for name in names), (35.0, -3.0, -0.157), strict=True))
            return means | {f"{name}_std": 0.0 for name in names}

    modules = {name: ModuleType(name) for name in ("ddranking", "ddranking.metrics", "ddranking.utils")}
    modules["ddranking.metrics"].LabelRobustScoreHard = LabelRobustScoreHard
    modules["ddranking.metrics"].hard_label = ModuleType("ddranking.metrics.hard_label")
    noted["known"] = modules["ddranking.utils"].REAL_DATA_ACC_CACHE = {}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return noted


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_ddranking_is_handed_our_set_as_its_loader_codes_images(tmp_path, capsys, ddranking, normalisation):
    made = make_set(classes=100, ipc=2, shape=(3, 32, 32), config={"network": {"normalisation": normalisation}})
    made.save(tmp_path / "set.h5")
    main = runpy.run_path(str(EXAMPLES / "dd_ranking.py"))["main"]
    result = main([str(tmp_path / "set.h5"), "--dataset", "CIFAR100", "--full-accuracy", "0.57", "--epochs", "20"])
    # Its CIFAR-100 loader has CIFAR-10's constants.
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    torch.testing.assert_close(ddranking["image_tensor"] * std + mean, made.true_colour(), rtol=1e-5, atol=1e-6)
    assert torch.equal(ddranking["hard_labels"], made.labels)
    model = "ConvNet-3-BN" if normalisation == "batch" else "ConvNet-3"
    assert (ddranking["ipc"], ddranking["model_name"], ddranking["step_size"]) == (2, model, 10)
    assert ddranking["known"] == {f"CIFAR100-{model}": pytest.approx(57.0)}
    assert ddranking["eval_full_data"] is False
    assert result["label_robust_score_on_shares"] == pytest.approx(label_robust_score(0.35, -0.03))
    assert json.loads(capsys.readouterr().out) == pytest.approx(result)


@pytest.mark.parametrize("example", FILES, ids=lambda path: path.name)
def test_every_example_says_what_it_is_and_has_a_test(example):
    text = example.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring is not None
    assert f"examples/{example.name}" in docstring, "the docstring says how to run it"
    tests = (EXAMPLES.parent / "tests").rglob("*.py")
    assert any(example.stem in test.read_text() for test in tests), "no test names it"


def test_there_are_examples():
    names = {path.name for path in FILES}
    assert {"avalanche_replay.py", "dd_ranking.py", "flower_digits.py", "mammoth_replay.py", "plain_loop.py"} <= names
