"""Optimizers, losses and the training step, on the toy parts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runtime import toys
from threestudio.registry import find
from threestudio.systems import guided
from threestudio.systems.losses import regularizer
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.errors import ConfigError, NonFiniteError


def build(**changes: Any) -> Any:
    """Return the toy system with a block changed, and logged values in `system.logged`."""
    system = find("mvdream-system")(toys.config(Path("out"), **changes)["system"])
    system.logged = {}
    system.log = lambda name, value, **kwargs: system.logged.__setitem__(name, value)
    system.set_resume_status(0, 5)
    return system


BATCH = {"rays": torch.full((2, 4, 4, 3), 0.25), "elevation": torch.zeros(2)}


def test_parts_are_built_and_share_the_geometry():
    system = build()
    assert system.renderer.geometry is system.geometry
    assert system.prompt_utils == "a cube"
    assert {name.split(".")[0] for name in system.state_dict()} == {"geometry"}


def test_optimizer_takes_listed_parts_only_and_plain_arguments():
    system = build()
    optimizer = parse_optimizer(system.cfg.optimizer, system)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["geometry"]["lr"] == 0.05 and groups["background"]["params"] == []
    assert type(groups["geometry"]["betas"]) in (list, tuple)
    everything = parse_optimizer({"name": "SGD", "args": {"lr": 1.0}}, system)
    assert len(everything.param_groups[0]["params"]) == len(list(system.parameters()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"geometri": {"lr": 1}}, "names 'geometri'.*has geometry"),
        ({"background": {"lr": 1}}, "only parts without parameters"),
    ],
)
def test_optimizer_of_nothing_is_explained(params: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_optimizer({"name": "Adam", "args": {"lr": 0.1}, "params": params}, build())


def test_scheduler_with_parts():
    system = build()
    optimizer = parse_optimizer(system.cfg.optimizer, system)
    linear = {"name": "LinearLR", "args": {"start_factor": 0.5, "total_iters": 2}}
    constant = {"name": "ConstantLR", "args": {"factor": 1.0}}
    config = {"name": "SequentialLR", "interval": "step", "milestones": [2]}
    out = parse_scheduler({**config, "schedulers": [linear, constant]}, optimizer)
    assert out["interval"] == "step" and optimizer.param_groups[0]["lr"] == 0.025
    with pytest.raises(ConfigError, match="Did you mean `ConstantLR`"):
        parse_scheduler({"name": "ConstntLR"}, optimizer)


def test_loss_is_the_weighted_sum_and_everything_scalar_is_logged():
    """At step 5 of [0, 1, 0.5, 10] the weight of the guidance's loss is 0.75."""
    system = build(loss={"lambda_sds": [0, 1.0, 0.5, 10], "lambda_sparsity": 2.0})
    out = system(BATCH)
    expected = 0.75 * system.guidance(out["comp_rgb"], "a cube")["loss_sds"]
    expected = expected + 2.0 * regularizer("sparsity", out)
    loss = system.training_step(BATCH, 0)["loss"]
    torch.testing.assert_close(loss, expected)
    assert system.logged["train_params/lambda_sds"] == 0.75
    assert system.logged["train/reward"] == -1.5 and "train/loss_sparsity" in system.logged
    torch.testing.assert_close(system.logged["train/loss"], loss.detach())


def test_values_that_are_not_scalars_are_not_logged():
    system = build()
    system.guidance_loss(
        {"loss_sds": torch.ones(()), "latents": torch.ones(3), "text": "x", "nothing": None}
    )
    assert list(system.logged) == ["train/loss_sds"]


def test_regularisers_of_weight_zero_are_not_computed_and_missing_ones_are_off():
    """The toy renderer returns no normals: orient would fail."""
    build(loss={"lambda_sds": 1.0, "lambda_orient": 0.0}).training_step(BATCH, 0)
    build(loss={"lambda_sds": 1.0}).training_step(BATCH, 0)
    with pytest.raises(ConfigError, match="lambda_orient` needs normal, t_dirs, weights"):
        build(loss={"lambda_sds": 1.0, "lambda_orient": 1.0}).training_step(BATCH, 0)


def test_a_weight_that_nothing_reads_is_named_once(monkeypatch: pytest.MonkeyPatch):
    said = []
    monkeypatch.setattr(guided, "warn", said.append)
    zero = {"lambda_vsd": 0.0, "lambda_orient": 0.0}
    system = build(loss={"lambda_sds": 1.0, "lambda_normal_consistency": 10.0, **zero})
    for batch_idx in range(3):
        system.training_step(BATCH, batch_idx)
    assert len(said) == 1 and "a loss for lambda_normal_consistency, so" in said[0]


def test_a_guidance_loss_without_weight_is_explained():
    with pytest.raises(ConfigError, match=r"system\.loss\.lambda_sds=1\.0"):
        build(loss={}).training_step(BATCH, 0)


def test_nan_render_stops_before_the_guidance():
    system = build(renderer={"nan_at": 5})
    system.do_update_step(0, 5)
    with pytest.raises(NonFiniteError, match="The render is NaN or infinite at step 5"):
        system.training_step(BATCH, 0)


def test_samples_need_a_guidance_that_can_draw_them():
    with pytest.raises(ConfigError, match="visualize_samples"):
        build(visualize_samples=True)


def test_sparsity_and_opaque_by_hand():
    """sqrt(0 + 0.01) = 0.1; the entropy of one half is log 2."""
    assert regularizer("sparsity", {"opacity": torch.zeros(4, 1)}).item() == pytest.approx(0.1)
    half = regularizer("opaque", {"opacity": torch.full((4, 1), 0.5)}).item()
    assert half == pytest.approx(0.693147, abs=1e-5)


def test_orient_counts_only_normals_that_face_away():
    """One of two samples faces away with cosine 0.5: 0.8 * 0.25 over 2 visible pixels."""
    out = {
        "normal": torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, -1.0]]),
        "t_dirs": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
        "weights": torch.tensor([[0.8], [0.9]]),
        "opacity": torch.tensor([[0.5], [0.5], [0.0]]),
    }
    assert regularizer("orient", out).item() == pytest.approx(0.1)


def test_z_variance_averages_over_what_was_hit():
    out = {"z_variance": torch.tensor([1.0, 3.0, 100.0]), "opacity": torch.tensor([0.9, 0.6, 0.1])}
    assert regularizer("z_variance", out).item() == pytest.approx(2.0)
    out["opacity"] = torch.zeros(3)
    assert regularizer("z_variance", out).item() == 0.0


def test_eikonal_is_zero_for_unit_gradients():
    assert regularizer("eikonal", {"sdf_grad": torch.eye(3)}).item() == pytest.approx(0.0)
    assert regularizer("eikonal", {"sdf_grad": 3 * torch.eye(3)}).item() == pytest.approx(4.0)
