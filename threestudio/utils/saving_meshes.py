"""The part of `SaverMixin` that writes meshes."""

import os
from pathlib import Path
from typing import Any

from .images import to_numpy
from .mesh_files import TEXTURES, mtl_text, obj_text, write_glb


class MeshSaverMixin:
    """Saves meshes, for a class with `get_save_path` and `save_image`."""

    def save_mesh(
        self, filename: str, v_pos: Any, t_pos_idx: Any, v_tex: Any = None, t_tex_idx: Any = None
    ) -> str:
        """Save vertices `[N, 3]` and triangles `[M, 3]` in the format of the file name's suffix."""
        import trimesh

        visual = None if v_tex is None else trimesh.visual.TextureVisuals(uv=to_numpy(v_tex))
        mesh = trimesh.Trimesh(to_numpy(v_pos), to_numpy(t_pos_idx), visual=visual, process=False)
        path = self.get_save_path(filename)
        mesh.export(path)
        return path

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_uv: bool = False,
        save_vertex_color: bool = False,
        map_format: str = "jpg",
        **textures: Any,
    ) -> list[str]:
        """Save a mesh as OBJ, with its material and textures beside it.

        Args:
            filename: Relative to the save folder; `.obj` is added.
            mesh: A `threestudio.models.mesh.Mesh`.
            save_mat: Write an MTL file and the textures.
            save_normal: Write vertex normals.
            save_uv: Write texture coordinates.
            save_vertex_color: Write vertex colours.
            map_format: Picture format of the textures.
            **textures: uint8 pictures by their keys in an MTL file: `map_Kd, map_Ks, map_Bump,
                map_Pm, map_Pr`.

        Returns:
            The paths of all files.
        """
        stem = filename.removesuffix(".obj")
        paths = [self.get_save_path(f"{stem}.obj")]
        if save_mat:
            folder = os.path.dirname(stem)
            given = {key: image for key, image in textures.items() if image is not None}
            names = {key: f"{TEXTURES[key]}.{map_format}" for key in given}
            paths += [self.save_image(os.path.join(folder, names[k]), v) for k, v in given.items()]
            paths.insert(1, self.get_save_path(f"{stem}.mtl"))
            Path(paths[1]).write_text(mtl_text(names), encoding="utf-8")
        material = os.path.basename(f"{stem}.mtl") if save_mat else None
        text = obj_text(mesh, save_normal, save_uv, save_vertex_color, material)
        Path(paths[0]).write_text(text, encoding="utf-8")
        return paths

    def save_glb(self, filename: str, mesh: Any, map_Kd: Any = None) -> str:
        """Save a mesh as binary glTF, with a texture or its vertex colours; see `write_glb`."""
        path = self.get_save_path(filename.removesuffix(".glb") + ".glb")
        write_glb(path, mesh, map_Kd)
        return path
