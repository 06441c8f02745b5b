"""A network trained on a set, kept with preprocessing, image size and classes in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atom_plugin.datasets import Split
from atom_plugin.datasets.pixels import Decoding
from atom_plugin.errors import AtomError, ConfigError, StoreError
from atom_plugin.evaluation.architectures import NamedModel, Network, parameters_of
from atom_plugin.evaluation.jobs import Subject, plan_jobs
from atom_plugin.evaluation.running import train_one
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.endings import refuse_other_ending
from atom_plugin.runtime.files import refuse_existing, write_bytes
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.loading import decoding_of
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.own_images import OwnImages
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening

_FORMAT, _VERSION = "atom-plugin/network", 1
_KEY = "atom-plugin"  # the only entry of the file's metadata: safetensors writes several entries in no fixed order
_NETWORK, _PREPROCESSING = "network.", "preprocessing."  # prefixes of tensor names
_SPARE = 1_000_000  # parameters that a network may have beyond twice those in its file


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """``module`` gives logits (N, classes) of preprocessed images; ``class_names[i]`` is the name of class i.

    ``model`` and ``network`` describe the architecture, ``decoding`` how image files are decoded, ``made`` (plain JSON) the
    training and the set.
    """

    module: nn.Module
    model: str
    network: Network
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    decoding: Decoding = field(default_factory=Decoding)
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preprocess(self) -> OwnImages:
        """The transform for images of any size."""
        return OwnImages(preprocessing=self.preprocessing, decoding=self.decoding)

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, classes) on the CPU, for preprocessed images (N, C, H, W)."""
        device = next(self.module.parameters()).device
        batch = images.to(device).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.module.eval()(batch)
        return logits.float().softmax(1).cpu()

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to ``path``, atomically; equal networks give equal bytes. Raises StoreError if writing fails, ConfigError for
        a name with the ending of another kind of file.
        """
        from safetensors.torch import save

        target = Path(path)
        refuse_other_ending(target, "safetensors")
        refuse_existing(target, force=force)
        about = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "model": self.model,
            "network": asdict(self.network),
            "image_shape": list(self.preprocessing.image_shape),
            "class_names": list(self.class_names),
            "zca_eps": self.preprocessing.whitening and self.preprocessing.whitening.eps,
            "decoding": {"bit_depth": self.decoding.bit_depth, "max_pixels": self.decoding.max_pixels},
            "made": dict(self.made),
        }
        data = save(self._tensors(), metadata={_KEY: json.dumps(about, sort_keys=True, allow_nan=False)})
        write_bytes(target, data, force=force)

    @classmethod
    def load(cls, path: str | Path) -> TrainedNetwork:
        """Read a file of :meth:`save`. Raises StoreError for a file that is missing, damaged, or not a network of this
        package.
        """
        about, tensors = _read(Path(path))
        try:
            return _assembled(about, tensors)
        # The contents of a foreign file may have any type; the error is one line.
        except (AtomError, LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(
                f"{path}: is damaged, or of another release ({type(error).__name__}: {reason}); train it again with  atom-cli "
                "consume train"
            ) from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"{_NETWORK}{name}": value for name, value in self.module.state_dict().items()}
        preprocessing = {"mean": self.preprocessing.mean, "std": self.preprocessing.std}
        if (whitening := self.preprocessing.whitening) is not None:
            preprocessing |= {"zca.mean": whitening.mean, "zca.matrix": whitening.matrix}
        tensors |= {f"{_PREPROCESSING}{name}": value for name, value in preprocessing.items()}
        # Copies: safetensors refuses tensors that share memory.
        return {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
        }


# Seven parameters, with the names of `evaluate`.
def train_network(
    synthetic_set: SyntheticSet,
    config: TrainConfig,
    *,
    model: str = "convnet",
    normalisation: str | None = None,
    seed: int = 0,
    device: torch.device,
    precision: str = "float32",
    name: str = "the set",
    on_epoch: Callable[[int], object] | None = None,
) -> TrainedNetwork:
    """Train the first of the networks that an evaluation of the set with these options trains, to keep it.

    Raises ConfigError if the model cannot take the images, DivergenceError if its loss diverges.
    """
    shape = synthetic_set.preprocessing.image_shape
    nothing = Split(images=torch.empty(0, *shape, dtype=torch.uint8), labels=torch.empty(0, dtype=torch.int64))
    subject = Subject(name=name, synthetic_set=synthetic_set, test=nothing, tested_on="")
    (job,) = plan_jobs(
        [subject], [model], config, normalisation=normalisation, repeats=1, seed=seed, precision=precision
    )
    made = synthetic_set.provenance
    return TrainedNetwork(
        module=train_one(job, device=device, on_epoch=on_epoch).float().eval(),
        model=model,
        network=job.cell.network,
        preprocessing=synthetic_set.preprocessing,
        class_names=synthetic_set.class_names,
        decoding=decoding_of(made.source),
        made={
            "training": config.to_json(),
            "seed": seed,
            "precision": precision,
            "set": {"sha256": subject.fingerprint, "method": made.method, "images": len(subject)},
            "versions": package_versions(),
        },
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The file's metadata and its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            about = None if text is None else bounded_json.parse(text)
            if not isinstance(about, dict) or about.get("format") != _FORMAT:
                raise StoreError(
                    f"{path}: has tensors, but is not a network of this package; make one with  atom-cli consume train"
                )
            if about.get("format_version") != _VERSION:
                version = about.get("format_version")
                raise StoreError(f"{path}: has version {version!r} of networks, this release reads {_VERSION}; update")
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileNotFoundError:
        raise StoreError(f"{path}: there is no such file; make it with  atom-cli consume train") from None
    except (SafetensorError, OSError, ValueError) as error:
        if path.is_dir():
            raise StoreError(
                f"{path}: is a folder, expected a network; name a network's file first, then the images"
            ) from None
        if _is_set(path):
            raise StoreError(
                f"{path}: is a set, expected a network; train one on it:  atom-cli consume train {path} -o NAME.safetensors"
            ) from None
        if path.suffix.lower() == ".onnx":
            raise StoreError(
                f"{path}: is an ONNX file, which other runtimes read; give the .safetensors file that it was exported from"
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{path}: cannot be read as a network ({reason}); it is another kind of file, or damaged; make a network with  "
            "atom-cli consume train"
        ) from error


def _is_set(path: Path) -> bool:
    import h5py

    try:
        return bool(h5py.is_hdf5(path))
    except (OSError, ValueError):
        return False


def _assembled(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> TrainedNetwork:
    """Raises various errors for values that do not fit together."""
    channels, height, width = (int(side) for side in about["image_shape"])
    names = tuple(map(str, about["class_names"]))
    preprocessing = _preprocessing((channels, height, width), about["zca_eps"], tensors)
    state = {name.removeprefix(_NETWORK): value for name, value in tensors.items() if name.startswith(_NETWORK)}
    network = _network(about["model"], about["network"])
    asked = parameters_of(network, preprocessing.image_shape, len(names))
    if asked > 2 * sum(value.numel() for value in state.values()) + _SPARE:
        raise StoreError(f"names a network of {asked:,} parameters, more than the file has")
    module = network.build(preprocessing.image_shape, len(names))
    module.load_state_dict(state)
    return TrainedNetwork(
        module=module.to(memory_format=torch.channels_last).eval(),
        model=str(about["model"]),
        network=network,
        preprocessing=preprocessing,
        class_names=names,
        decoding=decoding_of({"options": about["decoding"]}),
        made=dict(about["made"]),
    )


def _network(model: str, stored: Mapping[str, Any]) -> Network:
    return NamedModel(**stored) if "name" in stored else ConvNetConfig.from_json(stored)


def _preprocessing(
    shape: tuple[int, int, int], zca_eps: float | None, tensors: Mapping[str, torch.Tensor]
) -> Preprocessing:
    values = shape[0] * shape[1] * shape[2]
    sizes: dict[str, tuple[int, ...]] = {"mean": (shape[0],), "std": (shape[0],)}
    if zca_eps is not None:
        sizes |= {"zca.mean": (values,), "zca.matrix": (values, values)}
    found = {name: tensors[f"{_PREPROCESSING}{name}"] for name in sizes}
    for name, size in sizes.items():
        own = found[name]
        if own.dtype != torch.float32 or tuple(own.shape) != size or not bool(own.isfinite().all()):
            raise ConfigError(f"its {name} is {own.dtype} {tuple(own.shape)}, expected finite float32 {size}")
    whitening = None
    if zca_eps is not None:
        whitening = Whitening(mean=found["zca.mean"], matrix=found["zca.matrix"], eps=float(zca_eps))
    return Preprocessing(mean=found["mean"], std=found["std"], image_shape=shape, whitening=whitening)
