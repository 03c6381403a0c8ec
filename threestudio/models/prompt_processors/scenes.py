"""Several prompts at once: a batch whose scenes each have a prompt of their own."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from threestudio.models.prompt_processors.output import PromptProcessorOutput


def scene_faults(cfg: Any) -> list[str]:
    """List what is wrong with the texts of the scenes in a prompt processor's block."""
    if cfg.prompts is None or len(cfg.prompts):
        return []
    return [
        "`system.prompt_processor.prompts` is empty. Give one prompt for each scene, or null to "
        "use `prompt` for all."
    ]


def scene_settings(cfg: Any) -> list[dict[str, Any]]:
    """Return the block of a prompt processor once for each of its `prompts`."""
    shared = {**OmegaConf.to_container(cfg), "prompts": None}
    return [{**shared, "prompt": prompt} for prompt in cfg.prompts]


@dataclass
class ScenePrompts:
    """Embeddings and texts of G scenes; what is asked of it is asked of B = G * V cameras, scene by
    scene."""

    scenes: list[PromptProcessorOutput]

    @property
    def use_perp_neg(self) -> bool:
        """Whether guidances shall use Perp-Neg, which is the same for all scenes."""
        return self.scenes[0].use_perp_neg

    def get_text_embeddings(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent_prompting: bool = True,
    ) -> Float[Tensor, "2*B S D"]:
        """Return the embeddings of B cameras, see `PromptProcessorOutput`."""
        cameras = elevation, azimuth, camera_distances
        parts = [
            scene.get_text_embeddings(*views, view_dependent_prompting).chunk(2)
            for scene, views in self._by_scene(*cameras)
        ]
        return torch.cat([torch.cat(rows) for rows in zip(*parts, strict=True)])

    def get_text_embeddings_perp_neg(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent_prompting: bool = True,
    ) -> tuple[Float[Tensor, "4*B S D"], Float[Tensor, "B 2"]]:
        """Return embeddings and negative weights of B cameras, see `PromptProcessorOutput`."""
        cameras = elevation, azimuth, camera_distances
        texts, weights = zip(
            *(
                scene.get_text_embeddings_perp_neg(*views, view_dependent_prompting)
                for scene, views in self._by_scene(*cameras)
            ),
            strict=True,
        )
        blocks = [text.tensor_split([len(text) // 4, len(text) // 2]) for text in texts]
        rows = [torch.cat(block) for block in zip(*blocks, strict=True)]
        return torch.cat(rows), torch.cat(weights)

    def _by_scene(self, *cameras: Float[Tensor, " B"]) -> list[tuple[PromptProcessorOutput, Any]]:
        """Pair each scene with its V cameras."""
        count, batch = len(self.scenes), len(cameras[0])
        if batch % count:
            raise ValueError(f"The batch has {batch} images, but there are {count} prompts.")
        per_scene = zip(*(values.chunk(count) for values in cameras), strict=True)
        return list(zip(self.scenes, per_scene, strict=True))
