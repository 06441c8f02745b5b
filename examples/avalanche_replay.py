"""Continual learning on Avalanche with a memory of distilled images: five steps of two digits each, with the accuracy after
each step.

pip install -e '.[avalanche]' && python examples/avalanche_replay.py # half a minute on two CPU cores
"""

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from atom_plugin import DistillConfig, SourceRequest, load_source
from atom_plugin.integrations.avalanche import SyntheticMemory, SyntheticReplay, benchmark
from atom_plugin.replay.memory import Budget
from atom_plugin.replay.suppliers import DistillingSupplier
from atom_plugin.transforms.preprocessing import Preprocessing


def main() -> list[float]:
    """The accuracy on all classes seen, after each step."""
    torch.manual_seed(0)  # Avalanche shuffles with torch's global generator
    data = load_source("digits", SourceRequest())
    steps = benchmark.split_classes(benchmark.class_order(10, 0), 5)
    preprocessing = Preprocessing.fit(data.train.images, standardise=True)
    stream = benchmark.make_benchmark(data, steps, preprocessing)

    memory = SyntheticMemory(
        Budget(ipc=5),
        DistillingSupplier(overrides={"iterations": 100}),
        source=data,
        stream_preprocessing=preprocessing,
    )
    network = DistillConfig.from_recipe("atom", ipc=5, image_shape=data.image_shape).network
    model = network.build(data.image_shape, 10, generator=torch.Generator().manual_seed(0))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=64,
        train_epochs=5,
        eval_mb_size=256,
        plugins=[SyntheticReplay(memory)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[BaseLogger()]),
    )
    curve = []
    for step, experience in enumerate(stream.train_stream):
        strategy.train(experience)
        metrics = strategy.eval(stream.test_stream[: step + 1])
        curve.append(float(metrics["Top1_Acc_Stream/eval_phase/test_stream"]))
    memory.save("memory.h5", force=True)  # an ordinary set: atom-cli store show memory.h5
    return curve


if __name__ == "__main__":
    for step, accuracy in enumerate(main(), start=1):
        print(f"{2 * step:2d} classes  {100 * accuracy:5.1f} %  {'#' * round(50 * accuracy)}")
