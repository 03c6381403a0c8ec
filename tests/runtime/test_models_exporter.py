"""Meshes of a scene in files, read back by trimesh."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.exporters import mesh_exporter
from threestudio.models.exporters.mesh_exporter import MeshExporter, fill_holes
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import ConfigError, UserError
from threestudio.utils.saving import SaverMixin

RADIUS = 0.47


@pytest.fixture(scope="module")
def ball() -> VolumeGrid:
    """A ball of radius 0.47 whose colour is its position, (x + 1) / 2."""
    geometry = VolumeGrid(
        {
            "grid_size": [32, 32, 32],
            "density_activation": "none",  # the bias is 0 at the radius
            "density_blob_std": RADIUS,
            "isosurface_threshold": 0.0,
            "isosurface_resolution": 26,  # not 24: the grid would touch the surface
            "normal_type": None,
        }
    )
    axis = (torch.arange(32) + 0.5) / 32
    colors = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))  # of z, y, x
    geometry.grid.data[0, 1:] = torch.logit(colors.flip(0))
    return geometry


def exporter_of(geometry, **settings) -> MeshExporter:
    rest = {"material": NoMaterial({}), "background": SolidColorBackground({})}
    return MeshExporter(settings, geometry=geometry, **rest)


def export(ball, folder: Path, **settings) -> Path:
    """Export as the system does; returns the mesh file."""
    exporter = exporter_of(ball, **settings)
    saver = SaverMixin()
    saver.set_save_dir(str(folder))
    (output,) = exporter()
    paths = getattr(saver, f"save_{output.save_type}")(output.save_name, **output.params)
    return Path(paths if isinstance(paths, str) else paths[0])


def vertex_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    """RGB from 0 to 255, read from the texture if there is one."""
    visual = mesh.visual if mesh.visual.kind == "vertex" else mesh.visual.to_color()
    return np.asarray(visual.vertex_colors)[:, :3].astype(float)


def assert_is_the_ball(mesh: trimesh.Trimesh) -> None:
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces())  # slivers whose corners the file's digits merge
    assert mesh.is_watertight and mesh.euler_number == 2
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(RADIUS, abs=0.02)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)


def test_an_obj_with_vertex_colours(ball, tmp_path):
    path = export(ball, tmp_path, fmt="obj", save_normal=True, save_uv=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model.obj"]
    mesh = trimesh.load_mesh(path, process=False)
    expected = (np.asarray(mesh.vertices) + 1) / 2 * 255
    colors = vertex_colors(mesh)
    assert np.abs(colors - expected).max() < 6
    normals = np.asarray(mesh.vertex_normals)
    outward = np.asarray(mesh.vertices) / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (normals * outward).sum(axis=1).min() > 0.95
    assert_is_the_ball(mesh)


@pytest.mark.parametrize("picture", ["jpg", "png"])
def test_a_textured_obj_shows_the_colour_of_each_point(ball, tmp_path, picture):
    path = export(ball, tmp_path, texture_size=256, texture_format=picture)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"model.obj", "model.mtl", f"texture_kd.{picture}"}
    mesh = trimesh.load_mesh(path, process=False)
    colors = vertex_colors(mesh)
    difference = np.abs(colors - (np.asarray(mesh.vertices) + 1) / 2 * 255)
    assert np.median(difference) < 4 and np.quantile(difference, 0.99) < 20
    assert_is_the_ball(mesh)


@pytest.mark.parametrize("texture", [True, False])
def test_a_glb_stands_upright(ball, tmp_path, texture):
    """glTF's y axis points up, its front looks along +z: our (x, y, z) is its (y, z, x)."""
    path = export(ball, tmp_path, fmt="glb", save_texture=texture, texture_size=128)
    (mesh,) = trimesh.load_scene(path).geometry.values()
    ours = np.asarray(mesh.vertices)[:, [2, 0, 1]]
    colors = vertex_colors(mesh)
    assert np.median(np.abs(colors - (ours + 1) / 2 * 255)) < 5
    assert_is_the_ball(mesh)


def test_a_scene_without_colours_is_exported_bare(tmp_path):
    bare = VolumeGrid({"grid_size": [8, 8, 8], "n_feature_dims": 0, "isosurface_resolution": 16})
    path = export(bare, tmp_path, fmt="obj")
    assert {len(row.split()) for row in path.read_text().splitlines() if row[:2] == "v "} == {4}


def test_an_open_mesh_is_reported_with_the_place_of_its_border(monkeypatch):
    said = []
    monkeypatch.setattr(mesh_exporter, "warn", said.append)
    square = torch.tensor([[0.0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    MeshExporter._report(Mesh(square, torch.tensor([[0, 1, 2], [0, 2, 3]])))
    assert len(said) == 1
    assert "4 edges have one triangle, between [0.0, 0.0, 1.0] and [1.0, 1.0, 1.0]" in said[0]


def test_holes_take_the_colour_of_the_nearest_pixel():
    image, covered = torch.zeros(1, 5, 1), torch.tensor([[False, True, False, False, True]])
    image[0, 1], image[0, 4] = 1.0, 2.0
    assert fill_holes(image, covered)[0, :, 0].tolist() == [1.0, 1.0, 1.0, 2.0, 2.0]
    assert torch.equal(fill_holes(image, torch.zeros_like(covered)), image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fmt": "ply"}, "fmt` is 'ply'; allowed are obj-mtl, obj, glb"),
        ({"texture_format": "gif"}, "texture_format` is 'gif'; allowed are jpg, png"),
        ({"save_uv": False}, "save_texture` needs texture coordinates"),
        ({"texture_size": 0}, "texture_size` is 0"),
    ],
)
def test_settings_that_make_no_sense(ball, settings, message):
    with pytest.raises(ConfigError, match=message):
        exporter_of(ball, **settings)


def test_a_geometry_without_surface_is_named():
    with pytest.raises(UserError, match="A BaseGeometry has no surface to export"):
        exporter_of(BaseGeometry({}))


def test_the_faces_of_a_cube_map_are_where_they_fold_up(tmp_path):
    faces = torch.arange(6.0)[:, None, None, None].expand(6, 2, 2, 3) / 6 + 1 / 6
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    from PIL import Image

    unfolded = np.asarray(Image.open(saver.save_cubemap("c.png", faces)))[::2, ::2, 0]
    numbers = np.round(unfolded / 255 * 6).astype(int)
    assert numbers.tolist() == [[0, 3, 0, 0], [2, 5, 1, 6], [0, 4, 0, 0]]
