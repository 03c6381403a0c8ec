"""Small scenes for the renderers that place samples by an estimator."""

import torch
import torch.nn.functional as F

from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer

PROPOSAL = {
    "estimator": "proposal",
    "num_samples_per_ray": 24,
    "num_samples_per_ray_proposal": 32,
    "proposal_network_config": {
        "encoding_config": {"otype": "Frequency", "n_frequencies": 2},
        "network_config": {"otype": "VanillaMLP", "n_neurons": 16, "n_hidden_layers": 1},
    },
    "prop_optimizer_config": {"name": "Adam", "args": {"lr": 0.02, "betas": [0.9, 0.99]}},
    "prop_scheduler_config": {
        "name": "ChainedScheduler",
        "schedulers": [
            {"name": "LinearLR", "args": {"start_factor": 0.1, "total_iters": 5}},
            {"name": "MultiStepLR", "args": {"milestones": [6, 9], "gamma": 0.5}},
        ],
    },
}
IMPORTANCE = {"estimator": "importance", "num_samples_per_ray": 64}


class Ball(BaseImplicitGeometry):
    """A soft ball of radius 0.4."""

    def forward(self, points, output_normal=False):
        return {"density": self.forward_density(points), "features": 3.0 * points}

    def forward_density(self, points):
        return 20.0 * torch.sigmoid(40.0 * (0.4 - points.norm(dim=-1, keepdim=True)))


def render_scene(geometry, settings, training=False):
    parts = {
        "geometry": geometry,
        "material": NoMaterial({}),
        "background": SolidColorBackground({}),
    }
    torch.manual_seed(1)
    return NeRFVolumeRenderer(settings, **parts).train(training)


def rays(side=8, shift=0.0):
    """A bundle of rays from x = 2.5, all of which meet the box."""
    across = torch.linspace(-0.3, 0.3, side)
    y, z = torch.meshgrid(across, across + shift, indexing="ij")
    directions = F.normalize(torch.stack([-torch.ones_like(y), y, z], dim=-1), dim=-1)[None]
    origins = torch.tensor([2.5, 0.1, -0.1]).expand_as(directions)
    return {"rays_o": origins, "rays_d": directions, "light_positions": torch.zeros(1, 3)}


def blob_grid():
    grid = VolumeGrid({"grid_size": [12, 12, 12], "normal_type": None})
    torch.manual_seed(0)
    torch.nn.init.normal_(grid.grid)
    return grid
