"""`atom-cli consume replay`: what it prints, draws and keeps, where it goes on, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from synthetic_sets import make_set

from atom_plugin import store
from atom_plugin.cli import main as cli
from atom_plugin.integrations.avalanche import experiment as experiment_module
from atom_plugin.integrations.avalanche import training_hooks
from atom_plugin.integrations.avalanche.benchmark import class_order, split_classes

RUN = ("--width", "8", "--iterations", "2", "--real-batch", "4", "--precision", "float32")
TINY = (*RUN, "--epochs", "1", "--steps", "2", "--orders", "1")
FROM_MEMORY = ("consume", "replay", "--ipc", "2", *TINY, "-o", "a", "--mode", "from-memory")
REPLAY = ("consume", "replay", "--ipc", "2", *TINY, "-o", "a", "--finetune-steps", "2")
START = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"


def run(*arguments: str) -> int:
    return cli.main([*REPLAY, *arguments])


def rows(path="a.jsonl"):
    """The results line by line, less the time they took."""
    found = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def refused(capsys, code: int, part: str, *arguments: str) -> str:
    """One line that says ``part``; nothing on stdout, nothing changed on disk."""
    before = {path: path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")}
    assert cli.main([*arguments, "--quiet"]) == code
    out, error = capsys.readouterr()
    assert out == ""
    assert part in error
    assert error.count("\n") == 1, error
    assert "internal error" not in error
    assert {path: path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")} == before
    return error


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished comparison of two policies in both modes."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("--policy", "atom", "--policy", "random", "--mode", "replay", "--mode", "from-memory", "-q") == 0
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Sets of digits from `distill` and `select`, and one for each of two steps of class order 0."""
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["distill", "--ipc", "3", *RUN, "-q", "-o", "distilled.h5"]) == 0
        assert cli.main(["select", "--ipc", "2", "--precision", "float32", "-o", "selected.h5"]) == 0
        whole = store.read("selected.h5")
        for number, classes in enumerate(split_classes(class_order(10, 0), 2), 1):
            store.write(whole.subset(classes), Path(f"step{number}.h5"))
    return folder


# What it prints, draws and leaves.


def test_defaults_distil_with_atom_and_leave_results_picture_and_sets(inside, capsys):
    assert run() == 0
    out, error = capsys.readouterr()
    (row,) = rows()
    assert (row["policy"], row["mode"], row["memory_images"]) == ("atom", "replay", 20)
    assert row["config"]["details"]["distillation"] == {"iterations": 2, "real_batch": 4, "precision": "float32"}
    assert "| atom   | replay | 20 images, 1.3 kB | 1 x 1 |" in out
    assert "5 classes" in out
    assert "10 classes" in out
    assert out.endswith("results: a.jsonl\ncurves:  a.png\nsets:    a.memory\n")
    assert "atom replay, order 0" in error
    with Image.open("a.png") as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert sorted(path.name for path in Path("a.memory").iterdir()) == [
        "atom-order0-step1.h5",
        "atom-order0-step2.h5",
        "configs.json",
    ]
    assert store.read("a.memory/atom-order0-step1.h5").classes == sorted(class_order(10, 0)[:5])


def test_logits_are_stored_and_a_separate_pass_is_made_where_asked(inside):
    asked = ("--memory-labels", "both", "--logit-weight", "0.3", "--separate-normalisation", "--normalisation", "batch")
    assert run("--policy", "random", "--mode", "replay", "--mode", "from-memory", *asked, "-q") == 0
    told = {row["mode"]: row["config"] for row in rows()}
    assert {row["memory_bytes"] for row in rows()} == {20 * (64 + 10 * 2)}
    assert all((config["memory_labels"], config["logit_weight"]) == ("both", 0.3) for config in told.values())
    assert told["replay"]["separate_normalisation"] is True
    assert "separate_normalisation" not in told["from-memory"]


@pytest.mark.parametrize(
    "taken", [pytest.param(kind, marks=pytest.mark.auto_precision(kind)) for kind in ("float32", "bfloat16")]
)
def test_results_and_sets_hold_the_precision_that_auto_took(inside, taken):
    assert run("--policy", "atom", "--policy", "herding", "--precision", "auto", "--device", "cpu", "-q") == 0
    assert {row["config"]["details"]["distillation"]["precision"] for row in rows()} == {taken}
    held = [store.read(path) for path in Path("a.memory").glob("*.h5")]
    assert [made.provenance.config["precision"] for made in held] == [taken] * 4


def test_json_is_all_that_stdout_gets_and_quiet_leaves_stderr_empty(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    again = ("--policy", "atom", "--policy", "random", "--mode", "replay", "--mode", "from-memory", "--resume", "-q")
    assert run(*again, "--json") == 0
    out, error = capsys.readouterr()
    assert error == ""
    told = json.loads(out)
    assert out.count("\n") == 1
    assert {name: len(told[name]) for name in ("results", "summaries")} == {"results": 4, "summaries": 4}
    assert Path(told["picture"]).is_file()
    for summary in told["summaries"]:
        assert len(summary["curve"]) == 2
        assert summary["backward_transfer"]["mean"] == -summary["forgetting"]["mean"]


def test_markdown(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert run("--policy", "atom", "--resume", "-q", "--markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| policy | mode") for line in lines)
    assert any(line.startswith("|:-") or line.startswith("| :-") for line in lines)
    assert not any(line.startswith("+") for line in lines)


def test_baselines_run_once_beside_the_policies_and_steps_need_not_divide(inside, capsys):
    assert cli.main([*FROM_MEMORY, "--baselines", "--policy", "atom", "--steps", "3", "-q"]) == 0
    assert [(row["policy"], row["mode"]) for row in rows()] == [
        ("atom", "from-memory"),
        ("random", "from-memory"),
        ("herding", "from-memory"),
        ("real-ipc", "replay"),
        ("real-bytes", "replay"),
        ("gdumb", "from-memory"),
        ("naive", "replay"),
        ("joint", "replay"),
    ]
    sizes = {row["policy"]: (row["memory_images"], row["memory_bytes"]) for row in rows()}
    for policy in ("real-ipc", "real-bytes", "gdumb"):  # all are pixels
        assert sizes[policy] == sizes["atom"] == (20, 20 * 64)
    out = capsys.readouterr().out
    for column in ("4 classes", "7 classes", "10 classes"):
        assert column in out


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ((), ["atom"]),
        (("--distill",), ["atom"]),
        (("--distill", "--policy", "dm"), ["dm"]),
        (("--distill", "--policy", "random"), ["random", "atom"]),
        (("--memory", "f.h5"), ["stored"]),
        (("--memory", "f.h5", "--policy", "random"), ["stored", "random"]),
        (("--memory", "f.h5", "--distill"), ["stored", "atom"]),
        (("--policy", "naive", "--policy", "naive"), ["naive"]),
    ],
)
def test_which_policies_run(given, names):
    from atom_plugin.cli.replay import _policies
    from atom_plugin.cli.replay_options import Compared

    chosen = tuple(after for before, after in itertools.pairwise(given) if before == "--policy")
    memory = (Path("f.h5"),) if "--memory" in given else ()
    what = {"policies": chosen, "memory": memory, "distill": "--distill" in given, "baselines": False}
    assert _policies(Compared(**what, modes=("replay",), orders=1, networks=1)) == names


def test_defaults_depend_on_the_mode_and_the_recipe(inside, monkeypatch):
    made = {}
    monkeypatch.setattr(
        experiment_module.Experiment, "check", lambda self, *a: made.update({self.config.mode: self.config})
    )
    monkeypatch.setattr("atom_plugin.cli.replay._run_all", lambda *a, **k: None)
    monkeypatch.setattr("atom_plugin.cli.replay._report", lambda *a, **k: None)
    arguments = [
        "consume",
        "replay",
        "--ipc",
        "2",
        "--mode",
        "replay",
        "--mode",
        "from-memory",
        "--stream-augmentation",
        "flip",
        "--precision",
        "float32",
    ]
    assert cli.main(arguments) == 0
    replay, alone = made["replay"], made["from-memory"]
    assert (replay.epochs, replay.batch_size, replay.lr, replay.finetune_steps) == (5, 64, 0.01, 500)
    assert (alone.epochs, alone.batch_size, alone.lr, alone.finetune_steps) == (300, 256, 0.01, 0)
    assert (replay.memory_augmentation, replay.stream_augmentation) == ("none", "flip")
    assert alone.memory_augmentation == "color_crop_cutout_flip_scale_rotate"
    assert alone.stream_augmentation == "none"
    assert (replay.steps, replay.distillation["iterations"]) == (5, 100)
    assert Path("digits-replay-ipc2.memory").is_dir()


def test_help_is_short_of_nothing(capsys):
    assert cli.main(["consume", "replay", "--help-all"]) == 0
    text = capsys.readouterr().out
    for option in ("--steps", "--ipc", "--memory", "--policy", "--orders", "--resume", "--markdown", "PREFIX"):
        assert option in text
    assert max(map(len, text.splitlines()[:20])) < 121


# Sets made before.


def test_a_distilled_and_a_selected_set_bring_their_preprocessing(inside, sets, capsys):
    for name, images in (("distilled.h5", 20), ("selected.h5", 20)):
        assert run("--memory", str(sets / name), "-o", name[:4], "-q") == 0
        (row,) = rows(f"{name[:4]}.jsonl")
        assert (row["policy"], row["memory_images"]) == ("stored", images)  # of three per class, the first two
        assert "preprocessing that of the stored sets" in capsys.readouterr().out


def test_one_set_per_step_is_as_good_as_one_of_all(inside, sets):
    steps = [part for number in (1, 2) for part in ("--memory", str(sets / f"step{number}.h5"))]
    assert run("--memory", str(sets / "selected.h5"), "-o", "one", "-q") == 0
    assert run(*steps, "-o", "two", "-q") == 0
    assert rows("one.jsonl")[0]["accuracies"] == rows("two.jsonl")[0]["accuracies"]


def test_sets_that_do_not_fit(inside, sets, capsys):
    make_set(classes=10, ipc=2, shape=(1, 8, 8)).save("classes.h5")
    make_set(classes=10, ipc=2, shape=(1, 4, 4), class_names=tuple(map(str, range(10)))).save("shape.h5")
    make_set(classes=10, ipc=2, shape=(1, 8, 8), class_names=tuple(map(str, range(10)))).save("other.h5")
    Path("text.h5").write_text("text")
    cases = [
        (2, "classes.h5: its classes", ["classes.h5"]),
        (2, "shape.h5: has images of 1x4x4", ["shape.h5"]),
        (2, "preprocessing", [str(sets / "selected.h5"), "other.h5"]),
        (1, "nowhere.h5", ["nowhere.h5"]),
        (1, "text.h5", ["text.h5"]),
        (2, "of step 2 in class order 0", [str(sets / "step1.h5")]),
    ]
    for code, part, names in cases:
        memory = [text for name in names for text in ("--memory", name)]
        refused(capsys, code, part, *REPLAY, *memory, "-q")
    one = ["--memory", str(sets / "selected.h5")]
    refused(capsys, 2, "fewer than the 3 per class", "consume", "replay", "--ipc", "3", *TINY, *one, "-q")
    both = [text for number in (1, 2) for text in ("--memory", str(sets / f"step{number}.h5"))]
    refused(capsys, 2, "in class order 1", *REPLAY, *both, "-q", "--orders", "2")


def test_a_folder_of_photos(inside):
    generator = torch.Generator().manual_seed(0)
    for kind in ("ant", "bee", "cat"):
        folder = inside / "photos" / kind
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = torch.randint(0, 255, (8, 8, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    source = ("--dataset", "folder", "--data-dir", "photos", "--test-fraction", "0.3", "--workers", "1")
    assert run(*source, "--policy", "random", "--policy", "gdumb", "--policy", "atom", "-q") == 0
    assert [row["test_images"] for row in rows()] == [[6, 3]] * 3


# Stopped, and gone on with.


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, *REPLAY, "-q", *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


BOTH = ("--policy", "atom", "--policy", "random", "--mode", "replay", "--mode", "from-memory")


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_killed_and_resumed_gives_the_same_results(finished, tmp_path, monkeypatch, capsys):
    # After the first experience; the second takes long enough for the signal to meet it.
    process = start(tmp_path, *BOTH)
    wait_for(tmp_path / "a.memory" / "atom-replay-order0-network0.state", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    monkeypatch.chdir(tmp_path)
    left = len(rows()) if Path("a.jsonl").exists() else 0
    assert left < 4
    assert run(*BOTH, "-q", "--resume") == 0
    assert rows() == rows(finished / "a.jsonl")
    assert not list(Path("a.memory").glob("*.state*"))
    capsys.readouterr()


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_that_says_how_to_go_on(finished, inside, monkeypatch, capsys, number, code):
    steps = []

    def tested(*arguments):
        steps.append(1)
        if len(steps) == 4:  # the last step of the second run
            os.kill(os.getpid(), number)
        return training_hooks.accuracies(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(experiment_module, "accuracies", tested)
        assert run(*BOTH, "-q") == code
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "Stopped; continue with --resume (results so far: a.jsonl)\n"
    assert len(rows()) == 1
    assert run(*BOTH, "-q", "--resume") == 0
    assert rows() == rows(finished / "a.jsonl")


def test_resume_with_nothing_there_starts_and_with_all_there_reports(finished, inside, monkeypatch, capsys):
    assert run(*BOTH, "-q", "--resume") == 0
    assert rows() == rows(finished / "a.jsonl")
    told = capsys.readouterr().out
    monkeypatch.setattr(experiment_module.Experiment, "run", None)
    assert run(*BOTH, "-q", "--resume") == 0
    assert capsys.readouterr().out == told


def test_a_state_left_beside_its_result_is_cleared_away(inside, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(experiment_module.Experiment, "forget", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("-q") == 130
    assert list(Path("a.memory").glob("*.state*"))
    assert run("-q", "--resume") == 0
    assert not list(Path("a.memory").glob("*.state*"))


def test_runs_can_be_added_with_resume(inside, capsys):
    assert run("--policy", "random", "-q") == 0
    assert run("--policy", "random", "--policy", "naive", "--orders", "2", "--resume", "-q") == 0
    assert [(row["policy"], row["order"]) for row in rows()] == [
        ("random", 0),
        ("naive", 0),
        ("random", 1),
        ("naive", 1),
    ]
    assert "2 x 1" in capsys.readouterr().out


def test_force_starts_over(inside):
    assert run("--policy", "random", "-q") == 0
    assert run("--policy", "naive", "--force", "--epochs", "2", "-q") == 0
    assert [row["policy"] for row in rows()] == ["naive"]


# Wrong input.


CASES = [
    (2, "--ipc is missing", ("consume", "replay")),
    (2, "--ipc must be at least 1, not 0", ("consume", "replay", "--ipc", "0")),
    (2, "no policy is called 'atm'; did you mean 'atom'?", (*REPLAY, "--policy", "atm")),
    (2, "no policy is called 'real-byte'; did you mean 'real-bytes'?", (*REPLAY, "--policy", "real-byte")),
    (2, "name them with --memory", (*REPLAY, "--policy", "stored")),
    (2, "10 classes cannot be split into 11 steps; choose 1 to 10", (*REPLAY, "--steps", "11")),
    (1, "there is no folder no", (*REPLAY, "-o", "no/a")),
    (2, "has no file name", (*REPLAY, "-o", ".")),
    (1, "has 139 training image(s), fewer than the 140", ("consume", "replay", "--ipc", "140", *TINY)),
    (2, "blur", (*REPLAY, "--memory-augmentation", "blur")),
    (2, "blur", (*REPLAY, "--stream-augmentation", "blur")),
    (2, "without --mode replay", (*REPLAY, "--mode", "from-memory", "--stream-augmentation", "flip")),
    (2, "multiple of 4", (*REPLAY, "--width", "6", "--normalisation", "group")),
    (2, "--normalisation batch", (*REPLAY, "--separate-normalisation")),
    (2, "without --memory-labels logits or both", (*REPLAY, "--memory-labels", "hard", "--logit-weight", "1")),
    (2, "--resume and --force", (*REPLAY, "--resume", "--force")),
    (2, "--json and --markdown", (*REPLAY, "--json", "--markdown")),
    (2, "both", (*REPLAY, "--mode", "both")),
    (1, "did you mean 'digits'", (*REPLAY, "--dataset", "digit")),
    (1, "nowhere.h5", (*REPLAY, "--memory", "nowhere.h5")),
]


@pytest.mark.parametrize(("code", "part", "arguments"), CASES, ids=[case[1] for case in CASES])
def test_wrong_input_is_one_line_and_changes_nothing(inside, capsys, code, part, arguments):
    refused(capsys, code, part, *arguments)


def test_results_that_are_there_are_kept(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    refused(capsys, 1, "continue with --resume, or start over with --force", *REPLAY)
    error = refused(capsys, 2, "epochs 1 and not 2", *FROM_MEMORY, "--resume", "--epochs", "2")
    assert "from-memory runs here were made with other options" in error
    refused(capsys, 2, "distillation.iterations 2 and not 3", *REPLAY, "--resume", "--iterations", "3")
    # Wrong options are found out before --force deletes anything.
    refused(capsys, 2, "blur", *REPLAY, "--force", "--memory-augmentation", "blur")
    refused(capsys, 1, "fewer than the 999", "consume", "replay", "--ipc", "999", *TINY, "-o", "a", "--force")


def test_a_mode_added_later_must_share_the_sets(inside, capsys):
    assert run("--policy", "random", "-q") == 0
    capsys.readouterr()
    more = ("--resume", "--iterations", "9", "-q")
    refused(
        capsys,
        2,
        "the sets here were made with other options (distillation.iterations 2 and not 9)",
        *FROM_MEMORY,
        *more,
    )


@pytest.mark.parametrize("how", [(), ("--resume",), ("--force",)])
def test_a_foreign_folder_is_kept(inside, capsys, how):
    Path("a.memory").mkdir()
    Path("a.memory/notes.txt").write_text("mine")
    refused(capsys, 1, "is not a folder of replay memories, and is kept", *REPLAY, *how)


def test_unreadable_results(inside, capsys):
    for content, part in ((b"my notes\n", "line 1: is not JSON"), (b'{"a": 1}\n', "name a file of replay results")):
        Path("a.jsonl").write_bytes(content)
        refused(capsys, 1, part, *REPLAY, "--resume", "-q")
    Path("a.jsonl").unlink()
    Path("a.jsonl").mkdir()
    refused(capsys, 1, "is a folder", *REPLAY, "--resume")


def test_a_damaged_state_says_to_delete_it(inside, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(experiment_module, "StreamResult", None)
        assert run("-q") == 1  # stops after the last state
    capsys.readouterr()
    state = Path("a.memory/atom-replay-order0-network0.state")
    state.write_bytes(state.read_bytes()[:-5])
    refused(capsys, 1, "is damaged (its checksum differs); delete it to start over", *REPLAY, "--resume", "-q")
    state.unlink()
    assert run("--resume", "-q") == 0


def test_without_avalanche_it_says_what_to_install(inside):
    code = "import sys; sys.modules['avalanche'] = None; from atom_plugin.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *REPLAY, "-q"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'atom-plugin[avalanche]'" in done.stderr
    assert not list(inside.iterdir())
