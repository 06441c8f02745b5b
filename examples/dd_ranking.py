"""Score a set with DD-Ranking's own evaluator, for its hard-label scores: HLR, IOR and LRS.

ddranking 0.2.0 needs numpy below 2, so use a separate environment; atom_plugin can be installed in it:

    python -m venv ddranking && ddranking/bin/pip install ddranking==0.2.0 .
    ddranking/bin/python examples/dd_ranking.py cifar10-atom-ipc10.h5 --real-data data --epochs 20 --repeats 2

``data`` is the folder of torchvision's real images, also for downloads. `atom-cli consume score` measures the same without
ddranking; docs/scores.md lists the differences.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence

import torch
from ddranking.metrics import LabelRobustScoreHard, hard_label
from ddranking.utils import REAL_DATA_ACC_CACHE

from atom_plugin import SyntheticSet
from atom_plugin.evaluation import network_of
from atom_plugin.evaluation.dd_ranking import label_robust_score
from atom_plugin.models.convnet import default_depth
from atom_plugin.store.formats.coding import CIFAR10_FOR_BOTH, convert, standardised


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line; `--help` lists them."""
    parser = argparse.ArgumentParser(description="DD-Ranking's hard-label scores of a set.")
    parser.add_argument("file", help="the set, .h5; its class ids must be those of the data set")
    parser.add_argument("--dataset", choices=["CIFAR10", "CIFAR100", "TinyImageNet"], default="CIFAR10")
    parser.add_argument("--real-data", default="data", help="folder of torchvision's files")
    parser.add_argument(
        "--epochs", type=int, default=300, help="at least 10, because it tests only after every tenth epoch"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, help="learning rate on the set; by default the best of five")
    parser.add_argument(
        "--full-accuracy",
        type=float,
        help="accuracy on all real images, 0 to 1, if you know it; by default it is measured",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate one set and print the scores as JSON; returns them too."""
    options = arguments(argv)
    synthetic = SyntheticSet.load(options.file)
    shape = synthetic.preprocessing.image_shape
    # Out of our preprocessing, ZCA included, and into that of its loader, which takes CIFAR-10's constants for CIFAR-100 too.
    wanted = standardised(CIFAR10_FOR_BOTH[options.dataset.lower()], shape)
    images = convert(synthetic.images, synthetic.preprocessing, wanted)
    batch_norm = network_of(synthetic).normalisation == "batch"
    model = f"ConvNet-{default_depth(shape[1])}{'-BN' if batch_norm else ''}"
    if options.full_accuracy is not None:
        # Its table of known accuracies lacks the ConvNets; it counts in percent.
        REAL_DATA_ACC_CACHE[f"{options.dataset}-{model}"] = 100 * options.full_accuracy
    # 0.2.0 lists every LRS twice and then fails to write its table of unequal columns, after all the work.
    hard_label.save_results = lambda results, path: None
    with tempfile.TemporaryDirectory() as folder:
        scorer = LabelRobustScoreHard(
            dataset=options.dataset,
            real_data_path=options.real_data,
            ipc=synthetic.ipc,
            model_name=model,
            im_size=shape[1:],
            data_aug_func="none",  # any unknown word; "cutmix", its default, moves pixels but not labels
            num_epochs=options.epochs,
            num_eval=options.repeats,
            step_size=max(1, options.epochs // 2),  # has no default that works
            syn_batch_size=options.batch_size,
            num_workers=0,
            device=options.device,
            eval_full_data=options.full_accuracy is None,
            random_data_path=folder,
            save_path=f"{folder}/scores.csv",
        )
        scores = scorer.compute_metrics(image_tensor=images, hard_labels=synthetic.labels, syn_lr=options.lr)
    result = {name: float(value) for name, value in scores.items()}
    # Its own LRS puts percentages into the exponent; this is what the paper's formula gives for the two means.
    hlr, ior = (result[name] / 100 for name in ("hard_label_recovery_mean", "improvement_over_random_mean"))
    result["label_robust_score_on_shares"] = label_robust_score(hlr, ior)
    print(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main()
