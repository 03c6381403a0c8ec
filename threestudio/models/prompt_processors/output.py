"""What a prompt processor hands to guidances and rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.models.prompt_processors.views import (
    DirectionConfig,
    direction_indices,
    shift_azimuth_deg,
)
from threestudio.utils.ops import shifted_expotional_decay

PERP_NEG = ("perp_neg_f_sb", "perp_neg_f_fsb", "perp_neg_f_fs", "perp_neg_f_sf")
"""Settings of Perp-Neg's weights: `(a, b, c)` each."""


def perp_neg_faults(cfg: Any) -> list[str]:
    """List the weights of Perp-Neg in a prompt processor's block that are not three numbers."""
    return [
        f"`system.prompt_processor.{name}` is {getattr(cfg, name)!r}, but must be three numbers "
        "[a, b, c] for `a exp(-b r) + c`, such as [1, 0.5, -0.606]."
        for name in PERP_NEG
        if not _is_triple(getattr(cfg, name))
    ]


def _is_triple(value: Any) -> bool:
    if not isinstance(value, Sequence) or len(value) != 3:  # OmegaConf's lists and tuples, too
        return False
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)


@dataclass
class PromptProcessorOutput:
    """Embeddings of one prompt and of its four views, and the texts themselves.

    S is the number of tokens, D the width of the encoder; the views are in the order of
    `directions`."""

    text_embeddings: Float[Tensor, "1 S D"]
    uncond_text_embeddings: Float[Tensor, "1 S D"]
    text_embeddings_vd: Float[Tensor, "4 S D"]
    uncond_text_embeddings_vd: Float[Tensor, "4 S D"]
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    use_perp_neg: bool
    perp_neg_f_sb: tuple[float, float, float]
    perp_neg_f_fsb: tuple[float, float, float]
    perp_neg_f_fs: tuple[float, float, float]
    perp_neg_f_sf: tuple[float, float, float]
    prompt: str
    prompts_vd: list[str]

    def direction_index(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
    ) -> Int[Tensor, " B"]:
        """Return the view direction of each camera; angles in degrees."""
        return direction_indices(self.directions, elevation, azimuth, camera_distances)

    def get_text_embeddings(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent_prompting: bool = True,
    ) -> Float[Tensor, "2*B S D"]:
        """Return the embeddings of B cameras: B of the prompt, then B of the negative prompt.

        Args:
            elevation: Degrees.
            azimuth: Degrees, any turn.
            camera_distances: World units.
            view_dependent_prompting: Whether the prompts name the view.
        """
        if not view_dependent_prompting:
            both = self.text_embeddings, self.uncond_text_embeddings
            return torch.cat([x.expand(len(azimuth), -1, -1) for x in both])
        index = self.direction_index(elevation, azimuth, camera_distances)
        both = self.text_embeddings_vd, self.uncond_text_embeddings_vd
        return torch.cat([x[index.to(x.device)] for x in both])

    def get_text_embeddings_perp_neg(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent_prompting: bool = True,
    ) -> tuple[Float[Tensor, "4*B S D"], Float[Tensor, "B 2"]]:
        """Return embeddings and negative weights for Perp-Neg (Armandpour et al. 2023).

        Between two views the positive embedding is interpolated with the azimuth, and the two views
        themselves are negative prompts with weights `-f(r)`, `f(r) = a exp(-b r) + c`. Overhead
        cameras have no negatives.

        Returns:
            B positive, B unconditional, then 2B negative embeddings, the two of a camera next to
            each other; and the weights of these two.
        """
        if not view_dependent_prompting:
            raise ValueError("Perp-Neg needs view-dependent prompts. Set `use_perp_neg: false`.")
        views = self.text_embeddings_vd
        index = self.direction_index(elevation, azimuth, camera_distances).to(views.device)
        share = (shift_azimuth_deg(azimuth).abs() / 90.0).to(views)
        side, front, back = (views[self.direction2idx[k]] for k in ("side", "front", "back"))
        in_front, overhead = share < 1.0, index == self.direction2idx["overhead"]
        r = torch.where(in_front, 1.0 - share, 2.0 - share)
        weights = torch.where(
            in_front[:, None],
            torch.stack(
                [self._decay(self.perp_neg_f_fs, r), self._decay(self.perp_neg_f_sf, 1 - r)], 1
            ),
            torch.stack(
                [self._decay(self.perp_neg_f_sb, r), self._decay(self.perp_neg_f_fsb, r)], 1
            ),
        )
        part, above = r[:, None, None], overhead[:, None, None]
        ahead, behind = part * front + (1 - part) * side, part * side + (1 - part) * back
        front_half = in_front[:, None, None]
        positive = torch.where(above, views[index], torch.where(front_half, ahead, behind))
        uncond = self.uncond_text_embeddings_vd[index]
        pair = torch.stack(
            [torch.where(front_half, front, side), torch.where(front_half, side, front)], dim=1
        )
        negative = torch.where(above[:, None], uncond[:, None], pair).flatten(0, 1)
        return torch.cat([positive, uncond, negative]), -weights * ~overhead[:, None]

    @staticmethod
    def _decay(settings: tuple[float, float, float], r: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        a, b, c = settings
        return shifted_expotional_decay(a, b, c, r)
