"""The table of an experiment: what is written is read back, torn lines are dropped."""

import dataclasses

import pytest

from rows import PictureRow, append_rows, drop_rows, read_rows, sort_rows
from tests.experiments.samples import PICTURE, ROW


def test_round_trip_with_commas_and_quotes(tmp_path):
    table = tmp_path / "results" / "t.csv"
    append_rows(table, [ROW])
    append_rows(table, [dataclasses.replace(ROW, seed=4, relation_ok=False)])
    assert read_rows(table) == [ROW, dataclasses.replace(ROW, seed=4, relation_ok=False)]
    assert table.read_text().splitlines()[0] == (
        "method,caption,seed,shape_ok,color_ok,relation_ok,reward,unet_calls,seconds,config,torch,"
        "threads,device,verdict"
    )


def test_round_trip_of_pictures(tmp_path):
    table = tmp_path / "t.csv"
    edit = dataclasses.replace(PICTURE, seed=4, outside=0.125)
    append_rows(table, [PICTURE, edit])
    assert read_rows(table, PictureRow) == [PICTURE, edit]
    assert table.read_text().splitlines()[0].endswith(",verdict,outside,picture")
    with pytest.raises(ValueError, match="move it away"):
        read_rows(table)


def test_line_breaks_in_a_verdict_do_not_break_the_table(tmp_path):
    append_rows(tmp_path / "t.csv", [dataclasses.replace(ROW, verdict="left:\nred cube")])
    assert read_rows(tmp_path / "t.csv") == [ROW]


@pytest.mark.parametrize("cut", [1, 20])
def test_torn_last_line_is_dropped_and_the_next_row_is_whole(tmp_path, cut):
    table = tmp_path / "t.csv"
    append_rows(table, [ROW])
    append_rows(table, [dataclasses.replace(ROW, seed=4)])
    table.write_text(table.read_text()[:-cut])
    assert read_rows(table) == [ROW]
    append_rows(table, [dataclasses.replace(ROW, seed=5)])
    assert [row.seed for row in read_rows(table)] == [3, 5]


def test_torn_header_starts_again(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("method,capt")
    assert read_rows(table) == []
    append_rows(table, [ROW])
    assert read_rows(table) == [ROW]


def test_table_of_another_version_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("method,score\nsds,1\n")
    with pytest.raises(ValueError, match="move it away"):
        read_rows(tmp_path / "t.csv")


def test_sorted_by_the_plan(tmp_path):
    table = tmp_path / "t.csv"
    rows = [dataclasses.replace(ROW, seed=seed) for seed in (2, 0, 1)]
    for row in rows:
        append_rows(table, [row])
    sort_rows(table, [(ROW.method, ROW.caption, seed) for seed in range(3)])
    assert [row.seed for row in read_rows(table)] == [0, 1, 2]


def test_the_rows_of_a_torn_batch_are_dropped(tmp_path):
    table = tmp_path / "t.csv"
    rows = [dataclasses.replace(ROW, seed=seed) for seed in range(3)]
    append_rows(table, rows)
    drop_rows(table, [rows[0].key, rows[2].key, ("sds", "never made", 0)])
    assert read_rows(table) == [rows[1]]
    drop_rows(table, [rows[1].key])
    append_rows(table, rows)
    assert read_rows(table) == rows
