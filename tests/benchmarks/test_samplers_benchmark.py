"""The benchmark of samplers asks each of them as a study would."""

from __future__ import annotations

import pytest

from benchmarks.samplers import proposal_ms
from tests.support.paths import ROOT


@pytest.mark.parametrize("sampler", ["curves", "tpe", "grid"])
def test_a_proposal_is_timed_in_a_study_of_that_size(sampler: str):
    assert proposal_ms(ROOT / "spaces" / "smoke.yaml", sampler, 12, num_timed=2) > 0
