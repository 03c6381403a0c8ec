"""Looking at a finished run again: as a mesh, and at what pruning saves."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mesh as mesh_script
import pruning
from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.exporters.mesh_exporter import MeshExporter
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer
from threestudio.utils.random import set_run_seed
from threestudio.utils.saving import SaverMixin
from trained import load_run, only_run


@pytest.fixture(scope="module")
def system() -> SimpleNamespace:
    """A dense pink ball of radius 0.47, seen by a renderer that knows where it is."""
    torch.manual_seed(0)
    set_run_seed(0)  # the renderer looks for empty cells at places that it draws
    blob = {"density_blob_scale": 200.0, "density_blob_std": 0.47, "normal_type": None}
    surface = {"isosurface_threshold": 5.0, "isosurface_resolution": 40}
    geometry = VolumeGrid({"grid_size": [16, 16, 16], **blob, **surface})
    for channel, value in enumerate((3.0, -1.0, 1.0), start=1):
        geometry.grid.data[0, channel] = value
    parts = {"material": NoMaterial({}), "background": SolidColorBackground({"color": [0.5] * 3})}
    renderer = NeRFVolumeRenderer({"num_samples_per_ray": 128}, geometry=geometry, **parts)
    renderer.train()
    for step in range(0, 256, 16):
        renderer.update_step(0, step)
    return SimpleNamespace(
        geometry=geometry, renderer=renderer.eval(), eval=renderer.eval, parts=parts
    )


def test_pruning_counts_points_and_differences(system, monkeypatch):
    monkeypatch.setattr(pruning, "SIZES", (24,))
    monkeypatch.setattr(pruning, "REPEATS", 1)
    dense, pruned = pruning.table(system).splitlines()[2:]
    cells = [cell.strip() for cell in pruned.split("|")[1:-1]]
    points = [int(row.split("|")[3].split("(")[0].replace(",", "")) for row in (dense, pruned)]
    assert points[0] > 3 * points[1]
    assert 0 < float(cells[-1]) < 5e-2, "the ball's rim, below 1 % of a step, is left out"
    assert "forward" not in vars(system.geometry)


@pytest.mark.parametrize("fmt", ["glb", "obj-mtl"])
def test_an_exported_ball_looks_like_the_nerf(system, fmt, tmp_path, monkeypatch):
    monkeypatch.setattr(mesh_script, "SIZE", 48)
    settings = {"fmt": fmt, "texture_size": 64}
    (output,) = MeshExporter(settings, geometry=system.geometry, **system.parts)()
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    getattr(saver, f"save_{output.save_type}")(output.save_name, **output.params)
    mesh = mesh_script.read_mesh(tmp_path / mesh_script.FORMATS[fmt])
    nerf, drawn = mesh_script.nerf_views(system), mesh_script.mesh_views(mesh)
    words = mesh_script.compare(mesh, drawn, nerf)
    assert words[1] == "closed"
    difference, outline = (float(word.split()[1]) for word in words[2:])
    assert difference < 4 and outline >= 93


def test_what_is_not_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There are 0 runs below .* `make demo`"):
        only_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not the folder of a run: it has no"):
        load_run(tmp_path)
    (tmp_path / "a/ckpts").mkdir(parents=True)
    (tmp_path / "a/ckpts/last.ckpt").write_bytes(b"")
    assert only_run(tmp_path) == Path(tmp_path / "a")
