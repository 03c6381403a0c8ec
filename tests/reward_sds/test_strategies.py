"""Strategies: sums, ties, permutations, numbers by hand, and messages."""

import pytest
import torch

import threestudio
from tests.helpers import reference
from tests.helpers.doubles import extension

strategies = extension("strategies")

NAMES = ["none", "min-max", "best", "softmax", "random", "mean"]
DETERMINISTIC = ["min-max", "best", "softmax", "mean"]


def make(name, **settings):
    return threestudio.find(f"reward-strategy-{name}")(settings)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scores(count=6, scenes=3):
    return torch.randn(count, scenes, generator=generator(5), dtype=torch.float64)


def test_min_max_by_hand():
    """Best two of [3, 1, 2, 0]: 3 and 2 get 0.9 / 2; worst two: 1 and 0 get -0.1 / 2."""
    weights = make("min-max")(torch.tensor([[3.0], [1.0], [2.0], [0.0]]), generator())
    assert torch.allclose(weights, torch.tensor([[0.45], [-0.05], [0.45], [-0.05]]))


def test_softmax_by_hand():
    """Rewards ln 1, ln 3 at temperature 1 give 1/4, 3/4; at 0.5 they give 1/10, 9/10."""
    rewards = torch.tensor([[1.0], [3.0]]).log()
    assert torch.allclose(make("softmax")(rewards, generator()), torch.tensor([[0.25], [0.75]]))
    sharp = make("softmax", temperature=0.5)(rewards, generator())
    assert torch.allclose(sharp, torch.tensor([[0.1], [0.9]]))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_each_scene_equals_the_plain_loop(name):
    rewards = scores()
    weights = make(name)(rewards, generator())
    for scene in range(3):
        expected = reference.strategy_weights(name, rewards[:, scene].tolist())
        assert weights[:, scene].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "name, settings, total",
    [
        ("min-max", {}, 0.8),
        ("min-max", {"num_best": 1, "num_worst": 1, "lambda_best": 0.6}, 0.2),
        ("min-max", {"num_worst": 0}, 0.9),
        ("random", {}, 0.8),
        ("best", {}, 1.0),
        ("best", {"num_best": 3}, 1.0),
        ("softmax", {}, 1.0),
        ("mean", {}, 1.0),
    ],
)
def test_sums_are_as_documented(name, settings, total):
    weights = make(name, **settings)(scores(), generator())
    assert torch.allclose(weights.sum(dim=0), torch.full((3,), total, dtype=torch.float64))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_permuting_candidates_permutes_weights(name):
    rewards, order = scores(), torch.tensor([3, 0, 5, 1, 4, 2])
    strategy = make(name)
    permuted = strategy(rewards[order], generator())
    assert torch.allclose(permuted, strategy(rewards, generator())[order], atol=1e-15)


def test_ties_keep_candidate_order():
    weights = make("min-max")(torch.zeros(5, 1), generator())
    assert torch.allclose(weights[:, 0], torch.tensor([0.45, 0.45, 0, -0.05, -0.05]))


def test_softmax_ignores_a_shift_and_survives_huge_rewards():
    rewards = torch.tensor([[1e4], [1e4 - 1], [-1e4]])
    weights = make("softmax")(rewards, generator())
    assert torch.isfinite(weights).all()
    assert torch.allclose(weights, make("softmax")(rewards - 1e4, generator()))


def test_random_gives_the_weights_of_min_max_to_drawn_candidates():
    strategy = make("random")
    weights = strategy(torch.zeros(7, 50), generator())
    expected = torch.tensor([0.45, 0.45, 0, 0, 0, -0.05, -0.05])
    assert torch.allclose(
        weights.sort(dim=0, descending=True).values, expected[:, None].expand(7, 50)
    )
    assert (weights > 0).any(dim=1).all()  # every candidate is followed in some scene
    assert torch.equal(weights, strategy(torch.zeros(7, 50), generator()))
    assert not torch.equal(weights, strategy(torch.zeros(7, 50), generator(1)))


def test_random_does_not_look_at_the_rewards():
    assert torch.equal(
        make("random")(scores(), generator()), make("random")(-scores(), generator())
    )


def test_small_numbers_of_candidates_work_with_lower_counts():
    """The official code asserts four; N = 2 and 3 of the paper need one best and one worst."""
    for count in (2, 3):
        weights = make("min-max", num_best=1, num_worst=1)(scores(count), generator())
        assert torch.allclose(weights.sum(dim=0), torch.full((3,), 0.8, dtype=torch.float64))
        assert (weights != 0).sum() == 2 * 3


def test_which_strategies_need_rewards():
    needed = {name for name in NAMES if make(name).needs_rewards}
    assert needed == {"min-max", "best", "softmax"}


def test_none_asks_for_one_candidate_whatever_is_requested():
    assert make("none").num_candidates(7) == 1
    assert make("min-max").num_candidates(7) == 7
    assert make("none")(torch.zeros(1, 2), generator()).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    "name, settings, text",
    [
        ("min-max", {"num_best": 0}, "`num_best` is 0, but must be 1 or more"),
        ("random", {"num_worst": -1}, "`num_worst` is -1, but must be 0 or more"),
        ("min-max", {"lambda_best": 1.5}, r"`lambda_best` is 1.5, but must be in \[0, 1\]"),
        ("best", {"num_best": 0}, "`num_best` is 0"),
        ("softmax", {"temperature": 0.0}, "`temperature` is 0.0, but must be above 0"),
    ],
)
def test_bad_settings_are_explained(name, settings, text):
    with pytest.raises(ValueError, match=text):
        make(name, **settings)


@pytest.mark.parametrize(
    "weights, text",
    [
        (lambda rewards: rewards[:, 0], r"Mine returned weights of shape \[4\] .* shape \[4, 2\]"),
        (lambda rewards: rewards.tolist(), r"Mine returned weights of \[\[1.0, 1.0\], "),
        (
            lambda rewards: (rewards - 1) / rewards.std(dim=0),
            r"weight of candidate 0, scene 0 is nan \(Mine, rewards 1, 1, 1, 1\)",
        ),
    ],
)
def test_bad_weights_are_explained(weights, text):
    class Mine(strategies.AbstractStrategy):
        def __call__(self, rewards, generators):
            return weights(rewards)

    with pytest.raises(strategies.StrategyError, match=text):
        strategies.checked_weights(Mine({}), torch.ones(4, 2), generator())
