"""The surface of Gaussians against closed forms, and its way into a file."""

import importlib
import math

import numpy as np
import pytest
import torch
import trimesh

from tests.gaussians.scenes import cloud, single
from threestudio.registry import find
from threestudio.utils.errors import ConfigError, UserError
from threestudio.utils.saving import SaverMixin

field = importlib.import_module("threestudio-3dgs.field")
covariance = importlib.import_module("threestudio-3dgs.covariance")
parameters = importlib.import_module("threestudio-3dgs.parameters")


def test_density_and_colour_are_the_sums_over_all_gaussians():
    """Sorted into cells or not; what ends at 1e-4 is missed by at most that for each Gaussian."""
    gaussians = cloud(60, size=(0.03, 0.4))
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    density, color = field.evaluate(gaussians, points)
    inverse = torch.linalg.inv(covariance.covariances(gaussians.scales, gaussians.rotations))
    offset = points[:, None] - gaussians.means
    squared = torch.einsum("npi,pij,npj->np", offset, inverse, offset)
    weights = gaussians.opacities * torch.exp(-0.5 * squared)
    rgb = (gaussians.harmonics[:, 0] / (2 * math.sqrt(math.pi)) + 0.5).clamp(0, 1)
    torch.testing.assert_close(density[:, 0], weights.sum(dim=1), atol=60 * field.LEAST, rtol=0)
    near = weights.sum(dim=1) > 0.3
    assert near.sum() > 50
    expected = weights @ rgb / weights.sum(dim=1, keepdim=True)
    torch.testing.assert_close(color[near], expected[near], atol=0.02, rtol=0)


def test_nothing_is_empty_and_black():
    gaussians, far = single(), torch.full((3, 3), 5.0).double()
    for points in (far, far[:0]):
        density, color = field.evaluate(gaussians, points)
        assert density.shape == (len(points), 1) and color.shape == (len(points), 3)
        assert (density == 0).all() and (color == 0).all()
    assert (field.evaluate(cloud(0), far)[0] == 0).all()


def ellipsoid(**settings):
    """One Gaussian of scales 0.1, 0.2, 0.3 and opacity 0.9, pure green."""
    model = find("gaussian-splatting")({"init_num_pts": 1, "isosurface_resolution": 64, **settings})
    with torch.no_grad():
        model._xyz.zero_()
        model._scaling[:] = torch.tensor([0.1, 0.2, 0.3]).log()
        model._opacity[:] = torch.tensor(0.9).logit()
        model._features_dc[:] = torch.tensor([-9.0, 1.7725, -9.0])
    return model


def test_the_surface_of_a_gaussian_is_its_ellipsoid():
    """0.9 exp(-q / 2) = 0.3 at q = 2 log 3."""
    mesh = ellipsoid(isosurface_threshold=0.3).isosurface()
    squared = ((mesh.v_pos / torch.tensor([0.1, 0.2, 0.3])) ** 2).sum(dim=1)
    assert (squared - 2 * math.log(3)).abs().max() < 0.05
    # seen from outside, as meshes are here
    assert (mesh.v_nrm * mesh.v_pos).sum(dim=1).min() > 0


def test_a_level_without_a_surface_is_explained():
    with pytest.raises(UserError, match="has no surface at the level 1.5.*isosurface_threshold"):
        ellipsoid(isosurface_threshold=1.5).isosurface()


def test_wrong_surface_settings_are_refused():
    with pytest.raises(ConfigError, match="isosurface_method` is 'cubes'"):
        ellipsoid(isosurface_method="cubes")


def exporter(model, **settings):
    material, background = find("no-material")({}), find("solid-color-background")({})
    return find("gaussian-mesh-exporter")(
        settings, geometry=model, material=material, background=background
    )


def test_the_mesh_is_exported_with_vertex_colours():
    made = exporter(ellipsoid())
    (output,) = made()
    assert made.cfg.save_video and (output.save_type, output.save_name) == ("obj", "model.obj")
    colors = output.params["mesh"].v_rgb
    expected = torch.tensor([0.0, 1.0, 0.0]).expand(colors.shape)
    torch.testing.assert_close(colors, expected, atol=1e-3, rtol=0)


def test_the_mesh_is_exported_with_a_texture():
    (output,) = exporter(ellipsoid(isosurface_resolution=16), fmt="obj-mtl", texture_size=64)()
    texture = output.params["map_Kd"]
    assert texture.shape == (64, 64, 3)
    assert (texture == torch.tensor([0, 255, 0], dtype=torch.uint8).numpy()).mean() > 0.99


@pytest.mark.parametrize("texture", [False, True])
def test_a_glb_has_the_ellipsoids_size_and_colour(tmp_path, texture):
    """At q = 2 log 3 half the axes are 1.482 scales; our (x, y, z) is glTF's (y, z, x)."""
    made = exporter(
        ellipsoid(isosurface_threshold=0.3), fmt="glb", save_texture=texture, texture_size=64
    )
    (output,) = made()
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    path = saver.save_glb(output.save_name, **output.params)
    (mesh,) = trimesh.load_scene(path if isinstance(path, str) else path[0]).geometry.values()
    expected = [2 * math.sqrt(2 * math.log(3)) * scale for scale in (0.2, 0.3, 0.1)]
    assert mesh.extents == pytest.approx(expected, rel=0.02)
    assert np.abs(mesh.bounds.sum(axis=0)).max() < 0.01
    assert mesh.visual.kind == ("texture" if texture else "vertex")
    visual = mesh.visual.to_color() if texture else mesh.visual
    colors = np.asarray(visual.vertex_colors)[:, :3].astype(float)
    assert np.abs(colors - [0, 255, 0]).max() <= 1
