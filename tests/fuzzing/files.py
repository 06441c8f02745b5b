"""Kinds of damaged files, and the commands that are given them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from fuzzing.values import changed_array, changed_bytes, changed_json, changed_values, json_text, text

from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.network_pool import NetworkPool, flat_weights
from atom_plugin.store import read_header
from atom_plugin.store.codec import encode
from atom_plugin.store.hdf5_writer import serialise
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet, fields_of

PRECISION = ("--precision", "float32")
LOOP = ("--inner-loop", "3", "--network-epochs", "1")
ONCE = ("--epochs", "1", "--repeats", "1", "--batch-size", "16", "--quiet", *PRECISION)
TRAIN = ("--epochs", "1", "--batch-size", "16", "--quiet", *PRECISION)
SMALL = ("--width", "4", "--iterations", "3", "--real-batch", "2", "--quiet", *PRECISION)
RUN = ("distill", "--ipc", "1", *SMALL)
REPLAY = (
    "consume",
    "replay",
    "--ipc",
    "1",
    "--steps",
    "2",
    "--orders",
    "1",
    "--networks",
    "1",
    "--epochs",
    "1",
    *SMALL,
    "--finetune-steps",
    "2",
)
SEARCH = ("--proxy", "none", "--reference", "none", *ONCE)
AUDIT = (
    "--networks",
    "2",
    "--images",
    "40",
    "--no-baseline",
    "--epochs",
    "1",
    "--batch-size",
    "16",
    "--quiet",
    *PRECISION,
)
FORMATS = ("datasetcondensation", "mtt", "idc", "dc-bench", "dd-ranking", "npz", "pt", "folder", "huggingface")

SETS = ("set.h5", "white.h5", "packed.h5", "soft.h5")

Case = list[str]
Kind = Callable[[Path, random.Random], Case]


def prepare(folder: Path, run: Callable[[list[str]], object]) -> None:
    """Sound files of every kind, made once; ``run`` runs a command in ``folder``."""
    run(["select", "--ipc", "1", "--method", "random", "--quiet", "-o", "set.h5", *PRECISION])
    run(["select", "--ipc", "1", "--seed", "1", "--quiet", "--zca", "-o", "white.h5", *PRECISION])
    run(["select", "--ipc", "1", "--factor", "2", "--storage", "uint8", "--quiet", "-o", "packed.h5", *PRECISION])
    run([*RUN, "-o", "run.h5", "--checkpoint-every", "1", *LOOP])
    run(["consume", "evaluate", "set.h5", "--results", "results.jsonl", *ONCE])
    run([*REPLAY, "--policy", "random", "-o", "stream"])
    _save_pool(folder / "run.h5", folder / "net.pool")
    held = SyntheticSet.load(folder / "set.h5")
    soft = SoftLabels(values=3 * held.targets() + 0.5, kind="logits")
    replace(held, soft_labels=soft, learned_lr=0.02).save(folder / "soft.h5")
    for format in FORMATS:
        run(["store", "export", "set.h5", "--format", format, "-o", f"theirs-{format}"])
    run(["store", "export", "soft.h5", "--format", "datm", "-o", "theirs-datm"])
    run(["consume", "train", "white.h5", "-o", "net.safetensors", *TRAIN])
    np.savez(folder / "theirs-arrays.npz", images=held.true_colour().clamp(0, 1).numpy(), labels=held.labels.numpy())
    (folder / "space.toml").write_text(
        'models = ["vgg11"]\n[convnet]\nwidth = [4, 8]\ndepth = 1\nnormalisation = "batch"\n'
    )
    run(["consume", "search", "set.h5", "--space", "space.toml", "--results", "search.jsonl", *SEARCH])
    (folder / "map.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(held.class_names)))


def _save_pool(made: Path, path: Path) -> None:
    """A pool of networks, hardly trained, of the kind that made a set."""
    held = read_header(made)
    network = ConvNetConfig.from_json(held.provenance.config["network"])
    shape = (held.shape[1], held.shape[2], held.shape[3])
    count = len(flat_weights(network.build(shape, len(held.class_names))))
    NetworkPool(
        network=network,
        image_shape=shape,
        classes=len(held.class_names),
        epochs=(0, 1),
        weights=torch.randn(2, 2, count, generator=torch.Generator().manual_seed(0)) / 10,
        accuracies=(0.1, 0.2),
        fingerprint=held.provenance.source["fingerprint"],
        preprocessing=SyntheticSet.load(made).preprocessing.describe(),
        made={},
    ).save(path)


def pool(base: Path, chance: random.Random) -> Case:
    """A pool of networks with some bytes changed, or what it says of itself."""
    Path("net.pool").write_bytes((base / "net.pool").read_bytes())
    if chance.random() < 0.4:
        Path("net.pool").write_bytes(changed_bytes(Path("net.pool").read_bytes(), chance))
    else:
        with h5py.File("net.pool", "r+") as file:
            changed = json_text(changed_json(json.loads(file.attrs["about"]), chance))
            if len(changed) < 60_000:  # an attribute holds no more
                file.attrs["about"] = changed
    return [*RUN, "-o", "out.h5", "--pool", "net.pool"]


def network(base: Path, chance: random.Random) -> Case:
    """A kept network with some bytes changed, or what it says of itself."""
    data = (base / "net.safetensors").read_bytes()
    if chance.random() < 0.4:
        Path("net.safetensors").write_bytes(changed_bytes(data, chance))
    else:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        entries = header["__metadata__"]
        entries["atom-plugin"] = json_text(changed_json(json.loads(entries["atom-plugin"]), chance))
        changed = json.dumps(header).encode()
        body = data[8 + int.from_bytes(data[:8], "little") :]
        Path("net.safetensors").write_bytes(len(changed).to_bytes(8, "little") + changed + body)
    return ["consume", "predict", "net.safetensors", str(base / "theirs-folder"), "--quiet"]


def set_bytes(base: Path, chance: random.Random) -> Case:
    """A set with some bytes changed."""
    data = (base / chance.choice(SETS)).read_bytes()
    Path("in.h5").write_bytes(changed_bytes(data, chance))
    return _use_of_a_set(base, chance)


def set_elements(base: Path, chance: random.Random) -> Case:
    """A set with a right checksum over wrong elements."""
    arrays = dict(encode(fields_of(SyntheticSet.load(base / chance.choice(SETS)))))
    texts = ["provenance/config", "provenance/source", "provenance/versions"]
    for key in chance.sample(list(arrays), chance.choice((1, 1, 2))):
        if key in texts or (texts and chance.random() < 0.4):
            chosen = texts.pop(chance.randrange(len(texts)))
            arrays[chosen] = np.array(json_text(changed_json(json.loads(arrays[chosen].item()), chance)).encode())
        elif chance.random() < 0.1:
            del arrays[key]
        else:
            arrays[key] = changed_array(arrays[key], chance)
    Path("in.h5").write_bytes(serialise(arrays))
    return _use_of_a_set(base, chance)


def set_structure(base: Path, chance: random.Random) -> Case:
    """A set that another program wrote again, or added to."""
    Path("in.h5").write_bytes((base / "set.h5").read_bytes())
    with h5py.File("in.h5", "r+") as file:
        key = chance.choice(["images", "labels", "class_names", "provenance/config", "provenance/seed"])
        data = file[key][()]
        way = chance.randrange(6)
        if way == 0:
            del file[key]
            file.create_dataset(key, data=data, maxshape=(None,) * np.ndim(data) if np.ndim(data) else None)
        elif way == 1:
            del file[key]
            file[key] = h5py.SoftLink("/labels") if chance.random() < 0.5 else h5py.ExternalLink("/etc/passwd", "x")
        elif way == 2:
            del file[key]
            file.create_dataset(key, (2**40,), chance.choice(["<f4", "<i8", "S10"]))
        elif way == 3:
            file.attrs[chance.choice(["format", "checksum", "format_version", "written_by"])] = chance.choice(
                [1, "x", 2.5]
            )
        elif way == 4:
            at = file
            for _ in range(chance.choice((10, 500))):
                at = at.create_group("g")
        else:
            file.create_dataset(key + "_", data=["a"], dtype=h5py.string_dtype())
    return _use_of_a_set(base, chance)


def _use_of_a_set(base: Path, chance: random.Random) -> Case:
    quick = [
        ["store", "info", "in.h5"],
        ["store", "info", "in.h5", "--json"],
        ["store", "verify", "in.h5"],
        ["store", "show", "in.h5", "-o", "out.png"],
        ["report", "in.h5", str(base / "set.h5"), "--embedding", "none", "-o", "out.html"],
        ["store", "merge", "in.h5", str(base / "set.h5"), "-o", "out.h5"],
        ["store", "subset", "in.h5", "--classes", "0,1", "-o", "out.h5"],
        *(["store", "export", "in.h5", "--format", format, "-o", "out"] for format in FORMATS),
        ["store", "export", "in.h5", "--format", "datm", "-o", "out"],
        ["store", "import", str(base / "theirs-mtt"), "--format", "mtt", "--like", "in.h5", "-o", "out.h5"],
    ]
    slow = [
        ["consume", "evaluate", "in.h5", *ONCE],
        ["consume", "evaluate", "in.h5", str(base / "set.h5"), *ONCE, "--csv", "out.csv"],
        ["consume", "score", "in.h5", *ONCE, "--full-accuracy", "0.9"],
        ["consume", "audit", "in.h5", *AUDIT, "--scores", "out.csv"],
        ["consume", "audit", str(base / "set.h5"), *AUDIT, "--shadow", "in.h5"],
        ["store", "show", "in.h5", "--embedding", "pca", "--network-state", "random", "-o", "out.png", *PRECISION],
        [*RUN, "-o", "in.h5", "--resume"],
        [*RUN, "-o", "out.h5", "--image-init", "in.h5"],
        [*REPLAY, "--memory", "in.h5", "-o", "out"],
    ]
    return chance.choice(quick if chance.random() < 0.75 else slow)


def checkpoint(base: Path, chance: random.Random) -> Case:
    """A checkpoint with some bytes or values changed, resumed."""
    data = (base / "kept.checkpoint").read_bytes()
    if chance.random() < 0.3:
        Path("run.checkpoint").write_bytes(changed_bytes(data, chance))
    else:
        torch.save(changed_values(torch.load(base / "kept.checkpoint", weights_only=True), chance), "run.checkpoint")
    return [*RUN, *LOOP, "-o", "run.h5", "--resume"]


def log(base: Path, chance: random.Random) -> Case:
    """A log with a line changed, beside a sound checkpoint."""
    Path("run.checkpoint").write_bytes((base / "kept.checkpoint").read_bytes())
    Path("run.log.jsonl").write_bytes(_changed_lines(base / "run.log.jsonl", chance))
    return [*RUN, *LOOP, "-o", "run.h5", "--resume", "--plot"]


def results(base: Path, chance: random.Random) -> Case:
    """A file of evaluation results with a line changed."""
    Path("results.jsonl").write_bytes(_changed_lines(base / "results.jsonl", chance))
    return ["consume", "evaluate", str(base / "set.h5"), "--results", "results.jsonl", *ONCE]


def searched(base: Path, chance: random.Random) -> Case:
    """A search's space or its file of results, changed."""
    Path("space.toml").write_bytes((base / "space.toml").read_bytes())
    Path("search.jsonl").write_bytes(_changed_lines(base / "search.jsonl", chance))
    if chance.random() < 0.6:
        Path("search.jsonl").unlink()
        written = Path("space.toml").read_text()
        value = chance.choice(
            ["-1", "[[1]]", "9" * 400, "9" * 5000, "nan", "inf", "{}", '"x"', "[]", "[" * 900 + "]" * 900, "1e300"]
        )
        field = chance.choice(["width = ", "depth = ", "normalisation = ", "models = "])
        start = written.index(field)
        end = written.index("\n", start)
        Path("space.toml").write_text(written[:start] + field + value + written[end:])
        if chance.random() < 0.3:
            Path("space.toml").write_bytes(changed_bytes(written.encode(), chance))
    return ["consume", "search", str(base / "set.h5"), "--space", "space.toml", "--results", "search.jsonl", *SEARCH]


def stream(base: Path, chance: random.Random) -> Case:
    """A file of replay results, or the record beside its memories, changed."""
    Path("stream.memory").mkdir()
    for file in (base / "stream.memory").iterdir():
        Path("stream.memory", file.name).write_bytes(file.read_bytes())
    Path("stream.jsonl").write_bytes((base / "stream.jsonl").read_bytes())
    records = [file for file in Path("stream.memory").iterdir() if file.suffix == ".json"]
    if records and chance.random() < 0.3:
        records[0].write_text(json_text(changed_json(json.loads(records[0].read_text()), chance)))
    else:
        Path("stream.jsonl").write_bytes(_changed_lines(base / "stream.jsonl", chance))
    return [*REPLAY, "--policy", "random", "-o", "stream", "--resume"]


def _changed_lines(path: Path, chance: random.Random) -> bytes:
    data = path.read_bytes()
    if chance.random() < 0.2:
        return changed_bytes(data, chance)
    lines = data.splitlines()
    place = chance.randrange(len(lines))
    lines[place] = json_text(changed_json(json.loads(lines[place]), chance)).encode()
    return b"\n".join(lines) + b"\n"


def imported(format: str) -> Kind:
    """A file or folder of another toolkit, with one file changed."""

    def kind(base: Path, chance: random.Random) -> Case:
        source = next(base.glob(f"theirs-{format}*"))
        target = Path("theirs" + source.suffix)
        files = [source] if source.is_file() else sorted(file for file in source.rglob("*") if file.is_file())
        chosen = chance.choice(files)
        for file in files:
            place = target if file == source else target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            data = file.read_bytes()
            place.write_bytes(_changed_file(file, data, chance) if file == chosen else data)
        beside = chance.choice(
            [["--like", str(base / "set.h5")], ["--dataset", "digits"], ["--classes", text(chance)], []]
        )
        extra = chance.choice(
            [
                [],
                [],
                ["--class-map", str(base / "map.txt")],
                ["--option", "soft_labels=argmax"],
                ["--option", "label_kind=scores"],
            ]
        )
        if format in ("npz", "pt") and chance.random() < 0.9:  # which say all of that themselves
            beside, extra = [], []
        return ["store", "import", str(target), "--format", format, "-o", "out.h5", *beside, *_of_argv(extra)]

    kind.__doc__ = f"A file or folder of the format {format} with one file changed."
    return kind


def _changed_file(file: Path, data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.35:
        return changed_bytes(data, chance)
    if file.suffix in (".json", ".jsonl"):
        lines = [data] if file.suffix == ".json" else data.splitlines()
        place = chance.randrange(len(lines))
        lines[place] = json_text(changed_json(json.loads(lines[place]), chance)).encode("utf-8", "surrogatepass")
        return b"\n".join(lines)
    if data.startswith(b"PK"):
        return _changed_archive(file, chance)
    return changed_bytes(data, chance)


def _changed_archive(file: Path, chance: random.Random) -> bytes:
    scratch = Path("scratch")
    try:
        value: Any = torch.load(file, weights_only=True)
    except Exception:
        with np.load(file) as arrays:
            held = dict(arrays)
        key = chance.choice(list(held))
        if key == "provenance" and chance.random() < 0.8:
            held[key] = np.array(json_text(changed_json(json.loads(held[key].item()), chance)))
        elif chance.random() < 0.1:
            del held[key]
        else:
            held[key] = changed_array(held[key], chance)
        with scratch.open("wb") as opened:
            np.savez(opened, **held)
    else:
        torch.save(changed_values(value, chance), scratch)
    data = scratch.read_bytes()
    scratch.unlink()
    return data


def class_map(base: Path, chance: random.Random) -> Case:
    """A class map with something changed, in one of its forms."""
    names = {line.split()[1]: int(line.split()[0]) for line in (base / "map.txt").read_text().splitlines()}
    if chance.random() < 0.5:
        Path("map").write_bytes(changed_bytes((base / "map.txt").read_bytes(), chance))
    else:
        form = chance.choice([names, {str(label): name for name, label in names.items()}, list(names)])
        Path("map").write_text(json_text(changed_json(form, chance)))
    like = chance.choice([[], ["--like", str(base / "set.h5")]])
    constants = [] if like else ["--mean", "0.5", "--std", "0.5"]
    return [
        "store",
        "import",
        str(base / "theirs-mtt"),
        "--format",
        "mtt",
        "-o",
        "out.h5",
        "--class-map",
        "map",
        *like,
        *constants,
    ]


def _of_argv(words: list[str]) -> list[str]:
    return [word for word in words if "\0" not in word]


KINDS: dict[str, tuple[Kind, int]] = {
    "set/bytes": (set_bytes, 6),
    "set/elements": (set_elements, 16),
    "set/structure": (set_structure, 4),
    "checkpoint": (checkpoint, 8),
    "pool": (pool, 3),
    "network": (network, 4),
    "log": (log, 4),
    "results": (results, 5),
    "search": (searched, 3),
    "stream": (stream, 2),
    "class map": (class_map, 3),
    **{f"import/{format}": (imported(format), 2) for format in (*FORMATS, "datm", "arrays")},
}
"""By name: how a case of the kind is made, in the current folder, and how many of it there are among others."""
