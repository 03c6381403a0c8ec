"""Export a trained scene as glTF and OBJ, read both back, and put them beside the NeRF.

    python custom/threestudio-reward-sds/experiments/mesh.py outputs/demo/runs/RewardSDS

The files are read by trimesh and drawn without light by our rasteriser from the four canonical
cameras. Printed: whether a mesh is closed, how far its pictures are from the NeRF's (mean
difference of a colour, 0 to 255) and how well the outlines agree (intersection over union).
"""

import argparse
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from canonical import cameras
from pictures import Cell, draw_rows
from plan import Evaluation
from run import prepare
from trained import load_run, only_run

FORMATS = {"glb": "model.glb", "obj-mtl": "model.obj"}
"""Exporter's format: the file that it makes."""
PICTURE = Path("custom/threestudio-reward-sds/results/mesh.png")
SIZE = 128
GREY = 0.5


def main(argv: list[str] | None = None) -> int:
    """Export, read back, draw, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder that holds one run")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--keep", type=Path, help="folder that gets the exported files")
    parser.add_argument("overrides", nargs="*", help="overrides of the export")
    args = parser.parse_intermixed_args(argv)
    prepare(threads=1)
    try:
        folder = only_run(args.folder)
        result = load_run(folder)
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    views = args.picture.parent / ".mesh-views"
    views.mkdir(parents=True, exist_ok=True)
    nerf = nerf_views(result.system)
    rows = [("NeRF", Cell(save(nerf["rgb"], views / "nerf.png"), "", True), ["what was trained"])]
    for fmt, name in FORMATS.items():
        exported = load_run(folder, "export", (*args.overrides, f"system.exporter.fmt={fmt}"))
        step = exported.system.true_global_step
        file = Path(exported.trial_dir) / "save" / f"it{step}-export" / name
        mesh = read_mesh(file)
        drawn = mesh_views(mesh)
        words = compare(mesh, drawn, nerf)
        sys.stdout.write(f"{name}: {', '.join(words)}\n")
        rows.append((name, Cell(save(drawn["rgb"], views / f"{name}.png"), "", True), words))
        if args.keep:
            shutil.copytree(file.parent, args.keep, dirs_exist_ok=True)
    prompt = result.system.cfg.prompt_processor.prompt
    draw_rows(rows, f'"{prompt}": front, side, back, side', args.picture, scale=2)
    shutil.rmtree(views)
    sys.stdout.write(f"{args.picture}\n")
    return 0


def nerf_views(system: Any) -> dict[str, np.ndarray]:
    """Render the NeRF; returns `rgb [4 H W 3]` on grey and `mask [4 H W]`."""
    torch = importlib.import_module("torch")
    system.eval()
    grey = torch.full((1, 3), GREY)
    with torch.no_grad():
        outs = [system.renderer(**batch, bg_color=grey) for batch in cameras(Evaluation(), SIZE)]
    rgb = torch.cat([out["comp_rgb"] for out in outs]).clamp(0, 1).numpy()
    return {"rgb": rgb, "mask": torch.cat([o["opacity"][..., 0] > 0.5 for o in outs]).numpy()}


def read_mesh(path: Path) -> Any:
    """Read a file with trimesh, as one mesh in our axes (z up, front +x)."""
    trimesh = importlib.import_module("trimesh")
    mesh = trimesh.load_scene(path, process=False).to_mesh()
    if path.suffix == ".glb":
        mesh.vertices = np.asarray(mesh.vertices)[:, [2, 0, 1]]
    return mesh


def mesh_views(mesh: Any) -> dict[str, np.ndarray]:
    """Rasterise a textured mesh; the same keys as `nerf_views`."""
    torch = importlib.import_module("torch")
    rasterize = importlib.import_module("threestudio.utils.rasterize")
    context = rasterize.NVDiffRasterizerContext("gl", "cpu")
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(mesh.faces), dtype=torch.int64)
    uv = torch.tensor(np.asarray(mesh.visual.uv), dtype=torch.float32)
    material = mesh.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    texture = torch.tensor(np.asarray(image.convert("RGB")), dtype=torch.float32) / 255.0
    views, masks = [], []
    for batch in cameras(Evaluation(), SIZE):
        clip = context.vertex_transform(vertices, batch["mvp_mtx"])
        rast, _ = context.rasterize(clip, faces, (SIZE, SIZE))
        places, _ = context.interpolate_one(uv, rast, faces)
        places = torch.stack([places[..., 0], 1.0 - places[..., 1]], dim=-1) * 2.0 - 1.0
        color = torch.nn.functional.grid_sample(
            texture.permute(2, 0, 1)[None], places, align_corners=False, padding_mode="border"
        ).permute(0, 2, 3, 1)
        mask = rast[..., 3:] > 0
        color = torch.where(mask, color, torch.full_like(color, GREY))
        views.append(context.antialias(color, rast, clip, faces))
        masks.append(mask[..., 0])
    return {"rgb": torch.cat(views).numpy(), "mask": torch.cat(masks).numpy()}


def compare(mesh: Any, drawn: dict[str, np.ndarray], nerf: dict[str, np.ndarray]) -> list[str]:
    """Say in words how a mesh is and how its pictures differ."""
    closed = mesh.copy()
    closed.merge_vertices(merge_tex=True, merge_norm=True)
    closed.update_faces(closed.nondegenerate_faces())
    difference = np.abs(drawn["rgb"] - nerf["rgb"]).mean() * 255
    both, either = drawn["mask"] & nerf["mask"], drawn["mask"] | nerf["mask"]
    return [
        f"{len(mesh.faces):,} triangles",
        "closed" if closed.is_watertight else "not closed",
        f"difference {difference:.1f}",
        f"outline {100 * both.sum() / max(either.sum(), 1):.0f} %",
    ]


def save(views: np.ndarray, path: Path) -> Path:
    """Save the views side by side."""
    image = importlib.import_module("PIL.Image")
    strip = np.concatenate(list(views), axis=1)
    image.fromarray((strip * 255).round().astype(np.uint8)).save(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
