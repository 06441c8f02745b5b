import pytest

from atom_plugin.evaluation.spread import sample_std


def test_the_divisor_is_one_less_than_the_count_and_one_value_has_no_spread():
    assert sample_std([1.0, 3.0]) == pytest.approx(2**0.5)
    assert sample_std([0.25]) is None
