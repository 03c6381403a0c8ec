"""Small signed distances and grids for the tests."""

import torch

from threestudio.models.geometry.implicit_sdf import ImplicitSDF
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid

HASH = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 8, "base_resolution": 4}
BANDS = HASH | {
    "otype": "ProgressiveBandHashGrid",
    "n_levels": 4,
    "per_level_scale": 1.5,
    "start_level": 1,
    "start_step": 10,
    "update_steps": 5,
}
MLP = {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 1}
NETWORKS = {"pos_encoding_config": HASH, "mlp_network_config": MLP}
SPHERE = {"shape_init": "sphere", "shape_init_params": 0.5}


def sdf(**settings):
    torch.manual_seed(0)
    made = ImplicitSDF({**NETWORKS, "isosurface_resolution": 16, **settings})
    for parameter in made.encoding.parameters():
        torch.nn.init.normal_(parameter)
    return made


def biased(**settings):
    """Networks of zeros: the distance is its bias."""
    made = sdf(sdf_bias="sphere", sdf_bias_params=0.5, **settings)
    with torch.no_grad():
        for parameter in made.sdf_network.parameters():
            parameter.zero_()
    return made


def tets(**settings):
    torch.manual_seed(1)
    return TetrahedraSDFGrid({**NETWORKS, "isosurface_resolution": 16, **settings})


def ball_volume(mesh):
    return (torch.linalg.det(mesh.v_pos[mesh.t_pos_idx]).sum() / 6).item()
