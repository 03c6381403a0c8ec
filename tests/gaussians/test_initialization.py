"""Where Gaussians start: a ball, files of all kinds, surfaces of other runs."""

import importlib
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml

from tests.gaussians.scenes import look
from threestudio.models.mesh import Mesh
from threestudio.registry import find
from threestudio.utils.checkpoints import write_checkpoint
from threestudio.utils.errors import ConfigError, UserError
from threestudio.utils.mesh_files import write_glb
from threestudio.utils.random import set_run_seed

start = importlib.import_module("threestudio-3dgs.initialization")
harmonics = importlib.import_module("threestudio-3dgs.spherical_harmonics")
RED = [255, 0, 0, 255]


def geometry(**settings):
    return find("gaussian-splatting")({"init_num_pts": 200, **settings})


def colors(model):
    return harmonics.harmonics_to_rgb(model.get_features.detach()[:, 0])


def red_box():
    mesh = trimesh.creation.box(extents=(0.4, 0.6, 0.8))
    mesh.visual.vertex_colors = np.tile(np.array(RED, dtype=np.uint8), (8, 1))
    return mesh


def on_the_box(points):
    """Largest distance from the box's surface."""
    share = points.abs() / torch.tensor([0.2, 0.3, 0.4])
    return (share.amax(dim=1) - 1.0).abs().max().item()


def test_a_random_start_fills_the_ball_evenly_and_follows_the_seed():
    """Of a uniform ball, one eighth is within half the radius."""
    model = geometry(init_num_pts=4000, pc_init_radius=0.5, opacity_init=0.25)
    distance = model.get_xyz.detach().norm(dim=1)
    assert distance.max() <= 0.5
    assert (distance < 0.25).float().mean().item() == pytest.approx(1 / 8, abs=0.02)
    torch.testing.assert_close(model.get_opacity, torch.full((4000, 1), 0.25))
    assert torch.equal(model._rotation[:, 0], torch.ones(4000))
    torch.testing.assert_close(colors(model), torch.full((4000, 3), 0.5))
    again = geometry(init_num_pts=4000, pc_init_radius=0.5)
    assert torch.equal(again._xyz, model._xyz)
    set_run_seed(1)
    try:
        assert not torch.equal(geometry(init_num_pts=4000, pc_init_radius=0.5)._xyz, model._xyz)
    finally:
        set_run_seed(0)


def test_first_scales_are_the_mean_distance_to_three_neighbours():
    """Points 0, 1, 3, 7 on a line: from 0 they are (1 + 3 + 7) / 3 away, from 1 (1 + 2 + 6) / 3."""
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]])
    found = start.neighbour_distances(points)
    torch.testing.assert_close(found, torch.tensor([11 / 3, 3.0, 3.0, 17 / 3]))
    torch.testing.assert_close(start.neighbour_distances(points[:2]), torch.tensor([1.0, 1.0]))
    assert start.neighbour_distances(points[:1]).tolist() == pytest.approx([start.LONE_SCALE])


def test_points_at_one_place_get_the_lowest_scale():
    model = geometry()
    same = start.PointCloud(torch.zeros(6, 3), torch.ones(6, 3))
    model.create_from_pcd(same, spatial_lr_scale=2.0)
    torch.testing.assert_close(model.get_scaling, torch.full((6, 3), 1e-4))
    torch.testing.assert_close(colors(model), torch.ones(6, 3))
    assert model.spatial_lr_scale == 2.0


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb", "stl"])
def test_a_mesh_file_is_sampled_with_its_colours(tmp_path, suffix):
    red_box().export(tmp_path / f"box.{suffix}")
    model = geometry(geometry_convert_from=str(tmp_path / f"box.{suffix}"))
    assert len(model.get_xyz) == 200
    points = model.get_xyz.detach()
    if suffix == "glb":  # trimesh wrote it as it is; glTF's y is our z
        points = points[:, [1, 2, 0]]
    assert on_the_box(points) < 1e-5
    expected = torch.tensor([0.5] * 3 if suffix == "stl" else [1.0, 0.0, 0.0])
    torch.testing.assert_close(colors(model), expected.expand(200, 3), atol=0.01, rtol=0)


def test_what_our_exporter_writes_as_gltf_stands_upright_again(tmp_path):
    box = red_box()
    mesh = Mesh(torch.tensor(box.vertices).float(), torch.tensor(box.faces))
    write_glb(str(tmp_path / "box.glb"), mesh)
    model = geometry(geometry_convert_from=str(tmp_path / "box.glb"))
    assert on_the_box(model.get_xyz.detach()) < 1e-5


def test_a_point_cloud_is_taken_as_it_is(tmp_path):
    points = np.random.default_rng(0).random((30, 3))
    tinted = np.tile(np.array([0, 255, 0, 255], dtype=np.uint8), (30, 1))
    trimesh.PointCloud(points, colors=tinted).export(tmp_path / "cloud.ply")
    model = geometry(geometry_convert_from=str(tmp_path / "cloud.ply"))
    torch.testing.assert_close(model.get_xyz.detach(), torch.from_numpy(points).float())
    torch.testing.assert_close(colors(model), torch.tensor([0.0, 1.0, 0.0]).expand(30, 3))


def test_a_file_of_gaussians_is_taken_with_all_parameters_or_its_points_alone(tmp_path):
    saved = geometry(sh_degree=2, init_num_pts=50)
    with torch.no_grad():
        saved._features_rest.normal_(generator=torch.Generator().manual_seed(0))
        saved._scaling += 0.3
    saved.save_ply(str(tmp_path / "a.ply"))
    source = {"geometry_convert_from": str(tmp_path / "a.ply")}
    same = geometry(sh_degree=2, **source)
    for name, value in saved.named_parameters():
        assert torch.equal(value, dict(same.named_parameters())[name])
    lower, higher = geometry(sh_degree=1, **source), geometry(sh_degree=3, **source)
    assert torch.equal(lower._features_rest, saved._features_rest[:, :3])
    assert torch.equal(higher._features_rest[:, :8], saved._features_rest)
    assert (higher._features_rest[:, 8:] == 0).all()
    points = geometry(load_ply_only_vertex=True, **source)
    assert torch.equal(points._xyz, saved._xyz)
    torch.testing.assert_close(points.get_opacity, torch.full((50, 1), 0.1))
    other = geometry()
    other.load_ply(str(tmp_path / "a.ply"))
    assert torch.equal(other._scaling, saved._scaling) and other._features_rest.shape[1] == 0


def run_folder(path: Path, system: dict) -> str:
    """Write what a run leaves: its resolved configuration and a checkpoint."""
    (path / "configs").mkdir(parents=True)
    (path / "configs" / "parsed.yaml").write_text(yaml.safe_dump({"system": system}))
    state = {}
    for part in ("geometry", "material"):
        module = find(system[f"{part}_type"])(system.get(part))
        if part == "geometry" and hasattr(module, "grid"):
            with torch.no_grad():  # a red blob
                module.grid[:, 1:] = torch.tensor([2.0, -2.0, -2.0]).view(1, 3, 1, 1, 1)
        state |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    checkpoint = {"state_dict": state, "epoch": 0, "global_step": 7}
    write_checkpoint(checkpoint, path / "ckpts" / "last.ckpt")
    return str(path / "ckpts" / "last.ckpt")


VOLUME = {
    "geometry_type": "volume-grid",
    "geometry": {
        "grid_size": [16, 16, 16],
        "isosurface_resolution": 24,
        "isosurface_threshold": 2.5,
    },
    "material_type": "no-material",
    "material": {},
}


def test_a_trained_volume_is_sampled_on_its_surface_with_its_materials_colours(tmp_path):
    """softplus(5 (1 - r / 0.5)) = 2.5 is a sphere: r = 0.5 (1 - log(e^2.5 - 1) / 5)."""
    model = geometry(geometry_convert_from=run_folder(tmp_path, VOLUME))
    radius = 0.5 * (1 - math.log(math.expm1(2.5)) / 5)
    distance = model.get_xyz.detach().norm(dim=1)
    torch.testing.assert_close(distance, torch.full((200,), radius), atol=0.01, rtol=0)
    red = torch.tensor([2.0, -2.0, -2.0]).sigmoid()
    torch.testing.assert_close(colors(model), red.expand(200, 3), atol=1e-4, rtol=0)


def test_gaussians_of_another_run_are_taken_as_they_are(tmp_path):
    system = {
        "geometry_type": "gaussian-splatting",
        "geometry": {"init_num_pts": 31, "pc_init_radius": 0.3, "geometry_convert_from": ""},
        "material_type": "no-material",
    }
    path = run_folder(tmp_path, system)
    system["geometry"]["geometry_convert_from"] = "gone.ply"  # needed once, then no more
    (tmp_path / "configs" / "parsed.yaml").write_text(yaml.safe_dump({"system": system}))
    model = geometry(geometry_convert_from=path)
    assert torch.equal(model._xyz, geometry(init_num_pts=31, pc_init_radius=0.3)._xyz)


def picture(model):
    c2w = torch.stack([look((2.5, 0.0, 0.5)), look((0.3, -1.5, 2.0))]).float()
    return find("diff-gaussian-rasterizer")(
        {},
        geometry=model,
        material=find("no-material")({}),
        background=find("solid-color-background")({}),
    )(c2w=c2w, fovy=torch.full((2,), math.radians(50)), width=32, height=32)


@pytest.mark.parametrize("kind", ["ply", "ckpt"])
def test_a_scene_with_harmonics_is_shown_as_it_is_and_kept_so(tmp_path, kind):
    """By the formula of the colours; then after a step whose learning rates are 0. Constants of
    black and white are +-1.77, here some are beyond."""
    system = {"geometry_type": "gaussian-splatting", "geometry": {"sh_degree": 3}}
    saved = geometry(sh_degree=3, opacity_init=0.6, sh_degree_interval=1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        saved._features_rest.normal_(std=0.6, generator=generator)
        saved._features_dc.uniform_(-2.4, 2.4, generator=generator)
    saved.update_step(0, 3)
    source = str(tmp_path / "a.ply")
    if kind == "ply":
        saved.save_ply(source)
    else:
        source = run_folder(tmp_path, {**system, "material_type": "no-material"})
        state = {f"geometry.{name}": value for name, value in saved.state_dict().items()}
        write_checkpoint({"state_dict": state, "epoch": 0, "global_step": 7}, Path(source))
    model = geometry(sh_degree=3, geometry_convert_from=source)
    optimizer, expected = model.training_setup(), picture(saved)["comp_rgb"].detach()
    out = picture(model)
    assert torch.equal(out["comp_rgb"], expected)
    out["comp_rgb"].square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    lists = (out[name] for name in ("visibility_filter", "radii", "viewspace_points"))
    assert model.update_states(1, *lists) == 0
    assert torch.equal(picture(model)["comp_rgb"], expected)


@pytest.mark.parametrize("copy_net", [False, True])
def test_systems_convert_volumes_and_gaussians(copy_net):
    settings = {**VOLUME["geometry"], "isosurface_threshold": "auto"}
    volume = find("volume-grid")(settings)
    with torch.no_grad():
        volume.grid[:, 1:] = 2.0
    make = find("gaussian-splatting").create_from
    model = make(volume, {"init_num_pts": 70}, copy_net=copy_net)
    expected = torch.tensor(2.0).sigmoid().item() if copy_net else 0.5
    assert len(model._xyz) == 70
    torch.testing.assert_close(colors(model), torch.full((70, 3), expected), atol=1e-4, rtol=0)
    copied = make(model, {"init_num_pts": 5, "sh_degree": 1})
    assert torch.equal(copied._xyz, model._xyz) and copied._features_rest.shape == (70, 3, 3)
    assert copied._xyz.data_ptr() != model._xyz.data_ptr()
    with pytest.raises(UserError, match="holds a NoMaterial: Gaussians can be made of"):
        make(find("no-material")({}), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"geometry_convert_from": "shap-e:a chair"}, "has neither Shap-E nor"),
        (
            {"geometry_convert_from": "gone.ply"},
            "geometry_convert_from`: 'gone.ply' does not exist",
        ),
        ({"geometry_convert_from": __file__}, "known are files that end in .ply, .obj"),
        ({"sh_degree": 4}, "`system.geometry.sh_degree` is 4; it must be 0 to 3"),
        ({"init_num_pts": 0}, "`system.geometry.init_num_pts` is 0; it must be at least 1"),
        ({"densify_from_iter": -1}, "densify_from_iter` is -1; it must be at least 0"),
        ({"min_opac_prune": -0.1}, "min_opac_prune` is -0.1; it must be at least 0"),
        ({"split_thresh": 0.0}, "split_thresh` is 0.0; it must be above 0"),
        ({"opacity_init": 1.0}, "opacity_init` is 1.0; it must be from 0.004 to 0.99"),
        ({"position_lr": [0, 0.1]}, "position_lr`: .* has 2 entries"),
        ({"position_lr": [0, 0.1, 0.0, 100]}, "position_lr`: its values must be above 0"),
        ({"color_clip": 0}, "color_clip`: its values must be above 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        geometry(**settings)


def test_a_schedule_where_a_number_is_needed_is_refused():
    """The parser lets lists pass where an extension declares a number."""
    cfg = types.SimpleNamespace(**{**geometry().cfg, "prune_interval": [1, 2, 3]})
    (fault,) = find("gaussian-splatting").check(cfg)
    assert "`system.geometry.prune_interval` is [1, 2, 3]; it must be at least 1" in fault


def test_a_schedule_that_starts_at_step_zero_is_fine():
    assert geometry(position_lr=[0, 0.001, 2e-5, 1000]).cfg.position_lr[0] == 0
    assert find("gaussian-splatting").check(geometry().cfg) == []


def test_a_file_that_is_no_mesh_is_refused(tmp_path):
    (tmp_path / "a.obj").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as a mesh or point cloud"):
        geometry(geometry_convert_from=str(tmp_path / "a.obj"))
