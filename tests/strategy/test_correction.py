"""The effect of measured peaks on later estimates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.strategy.correction import MARGIN, correction

peaks = st.floats(min_value=1e3, max_value=1e12)
pairs = st.lists(st.tuples(peaks, peaks), max_size=20)


def test_without_measurements_and_with_exact_ones_nothing_is_corrected():
    assert correction([]) == 1.0
    assert correction([(5.0, 5.0)] * 9) == 1.0


def test_the_more_trials_agree_the_nearer_their_ratio():
    found = [correction([(100, 80)] * n) for n in (1, 4, 16, 1000)]
    assert found == sorted(found, reverse=True)
    assert 0.95 < found[0] < 1
    assert found[1] == pytest.approx(0.8**0.5)  # as many trials as the prior's weigh half
    assert found[-1] == pytest.approx(0.8, rel=0.01)


def test_one_wild_overestimate_moves_little():
    assert correction([(100, 100)] * 8 + [(100, 1)]) == 1.0


@given(pairs)
def test_no_measured_peak_exceeds_its_corrected_estimate_by_more_than_the_margin(seen):
    factor = correction(seen)
    assert all(measured <= factor * estimated * (1 + MARGIN) * (1 + 1e-9) for estimated, measured in seen)


@given(pairs)
def test_the_order_of_trials_does_not_matter(seen):
    assert correction(seen) == correction(seen[::-1])
