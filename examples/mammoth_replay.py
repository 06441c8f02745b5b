"""Continual learning in Mammoth with a memory of distilled images, on one of Mammoth's datasets.

git clone https://github.com/aimagelab/mammoth # and install the requirements in its pyproject.toml PYTHONPATH=mammoth python
examples/mammoth_replay.py seq-mnist --backbone mnistmlp --buffer_size 100 --lr 0.1

Nothing in Mammoth's folder changes: the model is registered here. Its own main.py finds it by a file of one line instead
(docs/continual-learning.md).
"""

import sys

from models import register_model
from utils.notebooks import load_runner
from utils.training import train

from atom_plugin.integrations.mammoth.model import DistilledReplay

register_model("distilled-replay")(DistilledReplay)
# Mammoth looks for the file of a model where it is not told the size of batches.
DEFAULTS = {"batch_size": 32, "n_epochs": 1, "seed": 0, "memory_options": '{"iterations": 100}'}


def main(data: str, **options: object) -> float:
    """Accuracy on all classes after the last task, in percent."""
    model, dataset = load_runner("distilled-replay", data, {**DEFAULTS, **options})
    train(model, dataset, model.args)
    model.memory.save("memory.h5", force=True)  # in Mammoth's folder, where it works; atom-cli store show memory.h5
    accuracies, _ = dataset.evaluate(model, dataset)[:2]
    return sum(accuracies) / len(accuracies)


if __name__ == "__main__":
    data, *words = sys.argv[1:]
    names = (word.removeprefix("--") for word in words[::2])
    print(f"{main(data, **dict(zip(names, words[1::2], strict=True))):.1f} % on all classes")
