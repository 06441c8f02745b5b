"""Options in files: `--config` takes them from TOML or from a set, `--print-config` writes them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import run
from small import save_untrained_pool
from synthetic_sets import make_set

from atom_plugin.cli.main import main
from atom_plugin.distillation.recipes import RECIPES
from atom_plugin.store import read_header

QUICK = ("--ipc", "1", "--width", "8", "--iterations", "2", "--real-batch", "4", "--quiet", "--precision", "float32")
SHARED = """
quiet = true

[distill]
ipc = 1
iterations = 3
width = 8
real-batch = 4
precision = "float32"
[distill.matcher-option]
p_s = 2

[select]
ipc = 1
precision = "float32"
method = "herding"

[consume]
seed = 5
[consume.evaluate]
models = ["convnet", "vgg11"]
full = true
full-epochs = 3
"""


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a wrong usage."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return str(err)


def written(text: str) -> str:
    Path("mine.toml").write_text(text)
    return "mine.toml"


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What --print-config writes."""
    assert main([*map(str, arguments), "--print-config"]) == 0
    return capsys.readouterr().out


def test_one_file_serves_several_commands_and_flags_win_over_it(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(SHARED)
    run(capsys, "distill", "--config", config, "--iterations", 2, "-o", "set.h5")
    made = read_header("set.h5").provenance.config
    assert (made["iterations"], made["network"]["width"], made["matcher_options"]["p_s"]) == (2, 8, 2)
    run(capsys, "select", "--config", config)
    assert Path("digits-herding-ipc1.h5").is_file()
    text = printed(capsys, "consume", "evaluate", "set.h5", "--config", config, "--full-epochs", 4)
    lines = text.splitlines()
    assert lines[0] == "[consume.evaluate]"
    assert {'models = "convnet,vgg11"', "full = true", "full-epochs = 4", "seed = 5", "quiet = true"} < set(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iteratons = 3", "mine.toml: no option is called 'iteratons'; did you mean 'iterations'?"),
        ("image_lr = 1", "did you mean 'image-lr'?"),
        ("[distill]\nresum = true", "did you mean 'resume'?"),
        ("[distil]\nipc = 1", "no table or option is called 'distil'; did you mean 'distill'?"),
        ("config = 'a.toml'", "no option is called 'config'"),
        ("ipc = 0", "mine.toml: --ipc must be at least 1, not 0"),
        ("ipc = 2.0", "mine.toml: --ipc must be a whole number, not '2.0'"),
        ("ipc = true", "--ipc must be a whole number, not 'true'"),
        ("ipc = [1, 2]", "--ipc must be a whole number, not '1,2'"),
        ("ipc = 2026-01-01", "--ipc must be a whole number, not '2026-01-01'"),
        ("image-lr = nan", "mine.toml: found the number nan"),
        ("force = 'maybe'", "mine.toml: Invalid value for '--force': 'maybe'"),
        ("storage = 'int4'", "mine.toml: Invalid value for '--storage': 'int4' is not one of"),
        ("matcher-option = 'p_s'", "mine.toml: --matcher-option must be KEY=VALUE, not 'p_s'"),
        ("initialiser = 'noise'\nimage-init = 'noise'", "mine.toml: image-init is given twice"),
        ("seeds = '0-2'\nseed = 1", "--seed and --seeds contradict each other"),
        ("ipc =", "mine.toml: is not TOML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    inside: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    assert words in refused(capsys, "distill", "--config", written(f"{text}\n"), "--ipc", 1)


@pytest.mark.parametrize("name", ["nowhere.toml", ".", "~/nowhere.h5"])
def test_a_file_that_cannot_be_read_is_refused(inside: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    told = refused(capsys, "distill", "--config", name)
    assert "cannot be read" in told and "~" not in told


def test_an_option_of_which_one_alone_is_taken_stands_in_place_of_the_files(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written("ipc = 1\nseed = 7\nzca-eps = 0.2\n")
    text = printed(capsys, "distill", "--config", config, "--seeds", "1-2", "--no-zca")
    assert 'seeds = "1-2"' in text and "zca = false" in text
    assert "seed = 7" not in text and "zca-eps" not in text


@pytest.mark.auto_precision("float32")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_printed_config_holds_what_the_recipe_said_and_is_read_back_the_same(
    inside: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    needs = ("--pool", save_untrained_pool(Path("a.pool"), (1, 8, 8))) if recipe == "mtt-code" else ()
    text = printed(capsys, "distill", "--ipc", 1, "--recipe", recipe, *needs)
    assert "iterations = " in text and "normalisation = " in text and f'recipe = "{recipe}"' in text
    assert printed(capsys, "distill", "--config", written(text)) == text


@pytest.mark.parametrize(
    "command",
    [
        ("select", "--ipc", 2, "--method", "herding", "--embedding", "trained:3"),
        ("pool", "make", "--width", 8, "--zca"),
        ("store", "show", "set.h5", "--classes", "é,'", "--classes", 'a"b\\', "--embedding", "pca"),
        (
            "store",
            "import",
            "set.npz",
            "--format",
            "npz",
            "--option",
            "zca=true",
            "-o",
            "a\x7f\u200b\N{PARTY POPPER}.h5",
        ),
        ("store", "subset", "set.h5", "--ipc", 1, "-o", "~/a.h5"),
        ("consume", "evaluate", "set.h5", "--training-recipe", "modern", "--augmentation", "none,siamese", "--json"),
        ("consume", "search", "set.h5", "--proxy", "none", "--reference", "best:3", "--pick", "depth=3,width=64|128"),
        ("consume", "audit", "set.h5", "--no-baseline", "--shadow", "a.h5", "--shadow", "b.h5"),
        ("consume", "replay", "--ipc", 1, "--policy", "atom", "--policy", "random", "--no-asymmetric-loss"),
        ("report", "set.h5", "-o", "page.html", "--embedding", "none"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_what_is_printed_is_read_back_as_the_same_run(
    inside: Path, capsys: pytest.CaptureFixture[str], command: tuple[Any, ...]
) -> None:
    text = printed(capsys, *command)
    arguments = [word for word in command[:3] if word in ("set.h5", "set.npz")]
    path = text.splitlines()[0].strip("[]").split(".")
    assert printed(capsys, *path, *arguments, "--config", written(text)) == text
    for label, value in itertools.pairwise(command):
        if str(label).startswith("--") and not str(value).startswith("--"):
            assert f"\n{str(label)[2:]} = " in text


def test_a_name_that_toml_cannot_hold_is_told(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "TOML cannot represent" in refused(capsys, "select", "--ipc", "1", "-q", "-o", "\udcff.h5", "--print-config")


def test_a_set_hands_back_its_config(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        capsys,
        "distill",
        *QUICK,
        "--zca",
        "--pooling",
        "none",
        "--validation",
        "0.2",
        "--split-seed",
        "3",
        "-o",
        "a.h5",
    )
    run(capsys, "distill", "--config", "a.h5", "--quiet", "-o", "b.h5")
    assert Path("a.h5").read_bytes() == Path("b.h5").read_bytes()
    run(capsys, "distill", "--config", "a.h5", "--quiet", "--no-zca", "--seeds", "0,4", "-o", "c.h5")
    made = read_header("c-seed4.h5")
    assert (made.zca_eps, made.provenance.seed, made.provenance.config["iterations"]) == (None, 4, 2)
    run(capsys, "select", "--ipc", 2, "--quiet", "--method", "herding", "--precision", "float32", "-o", "d.h5")
    run(capsys, "select", "--config", "d.h5", "--quiet", "-o", "e.h5")
    assert Path("d.h5").read_bytes() == Path("e.h5").read_bytes()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("select", "distilled.h5: was made by `distill`, and has no options of `select`"),
        ("distill", "merged.h5: was made in another way"),
        ("distill", "foreign.h5: was made in another way"),
        ("distill", "broken.h5"),
    ],
)
def test_a_set_without_options_of_the_command_is_refused(
    inside: Path, capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    name = words.partition(":")[0]
    if name == "foreign.h5":
        make_set(config={}).save(name)
    else:
        run(capsys, "distill", *QUICK, "-o", "distilled.h5")
        run(capsys, "store", "merge", "distilled.h5", "distilled.h5", "-o", "merged.h5")
        Path("broken.h5").write_bytes(Path("distilled.h5").read_bytes()[:-500])
    assert words in refused(capsys, command, "--config", name)


def test_a_sweep_makes_a_set_for_each_seed_and_says_how_to_pool_them(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "distill", *QUICK, "--seed", 1)
    out = run(capsys, "distill", *QUICK, "--seeds", "0-1", "--resume", "--tensorboard", "board")
    names = ["digits-atom-ipc1.h5", "digits-atom-ipc1-seed1.h5"]
    assert out.splitlines()[-1].endswith(f": atom-cli consume evaluate {' '.join(names)}")
    assert [read_header(name).provenance.seed for name in names] == [0, 1]
    run(capsys, "select", "--ipc", 1, "--seeds", "2,1", "-q", "--precision", "float32", "-o", "real.h5")
    assert {"real-seed2.h5", "real-seed1.h5"} < {path.name for path in inside.iterdir()}
    assert main(["select", "--ipc", "1", "--seeds", "1,3", "-q", "--precision", "float32", "-o", "real.h5"]) == 1
    assert "real-seed1.h5" in capsys.readouterr().err
    assert not Path("real-seed3.h5").exists()  # nothing is made where a file is in the way
    assert "--seed and --seeds contradict" in refused(capsys, "select", "--ipc", 1, "--seed", 0, "--seeds", "1")


def test_the_package_runs_as_a_module_and_completes_for_every_shell() -> None:
    python = [sys.executable, "-m", "atom_plugin"]
    assert (
        "atom-cli, version" in subprocess.run([*python, "--version"], capture_output=True, text=True, check=True).stdout
    )
    for shell, words in (("bash", "complete -o nosort"), ("zsh", "compdef _atom_cli"), ("fish", "complete --no-files")):
        done = subprocess.run(
            python, env={"_ATOM_CLI_COMPLETE": f"{shell}_source"}, capture_output=True, text=True, check=True
        )
        assert words in done.stdout and "atom-cli" in done.stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("atom-cli dis", "plain,distill\n"),
        ("atom-cli distill --ima", "plain,--image-size\nplain,--image-lr\nplain,--image-momentum\n"),
        ("atom-cli distill --config nowhere.toml --dtype", ""),
        ("atom-cli nonsense --x", ""),
    ],
)
def test_a_word_is_completed_and_nothing_is_printed_where_none_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, answer: str
) -> None:
    monkeypatch.setenv("_ATOM_CLI_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    out, err = capsys.readouterr()
    assert (out.startswith(answer) if answer else not out.strip()) and err == ""
