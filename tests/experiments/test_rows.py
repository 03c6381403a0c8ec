"""The table of an experiment: what is written is read back, torn lines are dropped."""

import dataclasses

import pytest

from rows import COLUMNS, append_row, read_rows, sort_rows
from tests.experiments.samples import ROW


def test_round_trip_with_commas_and_quotes(tmp_path):
    table = tmp_path / "results" / "t.csv"
    append_row(table, ROW)
    append_row(table, dataclasses.replace(ROW, seed=4, relation_ok=False))
    assert read_rows(table) == [ROW, dataclasses.replace(ROW, seed=4, relation_ok=False)]
    assert table.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_line_breaks_in_a_verdict_do_not_break_the_table(tmp_path):
    append_row(tmp_path / "t.csv", dataclasses.replace(ROW, verdict="left:\nred cube"))
    assert read_rows(tmp_path / "t.csv") == [ROW]


@pytest.mark.parametrize("cut", [1, 20])
def test_torn_last_line_is_dropped_and_the_next_row_is_whole(tmp_path, cut):
    table = tmp_path / "t.csv"
    append_row(table, ROW)
    append_row(table, dataclasses.replace(ROW, seed=4))
    table.write_text(table.read_text()[:-cut])
    assert read_rows(table) == [ROW]
    append_row(table, dataclasses.replace(ROW, seed=5))
    assert [row.seed for row in read_rows(table)] == [3, 5]


def test_torn_header_starts_again(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("method,capt")
    assert read_rows(table) == []
    append_row(table, ROW)
    assert read_rows(table) == [ROW]


def test_table_of_another_version_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("method,score\nsds,1\n")
    with pytest.raises(ValueError, match="move it away"):
        read_rows(tmp_path / "t.csv")


def test_sorted_by_the_plan(tmp_path):
    table = tmp_path / "t.csv"
    rows = [dataclasses.replace(ROW, seed=seed) for seed in (2, 0, 1)]
    for row in rows:
        append_row(table, row)
    sort_rows(table, [(ROW.method, ROW.caption, seed) for seed in range(3)])
    assert [row.seed for row in read_rows(table)] == [0, 1, 2]
