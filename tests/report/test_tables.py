"""The table of trials shows what differs between them, and names what it does not show."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli.command import make_console, print_trials
from search.cli.main import app
from search.report.overview import Overview
from search.report.tables import TrialsTable, columns_asked
from search.space.loading import load_space
from search.space.spec import MetricSpec
from search.study.record import TrialRecord
from search.worker.messages import FINISHED
from tests.support.paths import SPACES

HYBRID = load_space(SPACES / "hybrid.yaml")
FIXED = {"d_state": 16, "n_heads": 4}


def overview_of(num_trials: int = 4, *, metrics: tuple[str, ...] = ("loss",)) -> Overview:
    """Of trials of hybrid that differ in all parameters but FIXED."""
    records = []
    for i in range(num_trials):
        values = HYBRID.complete({}) | {name: 10**i / 7 for name in HYBRID.searched} | FIXED
        measured = {"loss": 2.0 + i, "tokens_per_second": 20_000 + i, "peak_vram_bytes": 2**25 + i * 2**21}
        measured |= {"num_params": 260_000 + 1000 * i, "estimated": True, "bits_per_byte": 3.0 + i}
        record = TrialRecord(i, values, FINISHED, preset="balanced" if i == 0 else "", measurements={432_000: measured})
        record.tokens_per_second = 20_000.0 + i
        records.append(record)
    return Overview(
        name="hybrid",
        metrics=tuple(MetricSpec(name=name) for name in metrics),
        records=records,
        continued=[],
        num_trials=num_trials,
        rungs=(432_000,),
        settled=432_000,
        reference_name="balanced",
        searched=tuple(HYBRID.searched),
        parameters=tuple(HYBRID.parameters),
    )


def notes_text(table: TrialsTable) -> str:
    return "\n".join([*table.lines("t"), *table.notes])


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 250])
@pytest.mark.parametrize("metrics", [("loss",), ("loss", "bits_per_byte")])
def test_what_is_not_shown_is_named_and_the_learning_rate_is_shown(width: int, metrics: tuple[str, ...]):
    overview = overview_of(metrics=metrics)
    table = TrialsTable(overview, overview.ranked(), width=width)
    title, headings, *rows = table.lines("t")
    assert max(map(len, rows)) <= width and len({len(row) for row in rows}) == 1
    for name in ("trial", "state", "loss", *(["learning_rate"] if width >= 80 else [])):
        assert name in headings.split()
    notes = " ".join(table.notes)
    for name in (*overview.searched, "tok/s", "peak memory", "params", "tokens", *metrics):
        assert (name in headings) + (name in notes) >= 1, name
    for name in FIXED:
        assert name in headings or f"{name} {FIXED[name]}" in notes
    hidden = [note for note in table.notes if "hidden" in note]
    assert len(hidden) <= 1
    if hidden:
        count, names = hidden[0].split(" column")[0], hidden[0].split(": ")[1].split(";")[0].split(", ")
        assert int(count) == len(names) and "--columns all" in hidden[0]


def test_columns_that_are_the_same_go_first_and_only_where_there_is_no_room():
    overview = overview_of()
    wide, narrow = (TrialsTable(overview, overview.ranked(), width=width) for width in (400, 160))
    assert wide.notes == [] and "n_heads" in next(iter(list(wide.lines("t"))[1:]))
    assert "n_heads 4" in narrow.notes[0] and "d_state 16" in narrow.notes[0]
    assert not any("n_heads" in note for note in narrow.notes if "hidden" in note)
    alone = TrialsTable(overview_of(1), overview_of(1).records, width=60)
    assert not any("the same" in note for note in alone.notes)  # one trial is like no other


def test_columns_are_chosen_by_name_and_in_that_order():
    overview = overview_of()
    for asked in ("learning_rate,params", "learning_rate, num_params"):
        table = TrialsTable(overview, overview.ranked(), width=20, asked=columns_asked(asked))
        assert list(table.lines("t"))[1].split() == ["trial", "state", "loss", "learning_rate", "params"]
        assert table.notes == []
    every = TrialsTable(overview, overview.ranked(), width=20, asked=columns_asked("all"))
    assert set(overview.searched) <= set(list(every.lines("t"))[1].split()) and every.notes == []
    with pytest.raises(ValueError, match="--columns learnin_rate: unknown column .* Did you mean 'learning_rate'"):
        TrialsTable(overview, [], asked=columns_asked("learnin_rate"))


@pytest.mark.parametrize("width", [20, 80, 120])
def test_columns_asked_for_are_printed_whole_however_narrow_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", str(width))
    overview = overview_of()
    table = TrialsTable(overview, overview.ranked(), width=width, asked=columns_asked("all"))
    print_trials(make_console(), table, "title")
    out = capsys.readouterr().out
    assert "…" not in out
    assert [line.split() for line in out.splitlines()] == [line.split() for line in table.lines("title")]


def test_a_study_without_trials_has_a_table():
    overview = overview_of(0)
    assert notes_text(TrialsTable(overview, [], width=80)).startswith("t\ntrial  state")


@pytest.mark.parametrize(
    "words", [["run", str(SPACES / "smoke.yaml")], ["run", str(SPACES / "smoke.yaml"), "--set", "x"]]
)
def test_a_column_that_there_is_not_is_refused_before_the_search(words: list[str], small_text: Path):
    result = CliRunner().invoke(app, [*words, "--columns", "learnin_rate"])
    assert result.exit_code == 2 and "Did you mean 'learning_rate'?" in result.stderr
    assert not Path("runs").exists()
