"""``atom-cli consume score`` on the embedded digits: text, JSON, what is trained once, and wrong input."""

from __future__ import annotations

import json
import re

import pytest
from commands import run

from atom_plugin.cli.main import main
from atom_plugin.evaluation import dd_ranking

SCORE = ("consume", "score", "--precision", "float32")
QUICK = ("--epochs", "2", "--repeats", "2", "--quiet")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Digits hardly distilled, two files of one preprocessing and one of another, with a small network to be quick."""
    folder = tmp_path_factory.mktemp("sets")
    for name, *options in (("a", "--seed", "0"), ("b", "--seed", "1"), ("zca", "--zca")):
        path = str(folder / f"{name}.h5")
        steps = ("--iterations", "1", "--real-batch", "2", "--width", "16", "--precision", "float32")
        assert main(["distill", "--ipc", "2", *steps, *options, "-o", path, "--quiet"]) == 0
    return folder


def test_scores_for_people_and_for_programs(sets, capsys):
    capsys.readouterr()
    arguments = (*SCORE, sets / "a.h5", *QUICK, "--full-epochs", 2)
    text = run(capsys, *arguments)
    line = r"a\.h5: LRS 0\.\d{4} ± 0\.\d{4}, HLR -?[\d.]+ ± [\d.]+ points, IOR -?[\d.]+ ± [\d.]+ points \(n = 2, "
    assert re.search(line, text), text
    assert "(1 network of 2 epochs)" in text
    assert "20 images, instance normalisation, 2 epochs; last epoch, 359 test images, precision float32" in text
    (result,) = json.loads(run(capsys, *arguments, "--json"))
    assert (result["file"], result["precision"]) == (str(sets / "a.h5"), "float32")
    pairs = zip(result["synthetic"]["values"], result["random"]["values"], strict=True)
    assert result["ior"]["values"] == pytest.approx([synthetic - random for synthetic, random in pairs])
    assert result["hlr"]["mean"] == pytest.approx(result["full"]["mean"] - result["synthetic"]["mean"])
    assert f"HLR {100 * result['hlr']['mean']:.2f} ±" in text  # the same command, the same figures
    assert f"LRS {result['lrs']['mean']:.4f} ±" in text


def test_a_known_accuracy_replaces_the_long_training(sets, capsys, monkeypatch):
    monkeypatch.setattr(dd_ranking, "train_on_real", None)
    arguments = (*SCORE, sets / "a.h5", *QUICK, "--full-accuracy", 0.99, "--ior-weight", 1, "--json")
    (result,) = json.loads(run(capsys, *arguments, "--normalisation", "batch"))
    assert result["full"] == {"mean": 0.99, "std": None, "n": 1, "values": [0.99], "epochs": None}
    assert result["network"]["normalisation"] == "batch"
    assert result["weight"] == 1
    expected = [dd_ranking.label_robust_score(0, ior, weight=1) for ior in result["ior"]["values"]]
    assert result["lrs"]["values"] == pytest.approx(expected)


def test_sets_that_share_their_preprocessing_share_the_networks_on_full_data(sets, capsys, monkeypatch):
    calls = []
    plain = dd_ranking.train_on_real

    def counting(*args, **kwargs):
        calls.append(kwargs["seed"])
        return plain(*args, **kwargs)

    monkeypatch.setattr(dd_ranking, "train_on_real", counting)
    files = [sets / f"{name}.h5" for name in ("a", "b", "zca")]
    budget = ("--epochs", 1, "--repeats", 1, "--full-epochs", 1, "--full-repeats", 2, "--quiet", "--json")
    first, second, whitened = json.loads(run(capsys, *SCORE, *files, *budget))
    assert calls == [0, 1, 0, 1]
    assert first["full"] == second["full"] != whitened["full"]
    assert first["random"] == second["random"]  # the same draws, under the same preprocessing


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ((), 2, "Missing argument"),
        (("missing.h5",), 1, "missing.h5"),
        (("a.h5", "--full-accuracy", "98"), 2, "--full-accuracy must be above 0 and at most 1, not 98"),
        (("a.h5", "--weight", "2"), 2, "--ior-weight must be at least 0 and at most 1"),
        (("a.h5", "--repeats", "0"), 2, "--repeats must be at least 1"),
        (
            ("a.h5", "--full-accuracy", "0.9", "--full-epochs", "3"),
            2,
            "which --full-accuracy excludes",
        ),
        (("a.h5", "--augmentation", "blur"), 2, "unknown augmentation 'blur'"),
        (("a.h5", "--dataset", "no-such"), 1, "no-such"),
        (("a.h5", "--lr", "1e12", "--epochs", "30", "--full-accuracy", "0.9"), 1, "lower --lr"),
    ],
)
def test_wrong_input_is_one_line(sets, capsys, monkeypatch, arguments, code, part):
    monkeypatch.chdir(sets)
    assert main([*SCORE, *arguments, "--quiet"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert part in captured.err
    assert len(captured.err.splitlines()) == 1
