"""The systems: losses by hand, density control after a step, and resuming across it bit for bit."""

import csv
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from tests.runtime import toys
from tests.runtime.comparing import assert_equal
from threestudio.registry import find
from threestudio.run import run
from threestudio.utils.checkpoints import read_checkpoint, write_checkpoint
from threestudio.utils.errors import CheckpointError, ConfigError, NonFiniteError

GEOMETRY = {
    "init_num_pts": 80,
    "opacity_init": 0.3,
    "densification_interval": 2,
    "densify_from_iter": 2,
    "densify_grad_threshold": 1e-9,
    "split_thresh": 0.15,
    "prune_from_iter": 2,
    "prune_interval": 2,
    "min_opac_prune": 0.2,
    "opacity_lr": 0.4,
    "max_num": 300,
}
CAMERAS = {
    "batch_size": 2,
    "width": 12,
    "height": 10,
    "eval_width": 12,
    "eval_height": 10,
    "camera_distance_range": [2.5, 2.5],
    "n_test_views": 2,
}


def config(root: Path, **system: Any) -> dict[str, Any]:
    """The toy run with Gaussians, real cameras and a guidance that wants one colour."""
    made = toys.config(root)
    del made["system"]["optimizer"]
    made["system"] |= {
        "geometry_type": "gaussian-splatting",
        "geometry": GEOMETRY,
        "material_type": "no-material",
        "background_type": "solid-color-background",
        "renderer_type": "diff-gaussian-rasterizer",
        "guidance": {"n_view": 1},
        "loss": {"lambda_sds": 1.0, "lambda_position": 0.1, "lambda_tv_loss": [0, 0.0, 1.0, 4]},
        **system,
    }
    made |= {"data_type": "random-camera-datamodule", "data": CAMERAS}
    made["system_type"] = "gaussian-splatting-system"
    made["checkpoint"]["rolling_every_n_steps"] = 3
    return made


def trained(root: Path, *overrides: str, **system: Any) -> Any:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(config(root / "out", **system)))
    return run(str(path), list(overrides))


def build(name="gaussian-splatting-system", **system: Any) -> Any:
    return find(name)(config(Path("out"), **system)["system"])


def assert_same_end(runs: tuple[Any, Any]) -> None:
    """Compare weights, statistics and optimizers of the last checkpoints to the last bit."""
    ends = [read_checkpoint(f"{one.trial_dir}/ckpts/last.ckpt") for one in runs]
    for part in ("state_dict", "optimizer_states"):
        assert_equal(ends[0][part], ends[1][part], part)
    count = len(ends[0]["state_dict"]["geometry._xyz"])
    for state in ends[0]["optimizer_states"][0]["state"].values():
        assert all(value.ndim == 0 or len(value) == count for value in state.values())


def test_a_run_resumed_before_a_densification_equals_one_that_was_not_stopped(tmp_path):
    """Stopped after step 2, whose density control has just changed the number, and again before
    that of step 4."""
    whole = trained(tmp_path / "whole", "trainer.max_steps=6")
    first = trained(tmp_path / "parts", "trainer.max_steps=3")
    resume = f"resume={first.trial_dir}/ckpts/last.ckpt"
    second = trained(tmp_path / "parts", "trainer.max_steps=6", resume)
    counts = [80, *(len(part.system.geometry.get_xyz) for part in (first, second))]
    assert len(set(counts)) == 3
    assert_same_end((whole, second))


def test_a_run_resumed_amid_its_statistics_equals_one_that_was_not_stopped(tmp_path):
    """Stopped after step 2 of the interval that ends with step 4, whose threshold about half of the
    Gaussians exceed. Which ones depends on the first steps: without their statistics the end is
    another."""
    steps = {"densification_interval": 4, "densify_from_iter": 4, "densify_grad_threshold": 8e-4}
    settings = {"geometry": {**GEOMETRY, **steps}}
    whole = trained(tmp_path / "whole", "trainer.max_steps=6", **settings)
    first = trained(tmp_path / "parts", "trainer.max_steps=3", **settings)
    path = Path(first.trial_dir, "ckpts", "last.ckpt")
    checkpoint = read_checkpoint(path)
    assert (checkpoint["state_dict"]["geometry.slope_count"] == 6).all()
    second = trained(tmp_path / "parts", "trainer.max_steps=6", f"resume={path}", **settings)
    assert_same_end((whole, second))
    for name in ("slope_sum", "slope_count"):
        checkpoint["state_dict"][f"geometry.{name}"].zero_()
    write_checkpoint(checkpoint, tmp_path / "lost.ckpt")
    resume = f"resume={tmp_path}/lost.ckpt"
    lost = trained(tmp_path / "lost", "trainer.max_steps=6", resume, **settings)
    ends = [run.system.geometry.get_xyz for run in (whole, lost)]
    assert 80 < len(ends[0]) < 160 and not torch.equal(*ends)


def test_a_finished_run_leaves_its_gaussians_and_can_be_tested_and_exported(tmp_path):
    settings = {"exporter": {"texture_size": 16}}
    settings["geometry"] = {**GEOMETRY, "isosurface_resolution": 16}
    result = trained(tmp_path, "trainer.max_steps=3", **settings)
    saved = Path(result.trial_dir, "save", "point_cloud.ply")
    again = find("gaussian-splatting")({"geometry_convert_from": str(saved)})
    assert torch.equal(again._xyz, result.system.geometry._xyz)
    saved.unlink()
    parsed = f"{result.trial_dir}/configs/parsed.yaml"
    resume = [f"resume={result.trial_dir}/ckpts/last.ckpt"]
    tested = run(parsed, resume, mode="test")
    assert saved.is_file()
    assert torch.equal(tested.system.geometry._xyz, result.system.geometry._xyz)
    run(parsed, resume, mode="export")
    assert Path(result.trial_dir, "save", "it3-export", "model.obj").is_file()


def test_a_resumed_run_does_not_need_what_it_was_started_from(tmp_path):
    start = tmp_path / "start.ply"
    find("gaussian-splatting")({"init_num_pts": 90}).save_ply(str(start))
    geometry = {**GEOMETRY, "geometry_convert_from": str(start), "densify_from_iter": 99}
    result = trained(tmp_path / "run", "trainer.max_steps=1", geometry=geometry)
    assert len(result.system.geometry.get_xyz) == 90
    system = find("gaussian-splatting-system")(result.system.cfg, resumed=True)
    assert len(system.geometry.get_xyz) == GEOMETRY["init_num_pts"]


def test_a_checkpoint_of_another_degree_is_refused(tmp_path):
    result = trained(tmp_path, "trainer.max_steps=1")
    with pytest.raises(CheckpointError, match="_features_rest' is .*0, 3.* in the file and"):
        trained(
            tmp_path,
            f"resume={result.trial_dir}/ckpts/last.ckpt",
            "system.geometry.sh_degree=1",
        )


def test_density_control_sees_all_pictures_of_a_step(tmp_path, monkeypatch):
    """Two pictures per batch, with gradients when it is told, and the number of the step."""
    seen = []
    model = type(build().geometry)

    def note(self, iteration, **pictures) -> int:
        grads = [points.grad is not None for points in pictures["viewspace_points"]]
        seen.append((iteration, *(len(items) for items in pictures.values()), all(grads)))
        return 0

    monkeypatch.setattr(model, "update_states", note)
    trained(tmp_path, "trainer.max_steps=3")
    assert seen == [(step, 2, 2, 2, True) for step in range(3)]


def counters(trial_dir: str) -> list[dict[str, str]]:
    """Return the logged metrics of each step."""
    (path,) = Path(trial_dir).glob("csv_logs/*/metrics.csv")
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def break_gradient(monkeypatch, steps: Any, rows: slice = slice(None)) -> None:
    """Make gradients of all or some centres NaN in some steps, counted from 0."""
    model = type(build().geometry)
    drop, count = model.drop_broken_gradients, itertools.count()

    def broken(self):
        if next(count) in steps:
            self._xyz.grad[rows] = torch.nan
        return drop(self)

    monkeypatch.setattr(model, "drop_broken_gradients", broken)


STILL = {**GEOMETRY, "densify_from_iter": 99, "prune_from_iter": 99}


def test_a_broken_gradient_of_some_gaussians_does_not_stop_a_run(tmp_path, monkeypatch):
    """Those of step 1 are left out of it, and are where they were after step 0."""
    before = trained(tmp_path / "one", "trainer.max_steps=1", geometry=STILL).system.geometry
    break_gradient(monkeypatch, range(1, 2), slice(5, 8))
    result = trained(tmp_path / "two", "trainer.max_steps=2", geometry=STILL)
    after = result.system.geometry
    moved = (after._xyz != before._xyz).any(dim=1).nonzero()[:, 0].tolist()
    assert moved == [row for row in range(80) if row not in (5, 6, 7)]
    logged = counters(result.trial_dir)
    assert [float(row["train/gaussians_dropped"]) for row in logged] == [0, 3]
    assert [float(row["train/gaussians"]) for row in logged] == [80, 80]
    assert [float(row["train/empty_pictures"]) for row in logged] == [0, 0]
    assert [float(row["train/skipped_steps"]) for row in logged] == [0, 0]


def break_render(monkeypatch, steps: Any) -> None:
    """Make the pictures of some steps NaN."""
    renderer = find("diff-gaussian-rasterizer")
    forward = renderer.batch_forward

    def broken(self, batch):
        out = forward(self, batch)
        return {**out, "comp_rgb": out["comp_rgb"] * torch.nan} if self.step in steps else out

    monkeypatch.setattr(renderer, "batch_forward", broken)


def break_loss(monkeypatch, steps: Any) -> None:
    """Make the loss of some steps infinite."""
    guidance = find("toy-guidance")
    forward = guidance.forward

    def broken(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        return {**out, "loss_sds": out["loss_sds"] / 0.0} if self.step in steps else out

    monkeypatch.setattr(guidance, "forward", broken)


@pytest.mark.parametrize("what", ["render", "loss", "gradient"])
def test_a_step_that_is_broken_all_over_is_skipped_and_counted(tmp_path, monkeypatch, what):
    """Steps 1 and 2: the Gaussians after them are those after step 0."""
    breaker = {"render": break_render, "loss": break_loss, "gradient": break_gradient}[what]
    ends = []
    for steps in (1, 3):
        with monkeypatch.context() as patch:
            breaker(patch, range(1, 3))
            run = trained(tmp_path / f"{steps}", f"trainer.max_steps={steps}", geometry=STILL)
        ends.append({**run.system.geometry.state_dict()})
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
    (path,) = Path(run.trial_dir).glob("csv_logs/*/metrics.csv")
    with path.open() as file:
        counts = [row["train/skipped_steps"] for row in csv.DictReader(file)]
    assert [float(count) for count in counts if count] == [0, 1, 2]


@pytest.mark.parametrize(
    ("breaker", "message"),
    [(break_gradient, "gradient of geometry._xyz is NaN"), (break_render, "The render is NaN")],
)
def test_too_many_broken_steps_in_a_row_end_a_run(tmp_path, monkeypatch, breaker, message):
    breaker(monkeypatch, range(2, 30))
    with pytest.raises(NonFiniteError, match=f"{message}.* at step 12") as raised:
        trained(tmp_path, "trainer.max_steps=30")
    notes = " ".join(raised.value.__notes__)
    assert "The 10 steps before were skipped" in notes and "nan-step12.ckpt" in notes


def test_ten_broken_steps_are_passed_over_if_a_good_one_follows(tmp_path, monkeypatch):
    break_render(monkeypatch, [*range(10), *range(11, 14)])
    result = trained(tmp_path, "trainer.max_steps=14")
    assert read_checkpoint(f"{result.trial_dir}/ckpts/last.ckpt")["skipped_steps"] == {
        "in all": 13,
        "in a row": 3,
    }


def test_a_resumed_run_goes_on_counting_skipped_steps(tmp_path, monkeypatch):
    break_render(monkeypatch, range(1, 30))
    first = trained(tmp_path, "trainer.max_steps=6")
    resume = f"resume={first.trial_dir}/ckpts/last.ckpt"
    with pytest.raises(NonFiniteError, match="at step 11"):
        trained(tmp_path, "trainer.max_steps=30", resume)


def test_gaussians_that_are_driven_out_of_their_bounds_are_held_and_counted(tmp_path):
    """Rates that would make all transparent or black at once leave something to train."""
    settings = {**GEOMETRY, "opacity_lr": 100.0, "feature_lr": 100.0, "min_opac_prune": 0.0}
    result = trained(tmp_path, "trainer.max_steps=3", geometry=settings)
    logged = counters(result.trial_dir)
    assert all(float(row["train/gaussians_held"]) >= 60 for row in logged)
    geometry = result.system.geometry
    assert geometry.get_opacity.min() >= 0.0039 and geometry._features_dc.abs().max() < 1.78


def test_pictures_of_nothing_are_counted(tmp_path):
    """All Gaussians are 50 units above the scene that cameras look at."""
    start = tmp_path / "far.ply"
    model = find("gaussian-splatting")({"init_num_pts": 70})
    with torch.no_grad():
        model._xyz[:] += torch.tensor([0.0, 0.0, 50.0])
    model.save_ply(str(start))
    settings = {**GEOMETRY, "geometry_convert_from": str(start), "densify_from_iter": 99}
    result = trained(tmp_path / "run", "trainer.max_steps=1", geometry=settings)
    (row,) = counters(result.trial_dir)
    assert float(row["train/empty_pictures"]) == 2


def test_regularisers_by_hand():
    """Two Gaussians at (3, 4, 0) and the origin, scales 0.1 and 0.2, opacities 0.5 and 0.25."""
    system = build("gaussian-splatting-mvdream-system")
    geometry = system.geometry
    geometry.resize(2)
    with torch.no_grad():
        geometry._xyz[0] = torch.tensor([3.0, 4.0, 0.0])
        geometry._scaling[:] = torch.tensor([[0.1], [0.2]]).log()
        geometry._opacity[:] = torch.tensor([[0.5], [0.25]]).logit()
    image = torch.zeros(1, 2, 2, 3)
    image[0, 0, 0] = 1.0
    out = {"comp_rgb": image, "comp_depth": image[..., :1], "opacity": image[..., :1]}
    values = {name: system.regularizer(name, out).item() for name in system.regularizers}
    assert values["position"] == pytest.approx(2.5)
    assert values["scales"] == pytest.approx(0.9)
    assert values["opacity"] == pytest.approx(3**0.5 * (0.1 * 0.5 + 0.2 * 0.25))
    # both directions have one difference of 1 among two
    assert values["tv_loss"] == values["depth_tv_loss"] == pytest.approx(2.0)
    assert values["sparsity"] == pytest.approx((3 * 0.1 + 1.01**0.5) / 4)
    assert "sparsity" not in build().regularizers


def test_other_parts_are_trained_beside_the_gaussians(tmp_path):
    system = {
        "optimizer": {"name": "Adam", "args": {"lr": 0.1}, "params": {"background": {"lr": 0.2}}},
        "background": {"learned": True},
        "renderer_type": "diff-gaussian-rasterizer-background",
        "scheduler": {"name": "ConstantLR", "args": {"factor": 1.0}},
    }
    result = trained(tmp_path, "trainer.max_steps=2", **system)
    assert (result.system.background.env_color != 1.0).all()
    groups = {g["name"]: g for g in result.system.geometry.optimizer.param_groups}
    assert groups["background"]["lr"] == 0.2 and groups["xyz"]["lr"] == 0.001


@pytest.mark.parametrize("params", [None, {}, 5, {"geometry": {"lr": 0.1}}, {"geometry._xyz": {}}])
def test_an_optimizer_of_the_gaussians_is_refused(params):
    block = {"name": "Adam", "args": {"lr": 0.1}}
    block |= {} if params is None else {"params": params}
    cls = find("gaussian-splatting-system")
    faults = cls.check(build(optimizer=block).cfg)
    assert any("must list the parts that are trained beside the geometry" in f for f in faults)
    assert cls.check(build().cfg) == []


@pytest.mark.parametrize("name", ["SGD", "Adan", "RAdam"])
def test_an_optimizer_that_is_not_adam_is_refused(name):
    block = {"name": name, "args": {"lr": 0.1}, "params": {"background": {"lr": 0.1}}}
    cls = find("gaussian-splatting-system")
    (fault,) = cls.check(build(optimizer=block).cfg)
    assert f"system.optimizer.name is {name}" in fault and "set it to Adam or AdamW" in fault
    assert cls.check(build(optimizer={**block, "name": "AdamW"}).cfg) == []


def test_misspelt_weights_are_found_and_those_of_gaussians_are_known():
    cls = find("gaussian-splatting-system")
    assert cls.check(build(loss={"lambda_sds": 1.0, "lambda_opacity": 1.0}).cfg) == []
    (fault,) = cls.check(build(loss={"lambda_depth_tvloss": 1.0}).cfg)
    assert "has no key `lambda_depth_tvloss`. Did you mean `lambda_depth_tv_loss`" in fault


def test_parts_that_are_not_gaussian_are_refused():
    parts = {"geometry_type": "volume-grid", "geometry": {"grid_size": [4, 4, 4]}}
    with pytest.raises(ConfigError, match="This system trains Gaussians"):
        build(**parts, renderer_type="nerf-volume-renderer")


@pytest.mark.parametrize(
    ("world_size", "scaler", "message"),
    [(2, None, "trained on one device"), (1, object(), "Set `trainer.precision=32-true`")],
)
def test_several_devices_and_float16_are_refused(monkeypatch, world_size, scaler, message):
    system = build()
    plugin = SimpleNamespace(scaler=scaler)
    trainer = SimpleNamespace(world_size=world_size, precision_plugin=plugin)
    monkeypatch.setattr(type(system), "trainer", trainer)
    with pytest.raises(ConfigError, match=message):
        system.on_fit_start()
