import inspect

import pytest
import torch
from synthetic_sets import make_set

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.integrations import dc_bench
from atom_plugin.integrations.dc_bench import AtomDataLoader, load

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def stored(root, dataset="CIFAR10", *, classes=10, ipc=2, side=32, method="ATOM", name="set.h5", **options):
    """A set where DC-BENCH looks for it."""
    made = make_set(classes=classes, ipc=ipc, shape=(3, side, side), **options)
    folder = root / method / dataset / f"IPC{ipc}"
    folder.mkdir(parents=True, exist_ok=True)
    made.save(folder / name, force=True)
    return made


@pytest.mark.parametrize("zca", [False, True])
def test_images_are_true_colours_under_the_benchmark_s_constants(tmp_path, monkeypatch, zca):
    monkeypatch.setitem(dc_bench._DATASETS, "CIFAR10", (10, 8))  # a ZCA of 3x32x32 takes seconds to invert
    made = stored(tmp_path, side=8, zca=zca)
    images, labels = AtomDataLoader.load_data(str(tmp_path), "CIFAR10", 2, "set.h5")
    assert (images.shape, images.dtype) == ((20, 3, 8, 8), torch.float32)
    assert (labels.dtype, labels.tolist()) == (torch.int64, [k for k in range(10) for _ in range(2)])
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in CIFAR10)
    pixels = made.images.double()
    if zca:
        zca_mean, matrix = made.preprocessing.whitening.mean.double(), made.preprocessing.whitening.matrix.double()
        pixels = (torch.linalg.solve(matrix, pixels.flatten(1).T).T + zca_mean).view(images.shape)
    ours = (values.double().view(3, 1, 1) for values in (made.preprocessing.std, made.preprocessing.mean))
    expected = (pixels * next(ours) + next(ours) - mean) / std
    torch.testing.assert_close(images.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dataset", "classes", "side", "constants"),
    [("CIFAR10", 10, 32, CIFAR10), ("CIFAR100", 100, 32, CIFAR100), ("tinyimagenet", 200, 64, IMAGENET)],
)
def test_each_data_set_has_its_constants(tmp_path, dataset, classes, side, constants):
    made = stored(tmp_path, dataset, classes=classes, ipc=1, side=side)
    images, labels = AtomDataLoader.load_data(tmp_path, dataset, 1, "set.h5")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in constants)
    torch.testing.assert_close(images * std + mean, made.true_colour(), rtol=1e-5, atol=1e-6)
    assert len(labels) == classes


def test_the_benchmark_s_own_calls_work(tmp_path):
    """As its evaluator calls: a loader object, its file name, its data set of float images and labels."""
    name = AtomDataLoader.get_data_file_name("atom", "CIFAR10", 2)
    assert name == "cifar10-atom-ipc2.h5"
    stored(tmp_path, name=name)
    data_loader = AtomDataLoader()
    assert isinstance(inspect.getattr_static(AtomDataLoader, "load_data"), staticmethod)
    assert list(inspect.signature(data_loader.load_data).parameters) == ["root_dir", "dataset", "ipc", "data_file"]
    images, labels = data_loader.load_data(str(tmp_path), "CIFAR10", 2, name)
    held = torch.utils.data.TensorDataset(images.detach().float(), labels.detach())
    batch, targets = next(iter(torch.utils.data.DataLoader(held, batch_size=256, shuffle=True, num_workers=0)))
    logits = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))(batch)
    torch.nn.CrossEntropyLoss()(logits, targets).backward()


def test_other_methods_lie_in_folders_of_their_own(tmp_path):
    stored(tmp_path, method="DATADAM", pixels=1)
    stored(tmp_path, method="ATOM", pixels=2)
    images = [load(tmp_path, method, "CIFAR10", 2, "set.h5")[0] for method in ("DATADAM", "ATOM")]
    assert not torch.equal(*images)


def test_what_does_not_fit_is_one_line(tmp_path):
    stored(tmp_path, ipc=2)
    stored(tmp_path, ipc=3, side=16)
    stored(tmp_path, ipc=4, classes=9)
    stored(tmp_path, ipc=5)
    (tmp_path / "ATOM/CIFAR10/IPC5").rename(tmp_path / "ATOM/CIFAR10/IPC6")
    uneven = torch.arange(10).repeat_interleave(2)[1:]
    stored(tmp_path, ipc=7, labels=uneven)
    for dataset, ipc, error, part in [
        ("cifar10", 2, ConfigError, "no dataset 'cifar10'; it has CIFAR10, CIFAR100, tinyimagenet"),
        ("CIFAR10", 1, StoreError, "IPC1"),
        ("CIFAR10", 3, ConfigError, "holds images of 3x16x16, CIFAR10 has 3x32x32"),
        ("CIFAR10", 4, ConfigError, "holds 0 to 4 images in each of 10 classes, expected 4 in each of 10"),
        ("CIFAR10", 6, ConfigError, "holds 5 images in each of 10 classes, expected 6"),
        ("CIFAR10", 7, ConfigError, "holds 1 to 2 images"),
        ("CIFAR100", 2, StoreError, "CIFAR100"),
    ]:
        with pytest.raises(error) as caught:
            AtomDataLoader.load_data(tmp_path, dataset, ipc, "set.h5")
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
