"""Meshes to files: Wavefront OBJ with its material, and binary glTF."""

from pathlib import Path
from typing import Any, Optional

import numpy as np

from .images import to_numpy

TEXTURES = {
    "map_Kd": "texture_kd",
    "map_Ks": "texture_ks",
    "map_Bump": "texture_nrm",
    "map_Pm": "texture_metallic",
    "map_Pr": "texture_roughness",
}
"""Key in an MTL file: name of the picture beside it."""
MATERIAL = "default"


def obj_text(
    mesh: Any,
    save_normal: bool = False,
    save_uv: bool = False,
    save_vertex_color: bool = False,
    material_file: Optional[str] = None,
) -> str:
    """Write a mesh as OBJ.

    The format counts v upwards while our textures, like pictures, begin with their top row, so the
    file has 1 - v.

    Args:
        mesh: A `threestudio.models.mesh.Mesh`.
        save_normal: Write vertex normals.
        save_uv: Write texture coordinates.
        save_vertex_color: Write `v_rgb` behind the positions, as most programs read it.
        material_file: Name of the MTL file that holds the material `MATERIAL`.
    """
    lines = [] if material_file is None else [f"mtllib {material_file}", f"usemtl {MATERIAL}"]
    vertices = to_numpy(mesh.v_pos)
    if save_vertex_color:
        vertices = np.concatenate([vertices, to_numpy(mesh.v_rgb)], axis=1)
    lines += _rows("v", vertices)
    corners = [to_numpy(mesh.t_pos_idx)]
    if save_uv:
        v_tex = to_numpy(mesh.v_tex)
        lines += _rows("vt", np.stack([v_tex[:, 0], 1.0 - v_tex[:, 1]], axis=1))
        corners.append(to_numpy(mesh.t_tex_idx))
    if save_normal:
        lines += _rows("vn", to_numpy(mesh.v_nrm))
        corners.append(to_numpy(mesh.t_pos_idx))
    # a corner is v, v/vt, v//vn or v/vt/vn, counted from 1
    corner = {(False, False): "%d", (True, False): "%d/%d", (False, True): "%d//%d"}.get(
        (save_uv, save_normal), "%d/%d/%d"
    )
    numbers = np.stack(corners, axis=-1).reshape(len(corners[0]), -1) + 1
    face = "f " + " ".join([corner] * 3)
    lines += [face % tuple(row) for row in numbers.tolist()]
    return "\n".join(lines) + "\n"


def _rows(key: str, values: np.ndarray) -> list[str]:
    line = key + " %.6f" * values.shape[1]
    return [line % tuple(row) for row in values.tolist()]


def mtl_text(textures: dict[str, str]) -> str:
    """Write the material of an OBJ: white, matte, with pictures by their keys in an MTL file."""
    lines = [f"newmtl {MATERIAL}", "Ka 0.0 0.0 0.0", "Kd 1.0 1.0 1.0", "Ks 0.0 0.0 0.0", "illum 1"]
    return "\n".join([*lines, *(f"{key} {name}" for key, name in textures.items())]) + "\n"


def write_glb(path: str, mesh: Any, base_color: Optional[np.ndarray] = None) -> None:
    """Write binary glTF with trimesh: with a texture, with vertex colours, or bare.

    Args:
        path: File to write.
        mesh: A `threestudio.models.mesh.Mesh`; its z axis points up and becomes glTF's y axis.
        base_color: Texture, uint8 [H, W, 3], first row at v = 0.
    """
    import trimesh
    from PIL import Image

    positions, triangles = to_numpy(mesh.v_pos), to_numpy(mesh.t_pos_idx)
    normals = to_numpy(mesh.v_nrm)
    visual = None
    if base_color is not None:
        # a vertex on a seam of the texture becomes several, glTF has one index for everything
        corners = np.stack([triangles, to_numpy(mesh.t_tex_idx)], axis=-1).reshape(-1, 2)
        pairs, inverse = np.unique(corners, axis=0, return_inverse=True)
        v_tex = to_numpy(mesh.v_tex)[pairs[:, 1]]
        uv = np.stack([v_tex[:, 0], 1.0 - v_tex[:, 1]], axis=1)  # trimesh counts v upwards
        positions, normals = positions[pairs[:, 0]], normals[pairs[:, 0]]
        triangles = inverse.reshape(-1, 3)
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(base_color), metallicFactor=0.0, roughnessFactor=1.0
        )
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    elif mesh.v_rgb is not None:
        colors = (to_numpy(mesh.v_rgb).clip(0, 1) * 255).round().astype(np.uint8)
        visual = trimesh.visual.ColorVisuals(vertex_colors=colors)
    y_up = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # front +x becomes +z
    exported = trimesh.Trimesh(
        vertices=positions @ y_up.T,
        faces=triangles,
        vertex_normals=normals @ y_up.T,
        visual=visual,
        process=False,
    )
    Path(path).write_bytes(exported.export(file_type="glb"))
