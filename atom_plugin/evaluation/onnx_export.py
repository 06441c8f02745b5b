"""Write a trained network as an ONNX file, with preprocessing and softmax, for runtimes other than torch."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import nn

from atom_plugin.errors import MissingExtraError, ModelError
from atom_plugin.evaluation.trained_network import TrainedNetwork
from atom_plugin.runtime.files import write_bytes
from atom_plugin.transforms.preprocessing import Preprocessing

_NEEDED = ("onnx", "onnxscript")


def require_onnx() -> None:
    """Raise MissingExtraError, naming the missing packages, unless torch can export here."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(
            f"an ONNX file needs {' and '.join(missing)}, which are not installed: pip install {' '.join(_NEEDED)}"
        )


def write_onnx(trained: TrainedNetwork, path: Path, *, force: bool) -> None:
    """Write to ``path``: input ``images``, float32 (N, C, H, W) in [0, 1], output ``probabilities`` (N, classes).

    The metadata has the class names as JSON. Raises MissingExtraError as :func:`require_onnx`, ModelError for a network that
    torch cannot export.
    """
    require_onnx()
    whole = _Whole(trained.module, trained.preprocessing).eval()
    example = torch.zeros(2, *trained.preprocessing.image_shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # the exporter tells its progress on stdout
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                whole,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            )
    except Exception as error:  # torch's exporter raises kinds of its own, and those of what it calls
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{trained.model} cannot be exported to ONNX ({type(error).__name__}: {reason}); choose another model, or leave "
            "--onnx out"
        ) from error
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(list(trained.class_names))
    write_bytes(path, proto.SerializeToString(), force=force)


class _Whole(nn.Module):
    """Pixels in [0, 1] to probabilities, with the preprocessing as plain operations that every exporter supports."""

    mean: torch.Tensor
    std: torch.Tensor
    zca_mean: torch.Tensor
    zca_matrix: torch.Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", preprocessing.mean.view(-1, 1, 1))
        self.register_buffer("std", preprocessing.std.view(-1, 1, 1))
        self.whitening = preprocessing.whitening is not None
        if preprocessing.whitening is not None:
            self.register_buffer("zca_mean", preprocessing.whitening.mean)
            self.register_buffer("zca_matrix", preprocessing.whitening.matrix.T.contiguous())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, classes)."""
        prepared = (images - self.mean) / self.std
        if self.whitening:
            flat = prepared.reshape(-1, self.zca_mean.numel()) - self.zca_mean
            prepared = (flat @ self.zca_matrix).reshape(-1, *images.shape[1:])
        logits: torch.Tensor = self.network(prepared)
        return logits.softmax(1)
