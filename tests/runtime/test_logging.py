"""Logs are coloured by level on a terminal, and plain everywhere else."""

import io
import logging

import pytest

from threestudio.utils import logging as ours


@pytest.fixture
def written(monkeypatch, caplog):
    """Send the logger to a stream of our own."""
    stream = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(ours.logger, "handlers", [logging.StreamHandler(stream)])
    monkeypatch.setattr(ours.logger, "propagate", False)
    caplog.set_level(logging.INFO, logger=ours.logger.name)
    return stream


def test_a_terminal_gets_colours_by_level(written):
    ours.color_logs(True)
    ours.info("one %d", 1)
    ours.warn("two")
    assert written.getvalue() == "one 1\n\033[33mtwo\033[0m\n"


@pytest.mark.parametrize(("terminal", "no_color"), [(False, ""), (True, "1")])
def test_files_and_no_color_stay_plain(written, terminal, no_color, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    ours.color_logs(terminal)
    ours.warn("two")
    assert written.getvalue() == "two\n"
