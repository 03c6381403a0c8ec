"""The comparison of the hash grid's kernel with its torch version."""

import pytest

import hash_grid
from tests.helpers.compilers import needs_compiler
from threestudio.models.networks import hash_kernel


@needs_compiler
def test_the_table_has_every_pass_and_small_differences(monkeypatch):
    monkeypatch.setattr(hash_grid, "LEVELS", (2,))
    monkeypatch.setattr(hash_grid, "REPEATS", 1)
    calls = []
    kernel = hash_kernel.points_gradient
    monkeypatch.setattr(
        hash_kernel, "points_gradient", lambda *args: calls.append(1) or kernel(*args)
    )
    rows = [row.split(" | ") for row in hash_grid.table(50).splitlines()[4:]]
    assert [row[1] for row in rows] == ["forward", "tables", "tables and points"]
    assert all(float(row[-1].removesuffix(" |")) < 1e-5 for row in rows)
    assert calls == [1]


def test_without_a_kernel_there_is_no_table(monkeypatch, capsys):
    monkeypatch.setattr(hash_grid, "prepare", lambda threads: None)
    monkeypatch.setattr(hash_kernel, "kernel", lambda: None)
    assert hash_grid.main(["--threads", "1"]) == 2 and capsys.readouterr().out == ""


def test_differences_are_shares_of_the_largest_value():
    torch = pytest.importorskip("torch")
    found, expected = [torch.tensor([1.0, -3.5])], [torch.tensor([1.0, -4.0])]
    assert hash_grid.difference(found, expected) == 0.125
