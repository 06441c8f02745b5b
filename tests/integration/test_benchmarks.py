"""The benchmarks run, compare like with like, and docs/performance.md says what they measured."""

from __future__ import annotations

import json
import math
import sys

import breakdown
import common
import pieces
import pytest
import render
import run
import step
import torch
import training

from atom_plugin.errors import ConfigError
from atom_plugin.models.convnet import ConvNetConfig

QUICK = ["--quick", "--repeats", "1"]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def measured():
    """Every part of this machine's CPU at tiny sizes, as run.py would hold them."""
    results = {
        "step-ipc10": step.main(QUICK),
        "breakdown": breakdown.main(QUICK),
        "training-ipc10": training.main(QUICK),
        "pieces": pieces.main(QUICK),
    }
    assert json.loads(json.dumps(results)) == results
    where = common.surroundings("cpu", 1)
    about = {"command": "python benchmarks/x.py", "date": "2026-11-21", "wall_s": 1.0}
    parts = {name: about | {k: v for k, v in part.items() if k not in where} for name, part in results.items()}
    return {**where, "parts": parts}


@pytest.mark.auto_precision("float32")
def test_what_the_step_benchmark_measures(measured):
    held = measured["parts"]["step-ipc10"]
    assert held["setting"] == {"ipc": 10, "real_batch": 4, "normalisation": "batch"}
    plain, ours = held["seconds"]["plain"], held["seconds"]["ours"]
    assert (plain["n"], ours["n"]) == (1, 1)
    assert held["ratio"] == plain["median"] / ours["median"] > 0
    assert 0.1 < held["peak_gb"] < 8
    assert sum(held["parts"].values()) < 10


@pytest.mark.auto_precision("float32")
def test_ratios_are_to_the_plain_step_the_paper_and_the_count(measured):
    step_row, training_row = render.ratios(measured).splitlines()[2:]
    held = measured["parts"]["step-ipc10"]
    ours, limit = held["seconds"]["ours"]["median"], sum(held["gflop"].values()) / held["matrix_gflop_per_s"]
    cells = [ours, held["ratio"], "0.10", ours / 0.1, limit, ours / limit, held["peak_gb"], 4.314]
    assert step_row == f"| step, IPC 10, 4 real images per class | {' | '.join(map(render.figure, cells))} |"
    assert training_row.startswith("| training epoch, 100 images | ")


@pytest.mark.auto_precision("float32")
def test_the_page_has_every_part_that_was_measured(measured):
    page = render.render({"cpu": measured})
    for heading in ("One step", "What bounds it", "Where the time goes", "Training an evaluation network", "Pieces"):
        assert f"## {heading}, on the CPU" in page
    assert "GPU figures have not been measured yet" in page
    assert "| step, IPC 10, 4 real images per class |" in page
    others = {
        "together": {"notes": ["Two at once."], "tables": [common.table("Epochs", ["n", "s"], [[2, 0.1234]])]},
        "large": {"seconds": {"ipc1": [1.0, 2.0]}},
    }
    parts = {name: {"command": "python x", "date": "2026-11-20", "wall_s": 1, **part} for name, part in others.items()}
    page = render.render({"cuda": {**measured, "parts": measured["parts"] | parts}})
    assert "Two at once.\n\nEpochs\n\n| n | s |\n| --- | --- |\n| 2 | 0.123 |\n" in page
    assert "## Large sources, on the GPU" in page
    assert "| seconds, ipc1 | 1.00, 2.00 |" in page
    assert "measured 2026-11-20 to 2026-11-21" in page


def test_performance_page_is_what_the_results_render_to():
    assert render.PAGE.read_text() == render.render(json.loads(render.RESULTS.read_text())), (
        "edit benchmarks/performance.md.jinja, then: python benchmarks/render.py"
    )


def test_count_is_that_of_the_convolutions():
    config = step.config_of(step_options(ipc=10))
    assert step.forward_flop(128) == 2 * 9 * 128 * (1024 * 3 + 256 * 128 + 64 * 128)
    assert step.count(config)["real forward"] == pytest.approx(64.9, abs=0.05)
    real, synthetic = step.traffic(config, 4).values()
    assert synthetic / real == pytest.approx(3 * 100 / 640)
    assert real == pytest.approx(640 * 128 * (1024 + 256 + 64) * 3.5 * 4 / 1e9)


def step_options(**given):
    options = common.options_of(None, repeats=1).parse_args([])
    return type(options)(**(vars(options) | {"real_batch": 64, "normalisation": "batch"} | given))


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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolutions"),
        ("void cudnn::ops::nchwToNhwcKernel<float>", "copies and layouts"),
        ("aten::copy_", "copies and layouts"),
        ("aten::native_batch_norm", "normalisation"),
        ("aten::avg_pool2d", "pooling"),
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("aten::mm", "matrix products"),
        ("aten::add", breakdown.REST),
        ("aten::pow", breakdown.REST),
    ],
)
def test_kinds_of_operations(name, kind):
    assert breakdown.kind_of(name) == kind


def test_figures_have_three_digits():
    values = [0, 7, 12345, 0.0123456, 0.9996, 1.0, 148.7, 1234.5, "a", math.inf]
    texts = ["0", "7", "12,345", "0.0123", "1.000", "1.00", "149", "1,234", "a", "inf"]
    assert [render.figure(value) for value in values] == texts


def test_run_measures_a_part_and_keeps_the_others(tmp_path, capsys):
    out, where = tmp_path / "out.json", common.surroundings("cpu", torch.get_num_threads())
    held = {"cpu": {**where, "parts": {"large": {"command": "x"}}}, "cuda": {"parts": {}}}
    out.write_text(json.dumps(held))
    assert run.main(["--quick", "--only", "pieces", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert list(results["cpu"]["parts"]) == ["pieces", "large"]
    assert results["cuda"] == {"parts": {}}
    part = results["cpu"]["parts"]["pieces"]
    assert part["command"] == "python benchmarks/pieces.py --repeats 3 --quick --repeats 1"
    assert part["wall_s"] > 0
    assert "machine" not in part
    captured = capsys.readouterr()
    assert captured.err.startswith("pieces: ")
    assert captured.out == "", "no step was measured"


def test_run_says_what_failed_and_goes_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "bad.py").write_text("import sys; sys.exit('it broke')")
    (tmp_path / "mute.py").write_text("print('no object')")
    (tmp_path / "good.py").write_text("print('{\"n\": 1}')")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "PARTS", {name: run.Part(script=f"{name}.py") for name in ("bad", "mute", "gone", "good")})
    monkeypatch.setattr(
        run.Part, "command", lambda self, device, quick: ["python", str(tmp_path / self.script), device]
    )
    assert run.main(["--out", str(tmp_path / "out.json")]) == 1
    assert list(json.loads((tmp_path / "out.json").read_text())["cpu"]["parts"]) == ["good"]
    bad, mute, good = capsys.readouterr().err.splitlines()
    assert bad == "Error: bad failed (exit code 1): it broke"
    assert mute == "Error: mute failed (exit code 0): it gave no JSON object"
    assert good.startswith("good: ")


def test_run_reads_lines_of_a_part_that_takes_long(tmp_path, monkeypatch):
    tmp_path = tmp_path / "benchmarks"
    tmp_path.mkdir()
    (tmp_path / "slow.py").write_text(
        'import sys; open(sys.argv[-1], \'w\').write(\'{"n": 3, "s": 1.5}\\n{"n": 3, "s": {"read": 2.5}}\\n\')'
    )
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "PARTS", {"slow": run.Part(script="slow.py", long=True, lines=True)})
    monkeypatch.setattr(run.Part, "command", lambda self, device, quick: ["python", str(tmp_path / self.script)])
    assert (run.chosen_parts(None, "cpu"), run.chosen_parts("slow", "cpu")) == ([], ["slow"])
    assert run.chosen_parts(None, "cpu", long=True) == ["slow"]
    part = run.measure("slow", "cpu", quick=False)
    assert part["lines"] == [{"n": 3, "s": 1.5}, {"n": 3, "s": {"read": 2.5}}]
    alike = render.own_tables({**part, "lines": [{"n": 3, "s": 1.5}, {"n": 3, "s": 2.5}]})
    assert alike == "Throughout: n 3.\n\n| s |\n| --- |\n| 1.50 |\n| 2.50 |"
    first, second = render.own_tables(part).split("\n\n")
    assert first == "| what | figure |\n| --- | --- |\n| n | 3 |\n| s | 1.50 |"
    assert second.endswith("| s, read | 2.50 |")
    assert not list((tmp_path.parent / "runs").iterdir())
    (tmp_path / "slow.py").write_text("import sys; open(sys.argv[-1], 'w').write('{}\\n'); sys.exit('it broke')")
    with pytest.raises(ConfigError, match=r"it broke; what it measured before is in .*runs/slow-cpu\.jsonl"):
        run.measure("slow", "cpu", quick=False)
    assert (tmp_path.parent / "runs" / "slow-cpu.jsonl").read_text() == "{}\n"


def test_run_refuses_to_mix_machines_and_unknown_parts(tmp_path):
    out, where = tmp_path / "out.json", common.surroundings("cpu", 1)
    out.write_text(json.dumps({"cpu": {**where, "machine": {"device": "other"}, "parts": {}}}))
    with pytest.raises(ConfigError, match="figures of another machine"):
        run.results_so_far(out, "cpu", where, keep=True)
    assert run.results_so_far(out, "cpu", where, keep=False) == {"cpu": {**where, "parts": {}}}
    out.write_text("[]")
    with pytest.raises(ConfigError, match="holds no results of this script"):
        run.results_so_far(out, "cpu", where, keep=False)
    with pytest.raises(ConfigError, match="there is no folder"):
        run.results_so_far(tmp_path / "none" / "out.json", "cpu", where, keep=False)
    with pytest.raises(ConfigError, match="no part for cpu is called nonsense; known: step-ipc1, "):
        run.chosen_parts("step,nonsense", "cpu")
    assert "large" not in run.chosen_parts(None, "cpu")
    assert run.chosen_parts("step,pieces", "cpu") == ["step-ipc1", "step-ipc10", "step-ipc50", "pieces"]
    assert "step-ipc10-real128" in run.chosen_parts("step", "cuda")


@NO_GPU
@pytest.mark.parametrize("script", [step, breakdown, training])
def test_a_missing_gpu_is_one_line(capsys, monkeypatch, script):
    line = "Error: device 'cuda' is not available here; available: cpu; or say 'auto'"
    assert run.main(["--device", "cuda"]) == 1
    assert capsys.readouterr() == ("", f"{line}\n")
    monkeypatch.setattr(sys, "argv", ["x.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        common.run_script(script.main)
    assert stopped.value.code == line
