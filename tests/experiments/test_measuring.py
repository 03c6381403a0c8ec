"""Time and memory of a call, by hand."""

import pytest
import torch

from measuring import peak_megabytes, timed

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@DEVICES
def test_the_peak_is_what_is_there_at_a_time(device):
    """4 + 2 MB; then 4 are released and 3 more are taken, which stay and do not count later."""
    kept = [torch.zeros(1_000_000, device=device)]

    def call():
        first = torch.zeros(1_000_000, device=device)
        second = torch.zeros(500_000, device=device)
        del first
        kept.append(torch.zeros(750_000, device=device))
        return second

    for _ in range(2):
        peak = peak_megabytes(call, torch.device(device))
        assert peak == pytest.approx(6.0, abs=0.01)  # CUDA rounds sizes up


def test_what_was_there_before_is_not_counted_when_it_is_released():
    kept = [torch.zeros(1_000_000)]

    def call():
        kept.clear()
        torch.zeros(250_000)

    assert peak_megabytes(call, torch.device("cpu")) == 1.0


def test_a_call_without_tensors_takes_nothing():
    assert peak_megabytes(lambda: None, torch.device("cpu")) == 0.0


def test_times_on_a_cpu_are_cpu_time(monkeypatch):
    monkeypatch.setattr("time.process_time", iter([1.0, 3.5]).__next__)
    assert timed(lambda: "result", torch.device("cpu")) == (2.5, "result")


@DEVICES
def test_a_call_is_timed_and_its_result_returned(device):
    seconds, result = timed(lambda: torch.ones(3, device=device).sum(), torch.device(device))
    assert seconds > 0 and result == 3.0
