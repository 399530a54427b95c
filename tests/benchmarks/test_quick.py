"""The benchmark of the quick searches: what its table says, and that docs/results.md has the table it prints."""

from __future__ import annotations

from benchmarks.quick import GUIDES, HEADINGS, row, table
from search.report.overview import Overview
from search.space.spec import MetricSpec
from search.study.record import TrialRecord
from tests.support.paths import ROOT

RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def trial(number: int, loss: float, preset: str = "", **more) -> TrialRecord:
    shared = {"tokens_per_second": 1234.5, "peak_vram_bytes": 3 * 2**20, "estimated": True, "num_params": 12_345}
    measurements = {
        tokens: {"loss": loss + extra, "bits_per_byte": (loss + extra) / 2, **shared, **more}
        for tokens, extra in ((1000, 1.0), (3000, 0.0))
    }
    return TrialRecord(number=number, values={}, outcome="finished", preset=preset, measurements=measurements)


def overview(*records: TrialRecord) -> Overview:
    return Overview(
        name="s",
        metrics=(MetricSpec.of("loss"),),
        records=list(records),
        continued=[],
        num_trials=len(records),
        rungs=(1000, 3000),
        settled=3000,
        reference_name="tiny",
        searched=(),
    )


def test_a_row_has_the_winner_and_the_reference_at_the_same_tokens():
    texts = row("mine", overview(trial(0, 4.0, "tiny"), trial(1, 3.0), trial(2, 3.5)), 61)
    assert list(texts.values()) == [
        "mine", "3K", "trial 1, 12.3K parameters", "1.500", "tiny", "2.000", "-25.0%", "1,234", "3 MiB~", "1 min 01 s"
    ]  # fmt: skip


def test_a_reference_that_nothing_beats_is_its_own_winner_and_a_measured_peak_has_no_mark():
    texts = row("mine", overview(trial(0, 4.0, "tiny", estimated=False), trial(1, 5.0)), 1)
    assert (texts["winner"], texts["change"]) == ("trial 0 (tiny), 12.3K parameters", "+0.0%")
    assert texts["peak memory"] == "3 MiB"


def test_the_results_have_the_table_of_all_four_guides():
    heading, rule = table([]).split("\n")
    assert f"{heading}\n{rule}\n" in RESULTS
    rows = RESULTS.partition(f"{rule}\n")[2].split("\n\n")[0].split("\n")
    found = [dict(zip(HEADINGS, line.strip("| ").split(" | "), strict=True)) for line in rows]
    assert [texts["space"] for texts in found] == list(GUIDES)
    assert all(float(texts["bits/byte"]) < float(texts["its bits/byte"]) for texts in found)
