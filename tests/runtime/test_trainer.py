"""Where a run computes, and at which precision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from threestudio.trainer import device_settings, make_trainer, uses_several_gpus
from threestudio.utils.config import ExperimentConfig, parse_structured
from threestudio.utils.misc import get_device, set_cpu_only


def test_components_stay_off_the_gpu_when_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_cpu_only(False)
    assert get_device().type == "cuda"
    set_cpu_only(True)
    assert get_device().type == "cpu"
    monkeypatch.undo()
    set_cpu_only(False)


def test_sixteen_bit_becomes_thirty_two_on_the_cpu(tmp_path: Path):
    cfg = parse_structured(
        ExperimentConfig,
        {"tag": "a", "exp_root_dir": str(tmp_path), "trainer": {"precision": "16-mixed"}},
    )
    cfg.trainer.accelerator = "cpu"
    cfg.trainer.devices = 1
    assert make_trainer(cfg, logger=False).precision == "32-true"


@pytest.mark.parametrize(
    ("num_gpus", "trainer", "expected", "several"),
    [
        (0, {}, ("cpu", 1), False),
        (0, {"accelerator": "auto"}, ("cpu", 1), False),
        (1, {}, ("gpu", -1), False),
        (4, {}, ("gpu", -1), True),
        (4, {"accelerator": "cpu"}, ("cpu", 1), False),
        (4, {"accelerator": "cpu", "devices": 2}, ("cpu", 2), False),
        (4, {"devices": 1}, ("gpu", 1), False),
        (4, {"devices": [2]}, ("gpu", [2]), False),
        (4, {"devices": [2, 3]}, ("gpu", [2, 3]), True),
    ],
)
def test_devices_follow_from_the_accelerator(
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: int,
    trainer: dict[str, Any],
    expected: tuple,
    several: bool,
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert tuple(device_settings(trainer).values()) == expected
    assert uses_several_gpus(trainer) is several
