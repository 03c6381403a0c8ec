"""When what happens: timestep ranges, timestep draws and the window in which the reward is used.

`step` is the global training step. Percentages are shares of the prior's T training timesteps; a
schedule is a number or threestudio's `[start, value, value, end]` list, evaluated by its `C`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, List, Optional, Tuple

import torch
from jaxtyping import Int
from omegaconf import ListConfig
from torch import Tensor

from threestudio.utils.misc import C

from .streams import Generators, draw


@dataclass(frozen=True)
class RewardWindow:
    """Steps `start <= step < end` in which candidates are searched."""

    start: int
    end: float

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.end


def is_list(value: Any) -> bool:
    """Whether a config value is a list (plain or OmegaConf's)."""
    return isinstance(value, (list, tuple, ListConfig))


def schedule_faults(key: str, value: Any) -> List[str]:
    """Say so when `value` is nothing that threestudio's `C` understands."""
    try:
        C(value, 0, 0)
    except Exception as error:  # upstream raises whatever its parsing meets
        return [
            f"`{key}` is {value!r}, which is no schedule ({error}). Write a number, or "
            "[start_step, start_value, end_value, end_step]."
        ]
    return []


def percent_faults(minimum: Any, maximum: Any) -> List[str]:
    """Say what is wrong with `min_step_percent` and `max_step_percent`; empty when all is well."""
    faults = []
    for name, value in (("min_step_percent", minimum), ("max_step_percent", maximum)):
        key = f"system.guidance.{name}"
        found = schedule_faults(key, value)
        wrong = [] if found else [v for v in _schedule_values(value) if not 0 <= v <= 1]
        if wrong:
            what = f"has {wrong[0]}" if is_list(value) else f"is {value}"
            found = [f"`{key}` {what}, but must be a share in [0, 1], e.g. 0.02 for 2 %."]
        faults += found
    if not (faults or is_list(minimum) or is_list(maximum)) and minimum > maximum:
        faults.append(
            f"`system.guidance.min_step_percent` is {minimum}, above `max_step_percent`, which is "
            f"{maximum}. Swap them."
        )
    return faults


def _schedule_values(value: Any) -> List[Any]:
    """Return the values that a schedule passes through, as `C` reads it."""
    if not is_list(value):
        return [value]
    points = [0, *value] if len(value) == 3 else list(value)
    return [points[1], *points[2::2]]


def timestep_range(
    min_percent: Any, max_percent: Any, num_train_timesteps: int, epoch: int, step: int
) -> Tuple[int, int]:
    """Return the inclusive range of timesteps at `step`, kept inside the prior's 0..T-1."""
    last = num_train_timesteps - 1
    low = int(num_train_timesteps * C(min_percent, epoch, step))
    high = int(num_train_timesteps * C(max_percent, epoch, step))
    high = min(max(high, 0), last)
    return min(max(low, 0), high), high


def sqrt_annealed_timestep(
    min_percent: Any, max_percent: Any, num_train_timesteps: int, step: int, max_steps: int
) -> int:
    """Return the one timestep of HiFA's square-root annealing.

    `p = p_min + (p_max - p_min) (1 - sqrt(step / max_steps))` (HiFA, arXiv 2305.18766). Of a
    schedule its first value counts. Past `max_steps` the result stays at the minimum; upstream
    leaves the range there.
    """
    low, high = (C(value, 0, 0) for value in (min_percent, max_percent))
    progress = min(max(step / max_steps, 0.0), 1.0)
    percent = low + (high - low) * (1.0 - math.sqrt(progress))
    return min(max(int(num_train_timesteps * percent), 0), num_train_timesteps - 1)


def draw_timesteps(
    num_scenes: int, min_step: int, max_step: int, generators: Generators
) -> Int[Tensor, " G"]:
    """Draw one timestep per scene, uniform in `[min_step, max_step]`, both included."""
    make = partial(torch.randint, min_step, max_step + 1)
    return draw(make, (num_scenes,), generators, 0)


def reward_window(duration: Any, max_steps: Optional[int]) -> RewardWindow:
    """Translate `reward_duration` (checked by `window_faults`) into steps."""
    if is_list(duration):
        return RewardWindow(int(duration[0]), float(duration[1]))
    if duration >= 1:
        return RewardWindow(0, math.inf)
    return RewardWindow(0, float(int(duration * (max_steps or 0))))


def window_faults(duration: Any, max_steps: Optional[int]) -> List[str]:
    """Say what is wrong with `reward_duration`; empty when it is fine."""
    if is_list(duration):
        steps = list(duration)
        if len(steps) == 2 and all(isinstance(s, int) for s in steps) and 0 <= steps[0] <= steps[1]:
            return []
        return [
            f"`reward_duration` is {steps}, but a list means two steps [start, end] with "
            "0 <= start <= end. Example: `reward_duration: [0, 5000]`."
        ]
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        return [
            f"`reward_duration` is {duration!r}, but must be a share in [0, 1] or [start, end] in "
            "steps. Example: `reward_duration: 0.7`."
        ]
    if not 0 <= duration <= 1:
        return [
            f"`reward_duration` is {duration}, but a number is a share of the training in [0, 1]. "
            f"For steps write a list: `reward_duration: [0, {int(duration)}]`."
        ]
    if 0 < duration < 1 and max_steps is None:
        return [
            f"`reward_duration` is {duration}, a share of the training, but `trainer_max_steps` is "
            "not set. Add `system.guidance.trainer_max_steps: ${trainer.max_steps}`, or give "
            "steps: `reward_duration: [0, 5000]`."
        ]
    return []
