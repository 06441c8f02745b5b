"""Federation on Flower: what clients send, what the server takes of it, and what it makes of that, without a network."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

flwr = pytest.importorskip("flwr", reason="flwr is not installed; pip install 'atom-plugin[flower]'")

from flower_grid import NODES, StraightGrid  # noqa: E402
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from small import coloured_source, small_config  # noqa: E402

from atom_plugin.datasets import Split  # noqa: E402
from atom_plugin.errors import ConfigError, StoreError  # noqa: E402
from atom_plugin.evaluation.training import accuracy  # noqa: E402
from atom_plugin.evaluation.training_recipes import TrainConfig  # noqa: E402
from atom_plugin.integrations.flower import MergeSets, answer  # noqa: E402
from atom_plugin.store.synthetic_set import SyntheticSet  # noqa: E402
from atom_plugin.transforms.whitening import Whitening  # noqa: E402

DATA = coloured_source(per_class=24)
CONFIG = small_config(storage="uint8")
PREPROCESSING = CONFIG.fit_preprocessing(DATA)
TRAINING = TrainConfig(epochs=60)


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("flwr").disabled = True
    yield
    logging.getLogger("flwr").disabled = False


def part(labels: dict[int, int]) -> Split:
    """So many images of each class."""
    rows = [(DATA.train.labels == label).nonzero().flatten()[:count] for label, count in labels.items()]
    chosen = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    return Split(images=DATA.train.images[chosen], labels=DATA.train.labels[chosen])


PARTS = [part({0: 24, 2: 24}), part({1: 24}), part({0: 24, 1: 24, 2: 1})]


def clients(parts: list[Split]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message, context):
        return answer(message, parts[context.node_config["partition-id"]], device="cpu")

    return app


def merging(config=CONFIG, **given) -> MergeSets:
    sampling = {"fraction_evaluate": 0.0}
    return MergeSets(
        config, TRAINING, PREPROCESSING, DATA.class_names, **{"device": "cpu", "radius": None, **sampling, **given}
    )


def one_round(meddle=lambda asked, reply: reply, *, parts=PARTS, strategy=None):
    strategy = strategy or merging()
    grid = StraightGrid(clients(parts), meddle=meddle)
    result = strategy.start(grid, strategy.initial_arrays(), num_rounds=1)
    return strategy, result, grid


def own_replies(strategy: MergeSets, parts=PARTS) -> list[RecordDict]:
    found = {}

    def keep(asked, reply):
        found[asked.metadata.dst_node_id] = reply.content
        return reply

    one_round(keep, parts=parts, strategy=strategy)
    return [found[node] for node in NODES]  # the strategy asks them in an order of its own


def test_clients_send_their_classes_alone_under_the_server_s_ids():
    replies = own_replies(merging())
    labels = [reply["images"]["labels"].numpy().tolist() for reply in replies]
    assert labels == [
        [0, 0, 2, 2],
        [1, 1],
        [0, 0, 1, 1],
    ]  # of the last one's class 2 there is one image, fewer than ipc
    for reply, images in zip(replies, (48, 24, 48), strict=True):
        sent = reply["images"]["images"].numpy()
        assert (sent.dtype, sent.shape[1:]) == (np.uint8, (3, 8, 8))
        assert reply["metrics"]["num-examples"] == images
        assert reply["metrics"]["bytes"] == reply["images"].count_bytes() > sent.nbytes


def test_the_server_trains_on_the_union_and_counts_bytes():
    strategy, result, grid = one_round()
    union = strategy.union
    assert union.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert union.preprocessing.matches(PREPROCESSING)
    counted = result.train_metrics_clientapp[1]
    assert (counted["clients"], counted["refused"], counted["images"], strategy.refusals) == (3, 0, 10, [])
    assert counted["bytes-received"] > union.image_bytes
    assert counted["bytes-sent"] == sum(record.count_bytes() for each in grid.sent for record in each.content.values())
    before = accuracy(strategy.network(strategy.initial_arrays()), PREPROCESSING, DATA.test, device=torch.device("cpu"))
    after = accuracy(strategy.network(result.arrays), PREPROCESSING, DATA.test, device=torch.device("cpu"))
    assert before < 0.5
    assert after > 0.9


def test_the_union_is_an_ordinary_set(tmp_path):
    strategy, _, _ = one_round()
    strategy.union.save(tmp_path / "union.h5")
    again = SyntheticSet.load(tmp_path / "union.h5")
    assert torch.equal(again.images, strategy.union.images)
    assert len(again.provenance.config["merged"]) == 3


def test_weights_travel_only_where_networks_lie_around_them():
    for radius, expected in ((None, {"config", "distillation"}), (1.0, {"config", "distillation", "arrays"})):
        _, _, grid = one_round(strategy=merging(radius=radius))
        assert {frozenset(each.content) for each in grid.sent} == {frozenset(expected)}


def test_global_weights_and_radius_decide_what_is_matched():
    def images(weights_seed, radius):
        strategy = merging(radius=radius)
        network = CONFIG.network.build((3, 8, 8), 3, generator=torch.Generator().manual_seed(weights_seed))
        grid = StraightGrid(clients(PARTS))
        strategy.start(grid, ArrayRecord(network.state_dict()), num_rounds=1)
        return strategy.union.images

    first = images(0, 1.0)
    assert torch.equal(first, images(0, 1.0))
    assert not torch.equal(first, images(1, 1.0))
    assert not torch.equal(first, images(0, 2.0))
    assert torch.equal(images(0, None), images(1, None)), "random networks know nothing of the global weights"


def test_a_gradient_matcher_sees_the_classifier_s_rows_of_a_client_s_own_classes():
    config = small_config(storage="float16", matcher="dc", network={"normalisation": "batch"})
    strategy, _, _ = one_round(strategy=merging(config, radius=0.5))
    assert strategy.refusals == []
    assert strategy.union.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 2


def test_packed_images_are_merged_and_trained_on():
    strategy, _, _ = one_round(strategy=merging(small_config(factor=2, storage="uint8")))
    assert strategy.refusals == []
    assert (strategy.union.factor, strategy.union.decoded_count) == (2, 40)


def test_the_same_replies_in_any_order_make_the_same_network():
    def weights(nodes):
        strategy = merging(radius=1.0)
        grid = StraightGrid(clients([PARTS[NODES.index(node)] for node in nodes]), nodes)
        return strategy.start(grid, strategy.initial_arrays(), num_rounds=2).arrays

    first, other = weights(NODES), weights(NODES[::-1])
    assert {name: array.data for name, array in first.items()} == {name: array.data for name, array in other.items()}


def test_rounds_draw_anew():
    unions = []
    strategy = merging(config=replace(CONFIG, iterations=2))
    arrays = strategy.initial_arrays()
    for number in (1, 2):
        grid = StraightGrid(clients(PARTS))
        replies = grid.send_and_receive(strategy.configure_train(number, arrays, ConfigRecord(), grid))
        strategy.aggregate_train(number, replies)
        unions.append(strategy.union.images)
    assert not torch.equal(*unions)


# What is refused.


def with_images(change):
    """A reply whose arrays ``change`` has made others."""

    def meddle(content):
        arrays = {name: content["images"][name].numpy().copy() for name in ("images", "labels")}
        content["images"] = ArrayRecord({name: Array(value) for name, value in change(**arrays).items()})

    return meddle


def with_preprocessing(**given):
    def meddle(content):
        content["preprocessing"] = ConfigRecord({**content["preprocessing"], **given})

    return meddle


def with_nan(images, labels):
    images[1, 0, 0, 0] = np.nan
    return {"images": images, "labels": labels}


def with_garbage(content):
    content["images"]["images"] = Array("uint8", (4, 3, 8, 8), "numpy.ndarray", b"no array")


def without(name):
    def meddle(content):
        del content[name]

    return meddle


def images_as(make):
    return with_images(lambda images, labels: {"images": make(images), "labels": labels})


def labels_as(make):
    return with_images(lambda images, labels: {"images": images, "labels": make(labels)})


FLOATS = small_config(storage="float32")


@pytest.mark.parametrize(
    ("config", "meddle", "words"),
    [
        (FLOATS, with_images(with_nan), r"found 1 values that are NaN or infinite"),
        (FLOATS, images_as(lambda images: images * np.inf), r"NaN or infinite"),
        (FLOATS, images_as(lambda images: images * 0 + 1e4), r"found pixels beyond 10 times"),
        (FLOATS, images_as(lambda images: images.astype(np.float64)), r"found images float64 .* expected float32"),
        (CONFIG, images_as(lambda images: images[:, :, :4]), r"found images uint8 \(4, 3, 4, 8\), expected .* 3, 8, 8"),
        (CONFIG, images_as(lambda images: images[0]), r"found images uint8 \(3, 8, 8\)"),
        (CONFIG, labels_as(lambda labels: labels + 1), r"found labels from 1 to 3, expected class ids from 0 to 2"),
        (CONFIG, labels_as(lambda labels: labels.astype(np.int64) - 1), r"found labels from -1 to 1"),
        (CONFIG, labels_as(lambda labels: labels[:3]), r"found labels uint8 \(3,\), expected whole numbers \(4,\)"),
        (CONFIG, labels_as(lambda labels: labels.astype(np.float32)), r"found labels float32"),
        (CONFIG, labels_as(lambda labels: labels * 0), r"found 4 images of one class, expected 2 at most"),
        (CONFIG, with_preprocessing(mean=[0.1, 0.2, 0.3]), r"another preprocessing, mean \[0.1, 0.2, 0.3\], expected"),
        (CONFIG, with_preprocessing(storage="float32"), r"another preprocessing, storage 'float32', expected 'uint8'"),
        (CONFIG, with_garbage, r"the array 'images' cannot be read"),
        (CONFIG, without("images"), r"found no array 'images'"),
        (CONFIG, without("preprocessing"), r"found no record 'preprocessing'"),
    ],
)
def test_a_bad_reply_is_refused_with_id_and_reason_and_the_round_goes_on(caplog, config, meddle, words):
    bad = NODES[0]

    def meddle_one(asked, reply):
        if asked.metadata.dst_node_id == bad:
            meddle(reply.content)
        return reply

    with caplog.at_level(logging.WARNING, "atom_plugin"):
        strategy, result, _ = one_round(meddle_one, strategy=merging(config))
    (refusal,) = strategy.refusals
    assert (refusal.round, refusal.client) == (1, bad)
    assert any(f"client {bad} refused: {refusal.reason}" in record.getMessage() for record in caplog.records)
    with pytest.raises(StoreError, match=words):
        raise StoreError(refusal.reason)
    assert strategy.union.labels.tolist() == [0] * 2 + [1] * 4
    assert (result.train_metrics_clientapp[1]["clients"], result.train_metrics_clientapp[1]["refused"]) == (2, 1)


@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        (lambda asked: None, "dropped out: no reply in time"),
        (lambda asked: Message(Error(2, "its battery\nis empty"), reply_to=asked), "dropped out: its battery is empty"),
    ],
)
def test_a_client_that_drops_out_is_named_and_the_round_goes_on(meddle, words):
    def meddle_one(asked, reply):
        return meddle(asked) if asked.metadata.dst_node_id == NODES[2] else reply

    strategy, result, _ = one_round(meddle_one)
    assert [(each.client, each.reason) for each in strategy.refusals] == [(NODES[2], words)]
    assert result.arrays is not None
    assert len(strategy.union) == 6


def test_a_client_s_own_error_reaches_the_server():
    wrong = Split(images=torch.zeros(9, 1, 4, 4, dtype=torch.uint8), labels=torch.zeros(9, dtype=torch.int64))
    strategy, _, _ = one_round(parts=[*PARTS[:2], wrong])
    assert "this client's images are 1x4x4, the server's 3x8x8; resize them" in strategy.refusals[0].reason
    outside = Split(images=DATA.train.images, labels=DATA.train.labels + 1)
    strategy, _, _ = one_round(parts=[*PARTS[:2], outside])
    assert "labels run from 1 to 3, but the server has 3 classes" in strategy.refusals[0].reason


def test_where_no_client_sends_an_image_the_weights_stay():
    empty = [part({}), part({0: 1}), part({})]
    strategy, result, _ = one_round(parts=empty)
    assert strategy.refusals == []
    assert strategy.union is None
    assert result.train_metrics_clientapp[1]["images"] == 0
    assert not result.arrays


# What cannot be asked.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"config": small_config(image_init="set:mine.h5")}, "files on this machine"),
        ({"config": replace(CONFIG, extend="mine.h5")}, "files on this machine"),
        ({"config": small_config(zca_eps=0.1)}, "ZCA whitening"),
        ({"config": small_config(matching_model="resnet10"), "radius": 1.0}, "'resnet10' and a radius"),
        ({"radius": 0.0}, "radius must be above 0"),
        ({"radius": float("nan")}, "radius must be above 0"),
    ],
)
def test_what_clients_cannot_do_is_refused_before_the_first_round(given, words):
    with pytest.raises(ConfigError, match=words):
        merging(**given)


def test_a_whitened_preprocessing_is_refused():
    whitening = Whitening(mean=torch.zeros(192), matrix=torch.eye(192), eps=0.1)
    with pytest.raises(ConfigError, match="ZCA whitening"):
        MergeSets(CONFIG, TRAINING, replace(PREPROCESSING, whitening=whitening), DATA.class_names, device="cpu")


def messages(strategy: MergeSets, arrays: ArrayRecord) -> list[Message]:
    grid = StraightGrid(clients(PARTS))
    return list(strategy.configure_train(1, arrays, ConfigRecord(), grid))


def test_a_client_refuses_what_it_cannot_read():
    message = messages(merging(), ArrayRecord())[0]
    message.content = RecordDict({"config": ConfigRecord()})
    with pytest.raises(StoreError, match="found no record 'distillation'"):
        answer(message, PARTS[0], device="cpu")
    for name, value in (("config", "{"), ("mean", "grey"), ("image-shape", [3, 8]), ("round", "first")):
        message = messages(merging(), ArrayRecord())[0]
        message.content["distillation"][name] = value
        with pytest.raises(StoreError, match="the server's task cannot be read"):
            answer(message, PARTS[0], device="cpu")
    message = messages(merging(), ArrayRecord())[0]
    del message.content["distillation"]["class-names"]
    with pytest.raises(StoreError, match="class-names"):
        answer(message, PARTS[0], device="cpu")


def test_a_client_refuses_global_weights_that_do_not_fit():
    strategy = merging(radius=1.0)
    with pytest.raises(StoreError, match="global weights do not fit"):
        answer(messages(strategy, ArrayRecord({"a": Array(np.zeros(3))}))[0], PARTS[0], device="cpu")
    state = {
        name: torch.full_like(value, torch.nan)
        for name, value in strategy.network(strategy.initial_arrays()).state_dict().items()
    }
    with pytest.raises(ConfigError, match="NaN or infinite"):
        answer(messages(strategy, ArrayRecord(state))[0], PARTS[0], device="cpu")


def test_a_server_cannot_make_a_client_read_its_files():
    message = messages(merging(), ArrayRecord())[0]
    record = message.content["distillation"]
    record["config"] = str(record["config"]).replace('"image_init": "random"', '"image_init": "set:/etc/passwd"')
    with pytest.raises(ConfigError, match="files on this machine"):
        answer(message, PARTS[0], device="cpu")


# What importing costs.


def test_without_flower_one_line_says_how_to_get_it(tmp_path):
    code = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "flwr":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
import atom_plugin, atom_plugin.integrations
from atom_plugin.errors import MissingExtraError
try:
    import atom_plugin.integrations.flower
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "flwr is not installed; install it with: pip install 'atom-plugin[flower]'\n", done.stderr
