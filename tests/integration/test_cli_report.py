"""The page of `atom-cli report`: whole by itself, with hostile names as text, and shown by a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image
from synthetic_sets import make_set

from atom_plugin.cli.main import main

NAMES = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "a & \"b\" 'c' żółw")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PRECISION = ("--precision", "float32", "--device", "cpu")
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What stands in a page: tags with their attributes, the text by the tag that it stands in, and whether all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self._open[-1] if self._open else "", data.strip()))

    def texts(self, tag: str) -> list[str]:
        return [text for where, text in self.words if where == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with its log, a packed one, one with hostile class names whose source is not there, and results."""
    folder = tmp_path_factory.mktemp("made")
    small = ("--iterations", "3", "--width", "8", "--real-batch", "2", "--quiet", *PRECISION)
    assert main(["distill", "--ipc", "1", *small, "-o", str(folder / "a.h5")]) == 0
    packed = ("--factor", "2", "--storage", "uint8", "--quiet", *PRECISION[:2])
    assert main(["select", "--ipc", "2", *packed, "-o", str(folder / "p.h5")]) == 0
    source = {"name": "folder", "options": {"data_dir": "nowhere"}, "fingerprint": "0"}
    make_set(shape=(3, 16, 16), class_names=NAMES, source=source).save(folder / "hostile.h5")
    once = ("--epochs", "1", "--repeats", "2", "--quiet", *PRECISION, "--results", str(folder / "r.jsonl"))
    assert main(["consume", "evaluate", str(folder / "a.h5"), *once]) == 0
    return folder


@pytest.fixture
def inside(inside: Path, made: Path) -> Path:
    for file in made.iterdir():
        (inside / file.name).symlink_to(file)
    return inside


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    drawn_with = () if "none" in arguments else PRECISION
    assert run(capsys, "report", *arguments, "-o", "page.html", "--quiet", *drawn_with) == "page.html\n"
    return Path("page.html").read_text()


def test_the_page_is_whole_and_names_nothing_elsewhere(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = report(capsys, "a.h5", "p.h5", "hostile.h5", "--results", "r.jsonl", "--title", "</title><script>x</script>")
    page = Page(text)
    kinds = [tag for tag, _ in page.tags]
    assert not {"script", "iframe", "object", "embed", "form"}.intersection(kinds)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#")), value
    policy = next(each["content"] for tag, each in page.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "url(" not in text and "@import" not in text
    assert page.texts("title") == ["</title><script>x</script>"] == page.texts("h1")
    assert set(NAMES) <= set(page.texts("th"))
    assert page.texts("h2") == [
        "Sets",
        "Images",
        "Nearest real images",
        "Runs",
        "Results",
        "Among real images",
        "Choices",
    ]
    assert page.texts("h3").count("Packed images, as they are stored") == 1
    assert [name for tag, name in page.words if tag == "figcaption"] == ["a.h5", "a.h5", "p.h5"]
    assert any("are missing" in text and "nowhere" in text for text in page.texts("p"))
    images = [each for tag, each in page.tags if tag == "img"]
    # 10 rows of digits for two sets, 3 of the other; 10 of packed; 2 x 2 x 10 of nearest; loss, chart, two maps.
    assert len(images) == 20 + 3 + 10 + 40 + 4
    assert all(each["alt"] and int(each["width"] or 0) > 0 for each in images)


def test_the_same_page_again_and_one_that_exists(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = report(capsys, "a.h5", "--embedding", "none")
    assert "Among real images" not in first
    assert main(["report", "a.h5", "-o", "page.html", "--quiet"]) == 1
    assert "already exists" in capsys.readouterr().err
    assert report(capsys, "a.h5", "--embedding", "none", "--force") == first


def test_what_was_named_must_be_there(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        (("hostile.h5", "--data-dir", "elsewhere"), "elsewhere"),
        (("a.h5", "--results", "nothing.jsonl"), "no such results file"),
        (("a.h5", "--results", "page.html"), "is the name of page.html"),
        (("nothing.h5",), "nothing.h5"),
    ):
        assert main(["report", *arguments, "-o", "page.html", "--quiet"]) in (1, 2)
        err = capsys.readouterr().err
        assert told in err and len(err.splitlines()) == 1
    assert not Path("page.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_a_browser_shows_it_without_a_complaint(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(capsys, "hostile.h5", "a.h5", "--embedding", "none")
    browser = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={inside / 'profile'}"]
    page = (inside / "page.html").as_uri()
    shown = subprocess.run(
        [*browser, "--enable-logging=stderr", "--window-size=1200,1600", "--screenshot=page.png", page],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 0 and "CONSOLE" not in shown.stderr, shown.stderr
    pixels = np.asarray(Image.open("page.png").convert("RGB"), dtype=int)
    coloured = (pixels.max(2) - pixels.min(2) > 60).mean()
    assert coloured > 0.005, "the images of noise are the only colours on the page, but for links"
    dumped = subprocess.run([*browser, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=False)
    found = Page(dumped.stdout)
    assert set(NAMES) <= set(found.texts("th")) and "script" not in [tag for tag, _ in found.tags]


def test_results_are_shown_as_they_were_measured(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(report(capsys, "a.h5", "--results", "r.jsonl", "--embedding", "none"))
    values = [json.loads(line)["accuracy"] for line in Path("r.jsonl").read_text().splitlines()]
    assert any(text.startswith(f"{100 * sum(values) / 2:.2f} ±") for text in page.texts("td"))
