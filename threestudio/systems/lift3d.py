"""The base of systems that optimise a 3D scene: its parts, conversion of a trained geometry,
export."""

import os
from dataclasses import dataclass, field
from typing import Any, Optional

from threestudio.registry import find
from threestudio.systems.base_system import BaseSystem
from threestudio.systems.conversion import conversion_faults, convert_geometry
from threestudio.utils.logging import info, warn


class BaseLift3DSystem(BaseSystem):
    """A scene: geometry, material and background, seen through a renderer."""

    @dataclass
    class Config(BaseSystem.Config):
        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        geometry_convert_from: Optional[str] = None
        """Checkpoint of another run whose geometry this one starts from, e.g. a NeRF for a mesh;
        `LAST` stands for the newest run. Only at the start: not with `weights`, not on resuming."""
        geometry_convert_inherit_texture: bool = False
        """Whether the conversion takes over what colours the geometry, too."""
        geometry_convert_override: dict = field(default_factory=dict)
        """Settings of the old geometry that are changed first, e.g. `isosurface_threshold`."""
        material_type: str = ""
        material: dict = field(default_factory=dict)
        background_type: str = ""
        background: dict = field(default_factory=dict)
        renderer_type: str = ""
        renderer: dict = field(default_factory=dict)
        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)
        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)
        exporter_type: str = "mesh-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    required_parts: tuple[str, ...] = ("geometry", "material", "background", "renderer")
    """Parts whose `<part>_type` must be given."""

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List missing parts, and what is wrong with optimizer, losses and conversion."""
        missing = [
            f"system.{part}_type is not set, the system cannot do without."
            for part in cls.required_parts
            if not cfg[f"{part}_type"]
        ]
        return super().check(cfg) + missing + conversion_faults(cfg)

    def configure(self) -> None:
        """Build geometry, material, background and the renderer over them."""
        cfg = self.cfg
        converted = cfg.geometry_convert_from and not (cfg.weights or self.resumed)
        self.geometry = (
            convert_geometry(cfg) if converted else find(cfg.geometry_type)(cfg.geometry)
        )
        self.material = find(cfg.material_type)(cfg.material)
        self.background = find(cfg.background_type)(cfg.background)
        self.renderer = find(cfg.renderer_type)(
            cfg.renderer,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    def on_fit_start(self) -> None:
        """Warn if pictures have no place, and give a new geometry the shape that it starts as."""
        if self._save_dir is None:
            warn("No folder to save to was set: pictures cannot be saved.")
        if hasattr(self.geometry, "initialize_shape") and not self.resumed:
            self.geometry.initialize_shape()

    def on_predict_start(self) -> None:
        """Build the exporter."""
        self.exporter = find(self.cfg.exporter_type)(
            self.cfg.exporter,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Render a view of the turntable, if the exporter wants it."""
        if self.exporter.cfg.save_video:
            self.test_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        """Save what the exporter made of the scene under `it<step>-export/`."""
        if self.exporter.cfg.save_video:
            self.on_test_epoch_end()
        folder = f"it{self.true_global_step}-export"
        for output in self.exporter():
            save = getattr(self, f"save_{output.save_type}", None)
            if save is None:
                raise ValueError(
                    f"The exporter '{self.cfg.exporter_type}' asks for save_{output.save_type}, "
                    "which a system does not have."
                )
            save(f"{folder}/{output.save_name}", **output.params)
        info(f"Exported to {os.path.relpath(self.get_save_path(folder))}")
