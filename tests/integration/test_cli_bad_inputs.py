"""Wrong input on purpose: one clear line, exit code 1 or 2, nothing stored is lost, never a traceback."""

from __future__ import annotations

import os
import signal
import sys

import h5py
import pytest
import torch
from PIL import Image
from synthetic_sets import make_set

from atom_plugin.cli.main import main

QUICK = ("--width", "8", "--iterations", "3", "--real-batch", "2", "--quiet", "--precision", "float32")
DISTILL = ("distill", "--ipc", "1", *QUICK)
EVALUATE = ("consume", "evaluate", "--epochs", "1", "--repeats", "1", "--quiet", "--precision", "float32")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder with good and bad files of every kind."""
    monkeypatch.chdir(tmp_path)
    good = make_set(classes=3, ipc=2, shape=(1, 8, 8), zca=True)
    good.save("good.h5")
    make_set(classes=3, ipc=2, shape=(1, 8, 8), pixels=1).save("other.h5")
    stored = (tmp_path / "good.h5").read_bytes()
    (tmp_path / "truncated.h5").write_bytes(stored[: len(stored) // 2])
    flipped = bytearray(stored)
    flipped[len(stored) - 200] ^= 1
    (tmp_path / "flipped.h5").write_bytes(flipped)
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("not a set")
    (tmp_path / "text.npz").write_text("not arrays")
    with h5py.File("else.h5", "w") as file:
        file["weights"] = [1.0, 2.0]
    with h5py.File("newer.h5", "w") as file:
        with h5py.File("good.h5") as old:
            for key in old:
                old.copy(key, file)
            for key, value in old.attrs.items():
                file.attrs[key] = value
        name = next(key for key in file.attrs if key.endswith("version") and "format" in key)
        file.attrs[name] = 99
    (tmp_path / "no-images").mkdir()
    for kind, count in (("cat", 3), ("dog", 1)):
        folder = tmp_path / "photos" / kind
        folder.mkdir(parents=True)
        for number in range(count + 1):
            Image.new("RGB", (8, 8), (number * 20, 10, 200)).save(folder / f"{number}.png")
    corrupt = tmp_path / "corrupt" / "cat"
    corrupt.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(corrupt / "0.png")
    (corrupt / "1.png").write_bytes((corrupt / "0.png").read_bytes()[:40])
    (tmp_path / "corrupt" / "dog").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "corrupt" / "dog" / f"{number}.png")
    odd = tmp_path / "odd" / "cat"
    odd.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8 + number, 8)).save(odd / f"{number}.png")
    (tmp_path / "odd" / "dog").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "odd" / "dog" / f"{number}.png")
    (tmp_path / "digits-done.checkpoint").write_bytes(b"atom-plugin/checkpoint, damaged")
    (tmp_path / "mine.log.jsonl").write_text("my own notes")
    torch.save({"images": 1}, tmp_path / "foreign.checkpoint")
    return tmp_path


CASES = [
    # arguments, exit code, a part of the line
    ((), 2, ""),
    (("destill",), 2, "did you mean 'distill'"),
    (("distill",), 2, "--ipc is missing"),
    (("distill", "--ipc", "0"), 2, "--ipc must be at least 1, not 0"),
    (("distill", "--ipc", "-3"), 2, "--ipc must be at least 1"),
    (("distill", "--ipc", "ten"), 2, "--ipc must be a whole number, not 'ten'"),
    (("distill", "--ipc", "1.5"), 2, "--ipc must be a whole number"),
    (("distill", "--ipc", "1,10"), 2, "--ipc must be a whole number, not '1,10'; give one, and run the command again"),
    (("distill", "--ipc", "1", "--seed", "0-2"), 2, "--seed must be a whole number, not '0-2'; --seeds takes several"),
    ((*DISTILL, "--unknown"), 2, "--unknown"),
    ((*DISTILL, "--lr", "1"), 2, "no option is called '--lr'; did you mean '--network-lr' or '--image-lr'"),
    ((*DISTILL, "--iteration", "1"), 2, "did you mean '--iterations'"),
    (("consume", "evaluate", "good.h5", "--epoch", "1"), 2, "did you mean '--epochs'"),
    (("evaluate", "good.h5"), 2, "belongs to 'consume': atom-cli consume evaluate"),
    (("info", "good.h5"), 2, "belongs to 'store': atom-cli store info"),
    ((*DISTILL, "--matcher", "atom,dm"), 1, "give one at a time"),
    ((*DISTILL, "--dataset", "photos"), 1, "--dataset folder --data-dir photos"),
    ((*DISTILL, "--data-dir", "photos"), 2, "give --dataset folder"),
    (("consume", "evaluate", "good.h5", "--latex", "table.tex"), 2, "> table.tex"),
    (("consume", "search", "good.h5", "--latex", "table.tex"), 2, "> table.tex"),
    (("consume", "predict", "good.h5", "photos"), 1, "is a set, expected a network"),
    (("consume", "predict", "photos", "photos"), 1, "is a folder, expected a network"),
    ((*DISTILL, "--dataset", "digit"), 1, "did you mean 'digits'"),
    ((*DISTILL, "--matcher", "atm"), 1, "did you mean 'atom'"),
    ((*DISTILL, "--recipe", "atom-papr"), 2, "did you mean 'atom-paper'"),
    ((*DISTILL, "--matcher", "dm", "--p-s", "2"), 2, "it takes the options loss_scale"),
    ((*DISTILL, "--matcher-option", "p_s"), 2, "must be KEY=VALUE"),
    ((*DISTILL, "--matcher-option", "q=1"), 2, "it takes the options p_s"),
    ((*DISTILL, "--matcher-option", "p_s=big"), 2, "p_s"),
    ((*DISTILL, "--p-c", "0.5"), 2, "--p-c must be at least 1"),
    ((*DISTILL, "--p-c", "nan"), 2, "--p-c must be"),
    ((*DISTILL, "--image-lr", "0"), 2, "--image-lr must be above 0"),
    ((*DISTILL, "--image-lr", "inf"), 2, "--image-lr must be"),
    ((*DISTILL, "--image-momentum", "1"), 2, "--image-momentum must be"),
    ((*DISTILL, "--iterations", "0"), 2, "--iterations must be at least 1"),
    ((*DISTILL, "--zca-eps", "0"), 2, "--zca-eps must be above 0"),
    ((*DISTILL, "--no-zca", "--zca-eps", "0.1"), 2, "give one of the two"),
    ((*DISTILL, "--augmentation", "blur"), 2, "unknown augmentation 'blur'"),
    ((*DISTILL, "--image-init", "zeros"), 2, "zeros"),
    ((*DISTILL, "--normalisation", "rms"), 2, "rms"),
    ((*DISTILL, "--depth", "9"), 2, "lower the depth"),
    ((*DISTILL, "--width", "6", "--normalisation", "group"), 2, "multiple of 4"),
    ((*DISTILL, "--precision", "float16"), 2, "float16"),
    ((*DISTILL, "--device", "tpu"), 2, "tpu"),
    ((*DISTILL, "--seed", "-1"), 2, "--seed"),
    ((*DISTILL, "--image-size", "0"), 2, "--image-size must be at least 1"),
    (("distill", "--ipc", "5000", *QUICK), 1, "--ipc"),
    ((*DISTILL, "-o", "good.h5"), 1, "already exists"),
    ((*DISTILL, "-o", "photos"), 1, "is a folder"),
    ((*DISTILL, "-o", "missing/a.h5"), 1, "there is no folder missing"),
    ((*DISTILL, "-o", "good.h5/a.h5"), 1, "not a folder"),
    ((*DISTILL, "-o", "/proc/a.h5"), 1, "cannot be written"),
    ((*DISTILL, "-o", "a.jsonl"), 2, "use .h5"),
    ((*DISTILL, "-o", "mine.h5"), 1, "mine.log.jsonl: exists, is not the log of an earlier run"),
    ((*DISTILL, "-o", "digits-done.h5"), 1, "continue it with --resume"),
    ((*DISTILL, "-o", "digits-done.h5", "--resume"), 1, "delete it to start over"),
    ((*DISTILL, "-o", "foreign.h5", "--resume"), 1, "is not the checkpoint of an earlier run, and is kept"),
    ((*DISTILL, "-o", "nan.h5", "--matcher", "dm", "--image-lr", "1e38", "--iterations", "40"), 1, "lower --image-lr"),
    ((*DISTILL, "--dataset", "folder"), 2, "--data-dir"),
    ((*DISTILL, "--dataset", "folder", "--data-dir", "nowhere"), 1, "nowhere"),
    ((*DISTILL, "--dataset", "folder", "--data-dir", "good.h5"), 2, "good.h5"),
    ((*DISTILL, "--dataset", "folder", "--data-dir", "no-images"), 1, "no-images"),
    ((*DISTILL, "--dataset", "folder", "--data-dir", "corrupt"), 1, "1.png"),
    ((*DISTILL, "--dataset", "folder", "--data-dir", "odd"), 1, "--image-size"),
    (("distill", "--ipc", "3", *QUICK, "--dataset", "folder", "--data-dir", "photos"), 1, "dog"),
    (("select", "--ipc", "0"), 2, "--ipc must be at least 1"),
    (("select", "--ipc", "9999", "--precision", "float32", "-q"), 1, "--ipc"),
    (("select", "--ipc", "1", "--method", "best"), 2, "best"),
    (("select", "--ipc", "1", "--preprocessing-of", "nowhere.h5"), 1, "nowhere.h5"),
    (("select", "--ipc", "1", "--preprocessing-of", "good.h5", "--zca"), 2, "excludes"),
    (("select", "--ipc", "1", "-o", "good.h5"), 1, "already exists"),
    (("store", "show", "nowhere.h5"), 1, "nowhere.h5"),
    (("store", "info", "truncated.h5"), 1, "truncated.h5"),
    (("store", "info", "else.h5"), 1, "else.h5"),
    (("store", "show", "flipped.h5"), 1, "flipped.h5"),
    (("store", "export", "good.h5", "--format", "png", "-o", "a"), 2, "png"),
    (("store", "export", "good.h5", "--format", "npz", "-o", "text.npz"), 1, "already exists"),
    (("store", "merge", "good.h5", "other.h5", "-o", "both.h5"), 2, "preprocessing"),
    (("store", "subset", "good.h5", "--class-ids", "9", "-o", "a.h5"), 2, "9"),
    ((*EVALUATE, "nowhere.h5"), 1, "nowhere.h5"),
    ((*EVALUATE, "empty.h5"), 1, "empty.h5"),
    ((*EVALUATE, "text.h5"), 1, "text.h5"),
    ((*EVALUATE, "else.h5"), 1, "else.h5"),
    ((*EVALUATE, "newer.h5"), 1, "update"),
    ((*EVALUATE, "truncated.h5"), 1, "truncated.h5"),
    ((*EVALUATE, "flipped.h5"), 1, "flipped.h5"),
    ((*EVALUATE, "photos"), 1, "photos"),
    ((*EVALUATE, "good.h5"), 1, "fingerprint"),
    ((*EVALUATE, "good.h5", "--dataset", "digits"), 2, "its classes"),
    ((*EVALUATE, "good.h5", "--dataset", "digits", "--image-size", "9"), 2, "has images of 1x8x8"),
    ((*EVALUATE, "good.h5", "--lr", "0"), 2, "--lr must be above 0"),
    ((*EVALUATE, "good.h5", "--model", "convnet,"), 2, "joined by commas"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "part"), CASES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_one_line_and_the_right_exit_code(inside, capsys, arguments, code, part):
    before = {
        path: path.read_bytes() for path in inside.rglob("*") if path.is_file() and not path.name.startswith("nan")
    }
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if arguments:  # without a command, the help itself is shown
        assert captured.err.count("\n") == 1, captured.err
        assert part in captured.err
        assert "internal error" not in captured.err
    after = {path: path.read_bytes() for path in before}
    assert after == before
    assert not [path for path in inside.rglob("*.h5") if path not in before]
    assert not list(inside.rglob(".*.tmp"))
    if "nan.h5" not in arguments:
        assert {path for path in inside.rglob("*") if path.is_file()} == set(before)


def test_there_are_at_least_forty_of_them():
    assert len(CASES) >= 40


def test_verify_says_on_stdout_which_files_are_wrong(inside, capsys):
    names = ["good.h5", "nowhere.h5", "truncated.h5", "flipped.h5", "else.h5", "newer.h5", "empty.h5", "photos"]
    assert main(["store", "verify", *names]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == names
    assert ["OK" in line for line in lines] == [True] + [False] * 7


def test_resume_with_other_options_is_refused(inside, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    arguments = [*DISTILL, "-o", "a.h5", "--checkpoint-every", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("atom_plugin.store.write", stop)
        assert main(arguments) == 130
    capsys.readouterr()
    assert main([*arguments, "--resume", "--image-lr", "0.25"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "image_lr: 0.25 given, " in error
    assert main([*arguments, "--resume"]) == 0


def test_a_full_disk_is_one_line_and_loses_nothing(inside, capsys):
    if not hasattr(signal, "SIGXFSZ"):
        pytest.skip("no file size limits here")
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = (inside / "good.h5").read_bytes()
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        code = main([*DISTILL, "-o", "good.h5", "--force"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    error = capsys.readouterr().err
    assert code == 1
    assert error.count("\n") == 1
    assert "space" in error.lower() or "too large" in error.lower()
    assert (inside / "good.h5").read_bytes() == kept


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(inside, capsys):
    (inside / "photos").chmod(0o500)
    assert main([*DISTILL, "-o", "photos/a.h5"]) == 1
    assert "permission" in capsys.readouterr().err
