"""Environment maps that are small networks of the direction."""

from dataclasses import dataclass, field
from typing import Any, Optional

from jaxtyping import Float
from torch import Tensor

from threestudio.models.background.base import BaseBackground
from threestudio.models.faults import (
    activation_faults,
    color_faults,
    count_faults,
    probability_faults,
    refuse,
)
from threestudio.models.networks import (
    ENCODINGS,
    NETWORKS,
    block_faults,
    get_encoding,
    get_mlp,
)
from threestudio.registry import register
from threestudio.utils.ops import get_activation


def _encoding() -> dict[str, Any]:
    return {"otype": "SphericalHarmonics", "degree": 3}


def _network() -> dict[str, Any]:
    return {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 16, "n_hidden_layers": 2}


@register("neural-environment-map-background")
class NeuralEnvironmentMapBackground(BaseBackground):
    """Colour as a network of the encoded direction; random colours per image in training if asked
    for."""

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        """Channels of the colour."""
        color_activation: Optional[str] = "sigmoid"
        """Name known to `threestudio.utils.ops.get_activation`."""
        dir_encoding_config: dict = field(default_factory=_encoding)
        """Encoding of directions."""
        mlp_network_config: dict = field(default_factory=_network)
        """Network on top of it."""
        random_aug: bool = False
        """Whether training replaces the map by random colours."""
        random_aug_prob: float = 0.5
        """Chance of that per batch."""
        eval_color: Any = None
        """Colour shown in evaluation instead of the map, `n_output_dims` numbers."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        key = "system.background"
        faults = block_faults(f"{key}.dir_encoding_config", cfg.dir_encoding_config, ENCODINGS)
        faults += block_faults(f"{key}.mlp_network_config", cfg.mlp_network_config, NETWORKS)
        faults += activation_faults(f"{key}.color_activation", cfg.color_activation)
        faults += count_faults(key, cfg, "n_output_dims")
        faults += probability_faults(key, cfg, "random_aug_prob")
        if cfg.eval_color is not None:
            faults += color_faults(f"{key}.eval_color", cfg.eval_color, cfg.n_output_dims)
        return faults

    def configure(self) -> None:
        super().configure()
        refuse(self.check(self.cfg))
        self.encoding = get_encoding(3, self.cfg.dir_encoding_config)
        self.network = get_mlp(
            self.encoding.n_output_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config
        )
        self.activation = get_activation(self.cfg.color_activation)

    def images_per_color(self, n_images: int) -> int:
        """Return how many consecutive images share a random colour."""
        return 1

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W C"]:
        """Return the colour of unit directions."""
        cfg, size = self.cfg, dirs.shape[:3]
        if not self.training and cfg.eval_color is not None:
            return dirs.new_tensor(list(cfg.eval_color)).expand(*size, -1)
        encoded = self.encoding((dirs.reshape(-1, 3) + 1.0) / 2.0)
        color = self.activation(self.network(encoded)).reshape(*size, -1)
        if self.training and cfg.random_aug:
            share = self.images_per_color(size[0])
            drawn = self.random_colors(size[0], cfg.n_output_dims, cfg.random_aug_prob, share)
            if drawn is not None:
                # times 0: every parameter stays in the graph, as DDP wants it
                color = color * 0.0 + drawn.to(color)[:, None, None, :]
        return color


@register("mvdream-neural-environment-map-background")
class MVDreamNeuralEnvironmentMapBackground(NeuralEnvironmentMapBackground):
    """The same; `share_aug_bg` gives all images of a batch one random colour."""

    @dataclass
    class Config(NeuralEnvironmentMapBackground.Config):
        share_aug_bg: bool = False
        """Whether all images of a batch share the random colour."""

    cfg: Config

    def images_per_color(self, n_images: int) -> int:
        """Return how many consecutive images share a random colour."""
        return n_images if self.cfg.share_aug_bg else 1
