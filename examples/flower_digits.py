"""Federated learning on Flower: ten clients send distilled images of digits, beside FedAvg of the same network.

pip install -e '.[flower-simulation]' && python examples/flower_digits.py      # under two minutes on two CPU cores
"""

import os
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from prettytable import PrettyTable, TableStyle

from atom_plugin import DistillConfig, Preprocessing, SourceRequest, TrainConfig, load_source
from atom_plugin.datasets import SourceData, Split
from atom_plugin.evaluation.training import accuracy
from atom_plugin.integrations.flower import MergeSets, answer
from atom_plugin.models.fitting import SGD, Batches, Course, fit
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation

CLIENTS, CONCENTRATIONS, REPORTED = 10, (0.5, 0.05), (1, 5, 10)
LOCAL_EPOCHS = 5
CPU = torch.device("cpu")
Results = dict[
    int, tuple[float, int, int]
]  # by round: accuracy, and the bytes that clients sent and received until then


def dirichlet_parts(train: Split, classes: int, concentration: float, *, seed: int = 0) -> list[Split]:
    """Each class shared out among the clients in shares drawn from a symmetric Dirichlet distribution."""
    rng = np.random.default_rng(seed)
    owner = np.zeros(len(train), dtype=int)
    for label in range(classes):
        rows = rng.permutation(np.flatnonzero(train.labels.numpy() == label))
        ends = (rng.dirichlet([concentration] * CLIENTS).cumsum() * len(rows)).round().astype(int)[:-1]
        for client, own in enumerate(np.split(rows, ends)):
            owner[own] = client
    parts = [torch.from_numpy(np.flatnonzero(owner == client)) for client in range(CLIENTS)]
    return [Split(images=train.rows(rows), labels=train.labels[rows]) for rows in parts]


def client_app(parts: dict[float, list[Split]], preprocessing: Preprocessing, config: DistillConfig) -> ClientApp:
    """Clients that distil their part where the server asks for it, and else train the global network on it for FedAvg."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)  # two clients at a time
        images = parts[float(message.content["config"]["concentration"])][int(context.node_config["partition-id"])]
        if "distillation" in message.content:
            return answer(message, images, device="cpu")
        network = config.network.build(preprocessing.image_shape, 10)
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        pixels, augmentation = preprocessing.forward(images.images), Augmentation(strategy=DEFAULT_STRATEGY)
        batches = Batches(
            count=len(images),
            size=32,
            of=lambda rows, generator: (augmentation.per_sample(pixels[rows], generator), images.labels[rows]),
        )
        if len(images):
            purpose = (int(message.content["config"]["server-round"]), int(context.node_config["partition-id"]))
            fit(network, batches, SGD(lr=0.05).over(network), Course(epochs=LOCAL_EPOCHS), generator_for(0, *purpose))
        records = {
            "arrays": ArrayRecord(network.state_dict()),
            "metrics": MetricRecord({"num-examples": len(images)}),
        }
        return Message(RecordDict(records), reply_to=message)

    return app


def federate(
    grid: Grid, strategy: FedAvg, merging: MergeSets, data: SourceData, *, rounds: int, **asked: float
) -> Results:
    """Run a strategy, and say after each round what its network gets right of the test images, and what was sent for it."""

    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": accuracy(merging.network(arrays), preprocessing, data.test, device=CPU)})

    preprocessing = preprocessing_of(data)
    start = merging.initial_arrays()
    result = strategy.start(
        grid, start, num_rounds=rounds, train_config=ConfigRecord(dict(asked)), evaluate_fn=evaluate
    )
    weights, sent, received, results = start.count_bytes() * CLIENTS, 0, 0, {}
    for number in range(1, rounds + 1):
        counted = result.train_metrics_clientapp[number]
        sent += int(counted.get("bytes-received", weights))  # what the server received, the clients sent
        received += int(counted.get("bytes-sent", weights))
        results[number] = (float(result.evaluate_metrics_serverapp[number]["accuracy"]), sent, received)
    return results


def preprocessing_of(data: SourceData) -> Preprocessing:
    """The server's constants, fixed before anybody sends anything: pixels of digits lie in [0, 1], a third of them black."""
    return Preprocessing(mean=torch.tensor([0.3]), std=torch.tensor([0.4]), image_shape=data.image_shape)


def distillation(data: SourceData, ipc: int) -> DistillConfig:
    """What clients are asked for: images stored as pixels, of a byte each."""
    network = {"width": 32, "normalisation": "instance"}
    return DistillConfig.from_recipe(
        *("atom",), ipc=ipc, image_shape=data.image_shape, network=network, iterations=50, real_batch=32, storage="uint8",
        precision="float32",
    )  # fmt: skip


def main(
    run: Callable[[ServerApp, ClientApp], None] | None = None, *, rounds: int = 10
) -> dict[tuple[float, str], Results]:
    """By concentration and method, what each round reached."""
    data = load_source("digits", SourceRequest())
    preprocessing, few = preprocessing_of(data), distillation(data, ipc=2)
    parts = {each: dirichlet_parts(data.train, 10, each) for each in CONCENTRATIONS}
    found: dict[tuple[float, str], Results] = {}
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        for concentration in CONCENTRATIONS:
            sampling = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
            many = distillation(data, ipc=10)
            training = TrainConfig(epochs=50, batch_size=64)
            around = MergeSets(few, training, preprocessing, data.class_names, radius=2.0, device="cpu", **sampling)
            once = MergeSets(
                many, TrainConfig(epochs=200, batch_size=64), preprocessing, data.class_names, radius=None, device="cpu",
                **sampling,
            )  # fmt: skip
            for name, strategy, count in (
                ("images, around the global weights", around, rounds),
                ("images, once, random networks", once, 1),
                ("FedAvg", FedAvg(**sampling), rounds),
            ):
                found[concentration, name] = federate(
                    grid, strategy, around, data, rounds=count, concentration=concentration
                )

    (run or simulate)(server, client_app(parts, preprocessing, few))
    return found


def simulate(server: ServerApp, client: ClientApp) -> None:
    """In Flower's simulation, a client per core."""
    os.environ.setdefault("RAY_DISABLE_DASHBOARD", "1")
    run_simulation(server, client, CLIENTS, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})


if __name__ == "__main__":
    results = main()
    table = PrettyTable(["Dirichlet", "method", "round", "accuracy, %", "clients sent, kB", "received, kB"])
    table.set_style(TableStyle.MARKDOWN)
    for (concentration, method), by_round in results.items():
        for number in (each for each in REPORTED if each in by_round):
            right, sent, received = by_round[number]
            table.add_row(
                [concentration, method, number, f"{100 * right:.1f}", f"{sent / 1e3:.0f}", f"{received / 1e3:.0f}"]
            )
    print(table)
