"""Many files to one array: order, channels, errors, processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from atom_plugin.datasets import decoding
from atom_plugin.datasets.decoding import decode_all
from atom_plugin.datasets.pixels import Decoding, Pixels
from atom_plugin.errors import SourceError


def files(folder: Path, count: int, *, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> list[str]:
    """Images whose pixels tell their number."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("L", size, number % 256).convert(mode).save(path)
    return [str(path) for path in paths]


def decoded(paths: list[str], *, image_size: int | None = None, workers: int = 1, total_bytes: int = 0) -> Pixels:
    return decode_all(
        paths, total_bytes=total_bytes, decoding=Decoding(image_size=image_size), workers=workers, progress=False
    )


def test_order_is_kept_over_many_chunks(tmp_path: Path) -> None:
    images = decoded(files(tmp_path, 150))
    assert images.shape == (150, 3, 4, 4)
    assert images[:, 0, 0, 0].tolist() == list(range(150))


def test_all_grey_gives_one_channel(tmp_path: Path) -> None:
    assert decoded(files(tmp_path, 70, mode="L")).shape == (70, 1, 4, 4)


@pytest.mark.parametrize("colour_at", [0, 69])
def test_one_colour_image_makes_all_rgb(tmp_path: Path, colour_at: int) -> None:
    paths = files(tmp_path, 70, mode="L")
    Image.new("RGB", (4, 4), (1, 2, 3)).save(paths[colour_at])
    images = decoded(paths)
    assert images.shape == (70, 3, 4, 4)
    assert images[colour_at, :, 0, 0].tolist() == [1, 2, 3]
    assert images[30, :, 0, 0].tolist() == [30, 30, 30]
    assert images[65, :, 0, 0].tolist() == [65, 65, 65]


def test_processes_give_the_same_bytes(tmp_path: Path) -> None:
    paths = files(tmp_path, 130, mode="L")
    Image.new("RGB", (4, 4), (1, 2, 3)).save(paths[100])
    assert decoding._worker_count(3, 130, 10**9, 2) == 2
    assert np.array_equal(decoded(paths, workers=2, total_bytes=10**9), decoded(paths))


def test_errors_come_back_from_processes(tmp_path: Path) -> None:
    paths = files(tmp_path, 130)
    Path(paths[129]).write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match=r"1 image file\(s\) cannot be read: .*0129\.png: damaged, or not an image"):
        decoded(paths, workers=2, total_bytes=10**9)


def test_handed_on_as_they_come_from_any_place_on(tmp_path: Path) -> None:
    paths, whole, parts = files(tmp_path, 140), decoded(files(tmp_path, 140)), []
    decoding.decode_into(parts.append, paths, total_bytes=0, decoding=Decoding(), workers=1, progress=False, skip=70)
    assert [len(part) for part in parts] == [64, 6] and np.array_equal(np.concatenate(parts), whole[70:])


def test_nothing_is_handed_on_after_an_unreadable_file(tmp_path: Path) -> None:
    paths, parts = files(tmp_path, 140), []
    Path(paths[64]).write_bytes(b"")
    with pytest.raises(SourceError, match="1 image file"):
        decoding.decode_into(parts.append, paths, total_bytes=0, decoding=Decoding(), workers=1, progress=False)
    assert [len(part) for part in parts] == [64]


def test_small_jobs_start_no_processes() -> None:
    assert decoding._worker_count(32, 2000, 2_000_000, None) == 1
    assert decoding._worker_count(900, 60_000, 60_000_000, 4) == 4
    assert decoding._worker_count(900, 60_000, 60_000_000, 10_000) == 61
    assert decoding._worker_count(2, 100, 10**9, 8) == 2


def test_every_unreadable_file_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    paths = files(tmp_path, 140)
    whole = Path(paths[3]).read_bytes()
    Path(paths[3]).write_bytes(whole[: len(whole) - 28])
    Path(paths[4]).write_bytes(b"")
    for number in range(130, 138):
        Path(paths[number]).unlink()
    with pytest.raises(SourceError) as caught:
        decoded(paths)
    message = str(caught.value)
    assert message.startswith("10 image file(s) cannot be read: ") and "\n" not in message
    assert paths[3] in message and paths[4] in message and paths[130] in message
    assert "and 5 more" in message and paths[137] not in message


def test_differing_sizes_are_named_with_a_file_each(tmp_path: Path) -> None:
    paths = (
        files(tmp_path / "a", 100) + files(tmp_path / "b", 1, size=(9, 6)) + files(tmp_path / "c", 80, size=(30, 40))
    )
    with pytest.raises(SourceError) as caught:
        decoded(paths)
    message = str(caught.value)
    assert f"4x4 ({paths[64]})" in message or f"4x4 ({paths[0]})" in message
    assert f"9x6 ({paths[100]})" in message
    assert "30x40" in message
    assert "short sides run from 4 to 30 pixels" in message and "--image-size" in message
    assert decoded(paths, image_size=5).shape == (181, 3, 5, 5)


def test_many_differing_sizes_are_cut_short(tmp_path: Path) -> None:
    paths = []
    for side in range(4, 14):
        paths += files(tmp_path / f"{side}", 1, size=(side, side))
    with pytest.raises(SourceError, match="and 5 more; their short sides run from 4 to 13"):
        decoded(paths)


def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path, 70)
    with pytest.raises(SourceError, match=r"70 images of 1000000x1000000 take at least .* GiB"):
        decoded(paths, image_size=1_000_000)
    monkeypatch.setattr(decoding, "machine_memory", lambda: 1000)
    with pytest.raises(
        SourceError, match=r"70 images of 4x4 .* more than this machine has; pass a smaller --image-size"
    ):
        decoded(paths)


def test_large_images_travel_in_small_chunks(tmp_path: Path) -> None:
    paths = files(tmp_path, 3)
    assert decoding._chunk_size(paths, None) == 64
    assert decoding._chunk_size(paths, 512) == 21
    assert decoding._chunk_size(paths, 4000) == 1
    assert decoding._chunk_size(["missing.png"], None) == 64


def test_the_bar_goes_to_stderr_and_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = files(tmp_path, 3)
    decoded(paths)
    assert capsys.readouterr() == ("", "")
    decode_all(paths, total_bytes=0, decoding=Decoding(), workers=1, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("decoding: 3 of 3 images")


def test_a_dying_process_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As if memory had run out: the child ends without a word as soon as it starts.
    monkeypatch.setattr(decoding, "_start_worker", _die)
    images = decoded(files(tmp_path, 130), workers=2, total_bytes=10**9)
    assert images[:, 0, 0, 0].tolist() == list(range(130))
    assert "a decoding process died" in caplog.text


def _die() -> None:
    os._exit(1)


def test_a_script_without_a_guard_still_gets_its_images(tmp_path: Path) -> None:
    files(tmp_path / "images", 130)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from atom_plugin.datasets.decoding import decode_all\nfrom atom_plugin.datasets.pixels import Decoding\n"
        f"paths = sorted(map(str, Path({str(tmp_path / 'images')!r}).iterdir()))\n"
        "print(decode_all(paths, total_bytes=10**9, decoding=Decoding(), workers=2, progress=False).shape)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "(130, 3, 4, 4)\n")
    assert "lacks `if __name__ == '__main__':`" in done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from atom_plugin.datasets.decoding import _start_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), initializer=_start_worker)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().strip()
        assert worker.is_dir()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_libtiffs_remarks_are_counted_and_do_not_reach_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    paths = [tmp_path / f"{number}.tif" for number in range(3)]
    for path in paths:
        Image.fromarray(pixels).save(path, compression="tiff_deflate")
    whole = paths[1].read_bytes()
    # Half of the compressed pixels are overwritten: libtiff complains, and Pillow refuses the file.
    with TiffImagePlugin.TiffImageFile(paths[1]) as image:
        start = image.tag_v2[273][0]
    paths[1].write_bytes(whole[: start + 20] + bytes(40) + whole[start + 60 :])
    with pytest.raises(SourceError, match="1 image file"):
        decoded(list(map(str, paths)))
    assert capfd.readouterr().err == ""
