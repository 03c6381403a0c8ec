"""The estimator proposal: when and what its network learns, and that checkpoints hold all of it."""

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from tests.runtime.comparing import assert_equal
from tests.runtime.ray_scenes import PROPOSAL, Ball, blob_grid, rays, render_scene
from threestudio.models.proposal import average_gradients, is_due
from threestudio.utils.callbacks import AtomicCheckpointIO
from threestudio.utils.checkpoints import read_checkpoint, write_checkpoint
from threestudio.utils.errors import ConfigError


def test_the_proposal_learns_every_step_at_first_and_every_sixth_in_the_end():
    due = [step for step in range(1500) if is_due(step)]
    gaps = [after - before for before, after in zip(due, due[1:], strict=False)]
    assert due[:200] == list(range(200))
    assert gaps == sorted(gaps) and set(gaps) == {1, 2, 3, 4, 5, 6}
    assert all(gap == 6 for step, gap in zip(due, gaps, strict=False) if step >= 1000)


def train(renderer, steps, optimizer=None):
    """Render once per step with jittered samples; the scene learns if it has an optimizer."""
    for step in steps:
        renderer.do_update_step(0, step)
        out = renderer(**rays(8, 0.01 * (step % 7)))
        if optimizer is not None:
            optimizer.zero_grad()
            ((out["comp_rgb"] - 0.3) ** 2).mean().backward()
            optimizer.step()
    return out


def test_the_proposal_moves_samples_to_the_matter():
    settings = {**PROPOSAL, "prop_scheduler_config": None}
    renderer = render_scene(Ball({}), settings, training=True)

    def share_inside(out):
        return (out["points"].norm(dim=-1) < 0.45).float().mean()

    before, after = share_inside(train(renderer, [0])), share_inside(train(renderer, range(1, 70)))
    assert after > 1.5 * before
    dense = {"num_samples_per_ray": 1000, "grid_prune": False}
    error = (
        renderer.eval()(**rays())["opacity"] - render_scene(Ball({}), dense)(**rays())["opacity"]
    )
    assert error.abs().mean() < 0.02


def network_of(renderer):
    return {name: value.clone() for name, value in renderer.estimator.network.state_dict().items()}


def test_the_proposal_learns_once_a_step_and_only_in_training():
    renderer = render_scene(Ball({}), PROPOSAL)
    start = network_of(renderer)
    train(renderer, [0])
    assert_equal(network_of(renderer), start)
    renderer.train()
    train(renderer, [0])
    first = network_of(renderer)
    assert any(not torch.equal(first[name], start[name]) for name in start)
    train(renderer, [0])
    assert_equal(network_of(renderer), first)


def test_other_optimizers_leave_the_proposal_alone():
    """An optimizer without `params` is given all parameters of the system."""
    grid = blob_grid()
    renderer = render_scene(grid, PROPOSAL, training=True)
    parameters = list(renderer.estimator.network.parameters())
    optimizer = torch.optim.AdamW([*grid.parameters(), *parameters], lr=0.1, weight_decay=0.5)
    out = train(renderer, [0])
    learnt = network_of(renderer)
    out["comp_rgb"].sum().backward()
    optimizer.step()
    assert_equal(network_of(renderer), learnt)
    assert not any(p.requires_grad or p.grad is not None for p in parameters)


def test_the_learning_rate_follows_the_schedule_of_training_steps():
    """0.02 times 0.1 to 1 over 5 steps, halved at steps 6 and 9."""
    renderer, rates = render_scene(Ball({}), PROPOSAL, training=True), []
    for step in range(10):
        train(renderer, [step])
        saved = renderer.estimator.get_extra_state()["optimizer"]
        rates.append(saved["param_groups"][0]["lr"] / 0.02)
    assert rates == pytest.approx([0.28, 0.46, 0.64, 0.82, 1, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_a_resumed_proposal_repeats_the_uninterrupted_one(tmp_path):
    """Through a file that is read without running code, once before anything was learnt."""

    def begin():
        grid = blob_grid()
        renderer = render_scene(grid, PROPOSAL, training=True)
        modules = torch.nn.ModuleDict({"geometry": grid, "renderer": renderer})
        return modules, renderer, torch.optim.SGD(grid.parameters(), lr=5.0)

    def state(modules):
        return {"state_dict": modules.state_dict(), "global_step": 0, "epoch": 0}

    whole, renderer, optimizer = begin()
    write_checkpoint(state(whole), tmp_path / "0.ckpt")
    train(renderer, range(7), optimizer)
    write_checkpoint(state(whole), tmp_path / "7.ckpt")
    out = train(renderer, range(7, 14), optimizer)
    for first in (0, 7):
        modules, renderer, optimizer = begin()
        train(renderer, range(20, 23), optimizer)
        modules.load_state_dict(read_checkpoint(tmp_path / f"{first}.ckpt")["state_dict"])
        again = train(renderer, range(first, 14), optimizer)
        assert_equal(modules.state_dict(), whole.state_dict())
        assert_equal(again, out)


class ToySystem(pl.LightningModule):
    """A grid and its renderer, updated before each step, all parameters in one optimizer."""

    def __init__(self):
        super().__init__()
        self.geometry = blob_grid()
        self.renderer = render_scene(self.geometry, PROPOSAL, training=True)

    def training_step(self, batch, batch_idx):
        self.renderer.do_update_step(0, self.global_step)
        return ((self.renderer(**rays())["comp_rgb"] - 0.3) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def fit(system, steps, path=None):
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(system, DataLoader(range(100), batch_size=None), ckpt_path=path)
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_a_run_killed_and_resumed_by_lightning_equals_the_uninterrupted_one(tmp_path):
    whole = ToySystem()
    fit(whole, 8)
    fit(ToySystem(), 4).save_checkpoint(tmp_path / "4.ckpt")
    resumed = ToySystem()
    torch.nn.init.zeros_(resumed.geometry.grid)
    resumed.renderer.estimator.network.apply(
        lambda part: torch.nn.init.ones_(part.weight) if hasattr(part, "weight") else None
    )
    fit(resumed, 8, str(tmp_path / "4.ckpt"))
    assert_equal(resumed.state_dict(), whole.state_dict())
    assert whole.state_dict()["renderer.estimator._extra_state"]["optimizer"]["state"]


def test_processes_share_their_gradients():
    """A process without a gradient counts as zero; alone, nothing is shared."""
    parameter = torch.nn.Parameter(torch.ones(2))
    average_gradients([parameter])
    assert parameter.grad is None
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        average_gradients([parameter])
    finally:
        dist.destroy_process_group()
    assert torch.equal(parameter.grad, torch.zeros(2))


@pytest.mark.gpu
def test_a_proposal_saved_on_one_device_goes_on_learning_on_another():
    renderer = render_scene(Ball({}), PROPOSAL, training=True)
    train(renderer, range(3))
    resumed = render_scene(Ball({}), PROPOSAL, training=True)
    resumed.load_state_dict(renderer.state_dict())
    device = torch.device("cuda")
    for part in (resumed, resumed.geometry, resumed.background):
        part.to(device)
    batch = {name: value.to(device) for name, value in rays().items()}
    for step in range(3, 6):
        resumed.do_update_step(0, step)
        out = resumed(**batch)
    assert out["comp_rgb"].isfinite().all() and out["comp_rgb"].device.type == "cuda"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "nothing"}, "'nothing'; available: occgrid, importance, proposal"),
        ({"num_samples_per_ray_importance": 0}, "num_samples_per_ray_importance` is 0"),
        ({"num_samples_per_ray_proposal": 0}, "num_samples_per_ray_proposal` is 0"),
        ({"proposal_network_config": None}, "needs.*proposal_network_config.encoding_config`"),
        ({"proposal_network_config": {"network": {}}}, "no key `network`.*network_config"),
        (
            {"proposal_network_config": {"encoding_config": {"otype": "Hash"}}},
            "proposal_network_config.encoding_config.otype` is 'Hash'; available",
        ),
        ({"prop_optimizer_config": None}, "needs `system.renderer.prop_optimizer_config`, e.g."),
        (
            {"prop_optimizer_config": {"name": "Adam", "args": {"rate": 1}}},
            "system.renderer.prop_optimizer_config.args: Adam has no argument `rate`",
        ),
        (
            {"prop_scheduler_config": {"name": "MultiStep"}},
            "prop_scheduler_config` describes no scheduler: ConfigError: Unknown scheduler",
        ),
        (
            {"prop_scheduler_config": {"name": "LinearLR", "args": {"start": 1}}},
            "prop_scheduler_config` describes no scheduler: TypeError",
        ),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(changes, message):
    with pytest.raises(ConfigError, match=message):
        render_scene(Ball({}), {**PROPOSAL, **changes})
