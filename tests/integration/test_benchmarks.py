"""The benchmarks run at tiny sizes, compare like with like, and docs/performance.md says what they measured."""

from __future__ import annotations

import json
from collections import Counter

import any_ipc
import any_ipc_time
import breakdown
import common
import gpu
import gpu_pieces
import growing
import pieces
import pytest
import render
import run
import sharing_time
import step
import study
import together
import torch
import training

from atom_plugin.errors import ConfigError
from atom_plugin.models.convnet import ConvNetConfig

QUICK = ["--quick", "--repeats", "1"]

pytestmark = pytest.mark.auto_precision("float32")  # scripts take it as users do; nothing here compares with an oracle


def test_performance_page_is_what_the_results_render_to():
    assert render.PAGE.read_text() == render.render(json.loads(render.RESULTS.read_text())), (
        "edit benchmarks/performance.md.jinja, then: python benchmarks/render.py"
    )


@pytest.mark.parametrize("script", [step, breakdown, training, pieces, together], ids=lambda script: script.__name__)
def test_each_part_runs_and_its_ratio_is_to_the_plain_one(script):
    result = script.main(["--networks", "2", "--epochs", "2"] if script is together else QUICK)
    assert json.loads(json.dumps(result)) == result
    assert result["machine"] and result["versions"]
    if script in (step, training):
        assert result["ratio"] == result["seconds"]["plain"]["median"] / result["seconds"]["ours"]["median"] > 0
    if script is together:
        assert result["together"]["accuracies"] == pytest.approx(result["in turn"]["accuracies"], abs=0.12)


@pytest.mark.parametrize(
    ("sets", "kinds"),
    [
        (any_ipc.sets, {"nested, cut": 2, "plain, cut": 2, "made for it": 2, "herding": 2}),
        (growing.sets, {"before": 1, "grown, frozen": 1, "grown, thawed": 1, "at once": 1, "herding": 2, "random": 2}),
    ],
)
def test_sets_of_any_ipc_are_made_and_judged(tmp_path, sets, kinds):
    out = tmp_path / "lines.jsonl"
    short = ["--ipc", "2", "--iterations", "1", "--epochs", "1", "--networks", "1", "--seeds", "1", "--out", str(out)]
    short += ["--chart", str(tmp_path / "lines.png")]
    any_ipc.measure(any_ipc.arguments(None, short), sets)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(line["kind"] for line in lines) == kinds
    assert all(0 <= value <= 1 for line in lines for value in line["accuracies"])
    assert (tmp_path / "lines.png").stat().st_size > 5000


def test_steps_of_a_nested_and_of_a_growing_run_are_timed_beside_a_plain_one():
    line = any_ipc_time.main(["--ipc", "2", "--side", "16", "--steps", "2"])
    assert line["seconds"].keys() == {"plain", "nested", "growing"}
    assert all(len(own) == 2 and min(own) > 0 for own in line["seconds"].values())


def test_steps_that_share_a_real_batch_are_timed_beside_those_that_do_not():
    result = sharing_time.main([*QUICK, "--inner-loops", "1", "6"])
    assert result["seconds a step"].keys() == {"real batch 4, 1 steps", "real batch 4, 6 steps"}
    assert all(own["n"] == 1 and own["min"] > 0 for own in result["seconds a step"].values())


@pytest.mark.parametrize("normalisation", ["none", "batch", "layer", "instance", "group"])
def test_the_plain_network_is_the_same_network(normalisation):
    generator = torch.Generator().manual_seed(0)
    network = ConvNetConfig(width=8, normalisation=normalisation).build(step.SHAPE, 10, generator=generator)
    images = torch.randn(6, *step.SHAPE, generator=generator)
    maps, embedding = common.plain_features(network, images)
    features = network.features(images)
    for mine, theirs in zip(maps, features.maps, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding, features.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(training.plain_logits(network, images), network(images), rtol=1e-4, atol=1e-5)


def test_the_count_is_that_of_the_convolutions():
    per_image = 2 * 9 * 128 * (1024 * 3 + 256 * 128 + 64 * 128)
    assert step.forward_flop(128) == per_image
    held = json.loads(render.RESULTS.read_text())["cpu"]["parts"]["step-ipc10"]
    assert held["gflop"]["real forward"] == pytest.approx(640 * per_image / 1e9)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "convolutions",
            ["aten::mkldnn_convolution", "aten::convolution_backward", "sm90_xmma_fprop_implicit_gemm_bf16"],
        ),
        ("copies and layouts", ["void cudnn::ops::nchwToNhwcKernel<float>", "aten::copy_"]),
        ("normalisation", ["aten::native_batch_norm"]),
        ("matrix products", ["aten::addmm", "aten::bmm", "aten::mm"]),
        (breakdown.REST, ["aten::add", "aten::pow"]),
    ],
)
def test_operations_are_counted_under_their_kind(kind, names):
    assert [breakdown.kind_of(name) for name in names] == [kind] * len(names)


def test_figures_of_two_machines_do_not_stand_in_one_file(tmp_path):
    out, where = tmp_path / "out.json", common.surroundings("cpu", 1)
    out.write_text(json.dumps({"cpu": {**where, "machine": {"device": "other"}, "parts": {}}}))
    with pytest.raises(ConfigError, match="figures of another machine"):
        run.results_so_far(out, "cpu", where, keep=True)


@pytest.mark.parametrize(
    "kind", ["correctness", "ceilings", "kernels", "draws", "step-packed-ipc10", "together", "set-best-ipc1"]
)
def test_every_kind_of_piece_for_a_gpu_goes_through_on_a_cpu(tmp_path, kind):
    bench = gpu_pieces.Bench("cpu", quick=True)
    found = gpu.pieces(gpu_pieces.Images(None), tmp_path, bench)
    assert set(gpu_pieces.STEPS) == {name.removeprefix("step-") for name in found if name.startswith("step-")}
    assert gpu.run_all({kind: found[kind]}, tmp_path / "gpu.jsonl", 5.0, bench.device)
    (line,) = gpu.records(tmp_path / "gpu.jsonl")
    assert line["piece"] == kind
    if kind == "correctness":
        for piece in (line[name] for name in line if name.endswith("float32")):
            assert max(piece["largest relative difference of losses"].values()) < 1e-4
            assert piece["bytes repeat"]


def test_a_failing_piece_is_a_line_and_ends_its_process(tmp_path):
    def fails():
        raise RuntimeError("no room")

    out = tmp_path / "gpu.jsonl"
    assert not gpu.run_all({"a": lambda: {"x": 1}, "b": fails, "c": lambda: {}}, out, 5.0, torch.device("cpu"))
    assert [line.get("error") for line in gpu.records(out)] == [None, "RuntimeError: no room"]
    assert gpu.finished(out) == {"a"}


def test_a_study_makes_pools_and_sets_and_judges_them_on_both_kinds_of_images(tmp_path, monkeypatch):
    cells = tmp_path / "cells.toml"
    cells.write_text(
        "[trainings.short]\nepochs = 1\n[network]\nwidth = 8\n[pools.two]\nnetworks = 2\nepochs = 1\nnetwork = { width = 8 }\n"
        "[defaults]\nipc = 1\nfactor = 2\niterations = 1\nreal_batch = 2\nnetwork = { width = 8 }\n"
        '[cells.pooled]\npool = "two"\ncalibration = 1.0\nseeds = [0, 1]\n[cells.random]\nmethod = "random"\n'
        '[cells.labels]\nmatcher = "ld"\nmatcher_options = { steps = 1 }\n'
    )
    given = [str(cells), "--out", str(tmp_path / "out"), "--device", "cpu", "--networks", "1"]
    monkeypatch.setattr("sys.argv", ["study.py", *given])
    study.main()
    lines = [json.loads(line) for line in (tmp_path / "out" / "study.jsonl").read_text().splitlines()]
    assert len(lines[0]["accuracies"]) == 2
    judged = {line["cell"]: line for line in lines if "validation" in line}
    assert set(judged) == {"pooled,_seed_0", "pooled,_seed_1", "random,_seed_0", "labels,_seed_0"}
    assert all(
        len(line["test"]) == 1 and line["images"] == {"validation": 144, "test": 359} for line in judged.values()
    )
    monkeypatch.setattr("sys.argv", ["study.py", *given, "--memory"])
    study.main()
    steps = [json.loads(line) for line in (tmp_path / "out" / "study.jsonl").read_text().splitlines()][len(lines) :]
    assert [line["cell"] for line in steps] == ["pooled,_seed_0", "labels,_seed_0"]
    assert all(line["processor seconds a step"] > 0 and line["GB at most"] >= line["GB before"] for line in steps)
