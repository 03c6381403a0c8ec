"""Time and memory of a call on any device."""

import importlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]


def timed(call: Call, device: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes until the device has done all of it, and its result.

    On a CPU they are CPU time, of all threads: other work on the machine does not count.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    started = clock()
    result = call()
    _wait(device)
    return clock() - started, result


def peak_megabytes(call: Call, device: Any) -> float:
    """Return the most that the tensors of a call take at a time, above what is there before it.

    On a CPU every allocation is recorded: unlike the size of the process, the number does not
    depend on what earlier calls left behind, nor on how busy the machine is.
    """
    if device.type != "cuda":
        return _peak_of_trace(_memory_trace(call))
    cuda = importlib.import_module("torch").cuda
    _wait(device)
    cuda.reset_peak_memory_stats(device)
    before = cuda.memory_allocated(device)
    call()
    _wait(device)
    return (cuda.max_memory_allocated(device) - before) / 1e6


def _wait(device: Any) -> None:
    if device.type == "cuda":
        importlib.import_module("torch").cuda.synchronize(device)


def _memory_trace(call: Call) -> list[dict[str, int]]:
    """Return each allocation and release of CPU memory during a call, in order."""
    profiler = importlib.import_module("torch.profiler")
    cpu = profiler.ProfilerActivity.CPU
    with profiler.profile(activities=[cpu], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    records = [event for event in events if event["name"] == "[memory]"]
    return [record["args"] for record in sorted(records, key=lambda record: record["ts"])]


def _peak_of_trace(records: list[dict[str, int]]) -> float:
    """Return megabytes; an earlier trace may have left the running total above 0."""
    if not records:
        return 0.0
    before = records[0]["Total Allocated"] - records[0]["Bytes"]
    return (max(record["Total Allocated"] for record in records) - before) / 1e6
