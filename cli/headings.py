"""The headings of options in help: an option has the same heading in every command."""

from __future__ import annotations

import click

OTHER = "Other options"
_UNDER = {
    "Data": "dataset data_dir image_size download test_fraction split_seed cache_dir class_order bit_depth max_pixels "
    "follow_links skip_unreadable validation keep_paths zca preprocessing_of on classes class_ids format_ "
    "list_formats option like class_map mean std method experiment trust_pickle pixels images baseline shadow "
    "proxy reference reference_ipc test_best steps orders",
    "Images": "ipc factor storage memory distill policies baselines",
    "Matching": "recipe matcher matcher_option list_matchers list_recipes",
    "Networks": "models model list_models normalisation width networks repeats space pick sample network_state "
    "full full_repeats modes every",
    "Optimisation": "iterations real_batch training_recipe epochs batch_size lr schedule augmentation cutmix labels "
    "temperature learned_lr full_epochs full_accuracy halving memory_augmentation stream_augmentation asymmetric_loss "
    "finetune_steps memory_labels logit_weight separate_normalisation",
    "Output": "output results csv_file chart scores picture onnx plot preview_every evaluate_every checkpoint_every "
    "tensorboard tracker resume force embedding per_class title top weight markdown latex dry_run as_json quiet",
    "Machine": "seed seeds device precision engine workers",
    OTHER: "config print_config help help_all",
}
HEADINGS = tuple(_UNDER)
"""In the order of the help."""
_HEADING = {name: heading for heading, names in _UNDER.items() for name in names.split()}


def heading(option: click.Parameter) -> str:
    """The heading of the config's field that the option is made from, or else of its parameter's name."""
    return getattr(option, "heading", None) or _HEADING.get(str(option.name), OTHER)
