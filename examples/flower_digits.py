"""Federated learning on Flower: ten clients send distilled images of digits, compared with FedAvg of the same network.

pip install -e '.[flower-simulation]' && python examples/flower_digits.py # 80 seconds on two CPU cores
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

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
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.fitting import SGD, Batches, Course, fit
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation

CLIENTS, CONCENTRATIONS, REPORTED = 10, (0.5, 0.05), (1, 5, 10)
LOCAL_EPOCHS, LOCAL_RATE = 5, 0.05
NETWORK = ConvNetConfig(width=32, normalisation="instance")  # of all methods
CPU = torch.device("cpu")
# By round: accuracy, and the bytes that all clients have sent and received until then.
Results = dict[int, tuple[float, int, int]]


def dirichlet_parts(train: Split, classes: int, concentration: float, *, seed: int = 0) -> list[Split]:
    """Divide each class among the clients, in fractions drawn from a symmetric Dirichlet distribution."""
    rng = np.random.default_rng(seed)
    owner = np.zeros(len(train), dtype=int)
    for label in range(classes):
        rows = rng.permutation(np.flatnonzero(train.labels.numpy() == label))
        ends = (rng.dirichlet([concentration] * CLIENTS).cumsum() * len(rows)).round().astype(int)[:-1]
        for client, own in enumerate(np.split(rows, ends)):
            owner[own] = client
    parts = [torch.from_numpy(np.flatnonzero(owner == client)) for client in range(CLIENTS)]
    return [Split(images=train.rows(rows), labels=train.labels[rows]) for rows in parts]


def client_app(parts: dict[float, list[Split]], preprocessing: Preprocessing) -> ClientApp:
    """Clients that distil their part if the server asks for it, and else train the global network on it for FedAvg."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        images = parts[float(message.content["config"]["concentration"])][int(context.node_config["partition-id"])]
        if "distillation" in message.content:
            return answer(message, images, device="cpu")
        network = NETWORK.build(preprocessing.image_shape, 10)
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        pixels, augmentation = preprocessing.forward(images.images), Augmentation(strategy=DEFAULT_STRATEGY)
        batches = Batches(
            count=len(images),
            size=32,
            of=lambda rows, generator: (augmentation.per_sample(pixels[rows], generator), images.labels[rows]),
        )
        if len(images):
            purpose = (int(message.content["config"]["server-round"]), int(context.node_config["partition-id"]))
            fit(
                network,
                batches,
                SGD(lr=LOCAL_RATE).over(network),
                Course(epochs=LOCAL_EPOCHS),
                generator_for(0, *purpose),
            )
        records = {
            "arrays": ArrayRecord(network.state_dict()),
            "metrics": MetricRecord({"num-examples": len(images)}),
        }
        return Message(RecordDict(records), reply_to=message)

    return app


def federate(grid: Grid, strategy: FedAvg, data: SourceData, *, rounds: int, concentration: float) -> Results:
    """Run a strategy, and return after each round its network's test accuracy, and the bytes sent."""
    preprocessing = preprocessing_of(data)

    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        network = NETWORK.build(data.image_shape, 10)
        network.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": accuracy(network, preprocessing, data.test, device=CPU)})

    start = ArrayRecord(NETWORK.build(data.image_shape, 10, generator=generator_for(0, "start")).state_dict())
    asked = ConfigRecord({"concentration": concentration})
    result = strategy.start(grid, start, num_rounds=rounds, train_config=asked, evaluate_fn=evaluate)
    weights, sent, received, results = start.count_bytes() * CLIENTS, 0, 0, {}
    for number in range(1, rounds + 1):
        counted = result.train_metrics_clientapp[number]
        sent += int(counted.get("bytes-received", weights))  # what the server received, the clients sent
        received += int(counted.get("bytes-sent", weights))
        results[number] = (float(result.evaluate_metrics_serverapp[number]["accuracy"]), sent, received)
    return results


def preprocessing_of(data: SourceData) -> Preprocessing:
    """The server's constants, fixed before the first round: typical values of images on the [0, 1] scale."""
    channels = data.image_shape[0]
    return Preprocessing(
        mean=torch.full((channels,), 0.3), std=torch.full((channels,), 0.4), image_shape=data.image_shape
    )


def distillation(data: SourceData, *, iterations: int) -> DistillConfig:
    """The server's request: ten images of each class that a client has, stored as uint8 pixels."""
    given = {"zca": False, "iterations": iterations, "real_batch": 32, "storage": "uint8", "precision": "float32"}
    return DistillConfig.from_recipe("atom", ipc=10, image_shape=data.image_shape, network=asdict(NETWORK), **given)


def strategies(data: SourceData, *, iterations: int, epochs: int) -> dict[str, MergeSets | FedAvg]:
    """Images every round, matched around the global weights, or once, under random networks; real ones once; and weights."""
    everyone: dict[str, Any] = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    rest = {"preprocessing": preprocessing_of(data), "class_names": data.class_names, "device": "cpu", **everyone}
    config = distillation(data, iterations=iterations)
    real = replace(config, iterations=1, image_lr=1e-6)  # images start from real ones, and stay there
    each_round, at_once = (TrainConfig(epochs=count, batch_size=64) for count in (epochs, 2 * epochs))
    return {
        "images": MergeSets(config, each_round, radius=5.0, **rest),
        "images, once": MergeSets(config, at_once, radius=None, **rest),
        "real images, once": MergeSets(real, at_once, radius=None, **rest),
        "weights (FedAvg)": FedAvg(**everyone),
    }


def main(
    run: Callable[[ServerApp, ClientApp], None] | None = None,
    data: SourceData | None = None,
    *,
    rounds: int = 10,
    iterations: int = 30,
    epochs: int = 50,
) -> dict[tuple[float, str], Results]:
    """By concentration and method, the results of each round; ``run`` replaces Flower's simulation."""
    data = data or load_source("digits", SourceRequest())
    parts = {each: dirichlet_parts(data.train, 10, each) for each in CONCENTRATIONS}
    found: dict[tuple[float, str], Results] = {}
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        for concentration in CONCENTRATIONS:
            for name, strategy in strategies(data, iterations=iterations, epochs=epochs).items():
                count = 1 if "once" in name else rounds
                found[concentration, name] = federate(grid, strategy, data, rounds=count, concentration=concentration)

    client = client_app(parts, preprocessing_of(data))
    (run or simulate)(server, client)
    return found


def simulate(server: ServerApp, client: ClientApp) -> None:
    """In Flower's simulation, a client per core."""
    torch.set_num_threads(1)  # of the server; networks of this size gain nothing from another
    run_simulation(server, client, CLIENTS, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})


def print_table(results: dict[tuple[float, str], Results]) -> None:
    """In Markdown: the rounds :data:`REPORTED`, and the last."""
    table = PrettyTable(["Dirichlet", "method", "round", "accuracy, %", "clients sent, kB", "received, kB"])
    table.set_style(TableStyle.MARKDOWN)
    for (concentration, method), by_round in results.items():
        for number in sorted({*REPORTED, max(by_round)} & set(by_round)):
            right, sent, received = by_round[number]
            sizes = (f"{count / 1e3:.0f}" for count in (sent, received))
            table.add_row([concentration, method, number, f"{100 * right:.1f}", *sizes])
    print(table)


if __name__ == "__main__":
    print_table(main())
