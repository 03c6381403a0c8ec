"""Input encodings and small networks: plain torch, and faster back ends where there are some.

Configurations use tiny-cuda-nn's names (`otype`, `n_levels`, ...), so that upstream's YAMLs work.
An encoding takes points in [0, 1]."""

from .build import (
    ENCODINGS,
    NETWORKS,
    CompositeEncoding,
    Float32Encoding,
    NetworkWithInputEncoding,
    ToDTypeWrapper,
    block_faults,
    create_network_with_input_encoding,
    get_encoding,
    get_mlp,
)
from .frequency import Frequency, ProgressiveBandFrequency, SphericalHarmonics
from .hash_grid import HashGrid, ProgressiveBandHashGrid
from .mlp import SphereInitVanillaMLP, VanillaMLP
from .planes import KPlanes, TriPlane
from .tcnn import TCNNNetwork

__all__ = [
    "ENCODINGS",
    "NETWORKS",
    "CompositeEncoding",
    "Float32Encoding",
    "Frequency",
    "HashGrid",
    "KPlanes",
    "NetworkWithInputEncoding",
    "ProgressiveBandFrequency",
    "ProgressiveBandHashGrid",
    "SphereInitVanillaMLP",
    "SphericalHarmonics",
    "TCNNNetwork",
    "ToDTypeWrapper",
    "TriPlane",
    "VanillaMLP",
    "block_faults",
    "create_network_with_input_encoding",
    "get_encoding",
    "get_mlp",
]
