"""Timestep ranges, HiFA's annealing and the reward window."""

import math
import re

import pytest
import torch

from tests.helpers.doubles import extension

schedules = extension("schedules")


def test_range_follows_the_schedule():
    """[0, 0.98, 0.02, 100] at step 50: 0.98 + (0.02 - 0.98) / 2 = 0.5."""
    assert schedules.timestep_range([0, 0.98, 0.02, 100], 0.98, 1000, 0, 50) == (500, 980)
    assert schedules.timestep_range([0, 0.98, 0.02, 100], 0.98, 1000, 0, 0) == (980, 980)


def test_range_stays_inside_the_prior():
    assert schedules.timestep_range(0.0, 1.0, 1000, 0, 0) == (0, 999)
    assert schedules.timestep_range(0.6, 0.5, 1000, 0, 0) == (500, 500)


@pytest.mark.parametrize(
    ("minimum", "maximum"), [(0, 1), (1.0, 1.0), (0.9, [0, 0.98, 0.5, 8000]), ([1, 0.02, 9], 0.5)]
)
def test_shares_of_the_timesteps(minimum, maximum):
    assert schedules.percent_faults(minimum, maximum) == []


@pytest.mark.parametrize(
    ("minimum", "maximum", "text"),
    [
        (2, 0.98, "`system.guidance.min_step_percent` is 2, but .* 0.02 for 2 %"),
        (0.02, 50, "`system.guidance.max_step_percent` is 50, but"),
        (-1, 0.98, "is -1, but"),
        (float("nan"), 0.98, "is nan, but"),
        (0.02, [0, 98, 0.5, 8000], "max_step_percent` has 98, but"),
        (0.02, [0.98, 50, 8000], "has 50, but"),
        (0.02, [0, 0.98, 0.5, 8000, 2, 9000], "has 2, but"),
        (None, 0.98, "min_step_percent` is None, which is no schedule"),
        (0.98, 0.02, "is 0.98, above `max_step_percent`, which is 0.02"),
    ],
)
def test_what_is_no_share_of_the_timesteps_is_explained(minimum, maximum, text):
    (fault,) = schedules.percent_faults(minimum, maximum)
    assert re.search(text, fault)


def test_sqrt_annealing():
    """p = 0.02 + 0.96 (1 - sqrt(25 / 100)) = 0.5; it ends at the minimum and stays there."""
    args = (0.02, 0.98, 1000)
    assert schedules.sqrt_annealed_timestep(*args, 25, 100) == 500
    assert schedules.sqrt_annealed_timestep(*args, 0, 100) == 980
    assert schedules.sqrt_annealed_timestep(*args, 100, 100) == 20
    assert schedules.sqrt_annealed_timestep(*args, 200, 100) == 20


@pytest.mark.parametrize(
    "schedule", [[0, 0.5, 0.3, 10], [0.5, 0.3, 10], [5, 0.5, 0.3, 10], [0, 0.5, 0.3, 10, 0.2, 20]]
)
def test_sqrt_annealing_starts_at_the_first_value_of_a_schedule(schedule):
    """[v0, v1, s1] has no start step: its first value stands first."""
    assert schedules.sqrt_annealed_timestep(0.02, schedule, 1000, 0, 100) == 500
    assert schedules.sqrt_annealed_timestep(schedule, 0.9, 1000, 100, 100) == 500


def test_timesteps_cover_both_ends():
    drawn = schedules.draw_timesteps(2000, 3, 5, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {3, 4, 5}


@pytest.mark.parametrize(
    "duration, total, inside, outside",
    [
        (0.7, 100, [0, 69], [70]),
        (1.0, None, [0, 10**9], []),
        (0, None, [], [0]),
        ([10, 20], None, [10, 19], [9, 20]),
    ],
)
def test_reward_window(duration, total, inside, outside):
    assert schedules.window_faults(duration, total) == []
    window = schedules.reward_window(duration, total)
    assert all(step in window for step in inside)
    assert not any(step in window for step in outside)


@pytest.mark.parametrize(
    "duration, text",
    [
        (0.7, r"trainer_max_steps: \$\{trainer.max_steps\}"),
        (5000, r"reward_duration: \[0, 5000\]"),
        (-0.1, r"\[0, 1\]"),
        ("half", "reward_duration: 0.7"),
        ([5, 2], "start <= end"),
        ([0.1, 0.5], "two steps"),
        (True, "share"),
    ],
)
def test_a_bad_duration_is_explained(duration, text):
    import re

    (fault,) = schedules.window_faults(duration, None)
    assert re.search(text, fault)


def test_a_full_share_never_ends():
    assert schedules.reward_window(1.0, 50).end == math.inf
