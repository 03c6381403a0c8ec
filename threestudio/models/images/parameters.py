"""G images as one parameter, in pixels or in the latents of the guidance's prior.

Every image starts from its own seed, so it does not matter which others are made with it.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Optional

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.data.image import seed_faults
from threestudio.models.faults import refuse
from threestudio.registry import register
from threestudio.utils.base import BaseModule
from threestudio.utils.pictures import picture_faults, read_pictures
from threestudio.utils.random import stream

STARTS = ("noise", "zeros", "picture")
PICTURE_KEY = "system.image.picture"

ToLatents = Callable[[Float[Tensor, "G 3 H W"]], Float[Tensor, "G c h w"]]


class AbstractImage(BaseModule):
    """G images that are optimised directly; `forward` gives them to the guidance.

    Args:
        latent_shape: Channels, height and width of the prior's latents; None if it has none.
        picture_size: Width and height of the pictures that the prior was trained on.
        to_latents: Encodes pictures in [0, 1].
    """

    @dataclass
    class Config(BaseModule.Config):
        seeds: Any = field(default_factory=lambda: [0])
        """Seed of each image, `${data.seeds}`; as many images as seeds."""
        init: str = "noise"
        """What the images start as: "noise", "zeros" or "picture"."""
        init_std: float = 1.0
        """Standard deviation of the noise (official 2D code: 1, in latents)."""
        picture: Any = None
        """File that the images start as, or a list with one for each; square, without alpha."""

    cfg: Config

    is_latent: ClassVar[bool]
    """Whether `forward` returns latents of the prior rather than pictures."""

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = seed_faults("system.image.seeds", cfg.seeds)
        if cfg.init not in STARTS:
            faults.append(
                f"`system.image.init` is '{cfg.init}', but must be one of {', '.join(STARTS)}."
            )
        if cfg.init_std < 0:
            faults.append(f"`system.image.init_std` is {cfg.init_std}, but must be 0 or more.")
        if cfg.init == "picture" and cfg.picture is None:
            faults.append(
                "`system.image.init` is 'picture', but there is none. Set `system.image.picture` "
                "to a file."
            )
        elif cfg.init == "picture" and not faults:
            faults += picture_faults(PICTURE_KEY, cfg.picture, len(cfg.seeds))
        return faults

    def configure(
        self,
        latent_shape: Optional[tuple[int, int, int]] = None,
        picture_size: Optional[int] = None,
        to_latents: Optional[ToLatents] = None,
    ) -> None:
        refuse(self.check(self.cfg))
        self.latent_shape, self.picture_size = latent_shape, picture_size
        self.values = nn.Parameter(self._start(to_latents))

    def forward(self) -> Float[Tensor, "G H W C"]:
        """Return the images as a renderer would: channels last, in what the guidance takes."""
        return self.to_render(self.values).permute(0, 2, 3, 1)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image's parameters."""

    @abstractmethod
    def to_render(self, values: Float[Tensor, "G C H W"]) -> Float[Tensor, "G C H W"]:
        """Map parameters to what the guidance takes."""

    @abstractmethod
    def from_pictures(
        self, pictures: Float[Tensor, "G 3 H W"], to_latents: Optional[ToLatents]
    ) -> Float[Tensor, "G c h w"]:
        """Map pictures in [0, 1] to parameters."""

    def _start(self, to_latents: Optional[ToLatents]) -> Float[Tensor, "G C H W"]:
        cfg, seeds = self.cfg, list(self.cfg.seeds)
        if cfg.init == "noise":
            streams = (stream("image", 0, seed=seed, rank=0) for seed in seeds)
            drawn = [torch.randn(self.shape, generator=generator) for generator in streams]
            return cfg.init_std * torch.stack(drawn)
        if cfg.init == "zeros":
            return torch.zeros(len(seeds), *self.shape)
        pictures = read_pictures(PICTURE_KEY, cfg.picture, len(seeds), self.picture_size)
        return self.from_pictures(pictures, to_latents).detach().clone()


@register("latent-parameter")
class LatentParameter(AbstractImage):
    """Latents of the guidance's prior as the parameter; they are decoded to be looked at."""

    @dataclass
    class Config(AbstractImage.Config):
        pass

    cfg: Config
    is_latent: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return self.latent_shape

    def to_render(self, values: Float[Tensor, "G C H W"]) -> Float[Tensor, "G C H W"]:
        """Return latents as they are."""
        return values

    def from_pictures(
        self, pictures: Float[Tensor, "G 3 H W"], to_latents: Optional[ToLatents]
    ) -> Float[Tensor, "G c h w"]:
        """Encode pictures."""
        return to_latents(pictures).to(pictures)


@register("image-parameter")
class ImageParameter(AbstractImage):
    """Pixels as the parameter: RGB as numbers from -1 to 1, so that zeros are grey."""

    @dataclass
    class Config(AbstractImage.Config):
        size: Optional[int] = None
        """Width and height in pixels; null: those of the prior."""
        init_std: float = 0.5
        """Standard deviation of the noise."""

    cfg: Config
    is_latent: ClassVar[bool] = False

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = AbstractImage.check(cfg)
        if cfg.size is not None and cfg.size < 1:
            faults.append(f"`system.image.size` is {cfg.size}, but must be 1 or more, or null.")
        return faults

    def configure(
        self,
        latent_shape: Optional[tuple[int, int, int]] = None,
        picture_size: Optional[int] = None,
        to_latents: Optional[ToLatents] = None,
    ) -> None:
        super().configure(latent_shape, self.cfg.size or picture_size, to_latents)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        return 3, self.picture_size, self.picture_size

    def to_render(self, values: Float[Tensor, "G C H W"]) -> Float[Tensor, "G C H W"]:
        """Map to RGB, normally in [0, 1]; not clamped, or what lies outside could not return."""
        return values * 0.5 + 0.5

    def from_pictures(
        self, pictures: Float[Tensor, "G 3 H W"], to_latents: Optional[ToLatents]
    ) -> Float[Tensor, "G 3 H W"]:
        """Map RGB to parameters."""
        return pictures * 2 - 1
