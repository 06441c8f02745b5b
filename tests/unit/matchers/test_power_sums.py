import pytest
import torch

from atom_plugin.matchers import power_sums as module
from atom_plugin.matchers.power_sums import power_sums


@pytest.mark.parametrize(
    "powers", [(4.0, 4.0), (1.0, 8.0), (None, 4.0), (2.0, None), (3.0, 1.5), (1.0, 1.0), (8.0, 8.0)]
)
def test_gradients_are_right(powers):
    feature_map = torch.randn(3, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda f: power_sums(f, *powers), feature_map.requires_grad_())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pieces_change_nothing(layout, monkeypatch):
    feature_map = torch.randn(7, 4, 3, 2, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    whole = power_sums(feature_map, 4.0, 2.0)
    monkeypatch.setattr(module, "PIECE_BYTES", 2 * 4 * 3 * 2 * 4)
    torch.testing.assert_close(power_sums(feature_map, 4.0, 2.0), whole, rtol=0, atol=0)
    torch.testing.assert_close(whole[0], feature_map.pow(4).sum(1).flatten(1))
    torch.testing.assert_close(whole[1], feature_map.pow(2).sum((2, 3)))


def test_only_the_asked_for_sums_come_back():
    feature_map = torch.ones(2, 3, 2, 2)
    assert [tuple(item.shape) for item in power_sums(feature_map, 1.0, None)] == [(2, 4)]
    assert [tuple(item.shape) for item in power_sums(feature_map, None, 1.0)] == [(2, 3)]
    assert power_sums(feature_map, None, None) == ()
