"""tiny-cuda-nn's modules behind the configurations' names, with a stand-in for the package."""

import sys
import types

import pytest
import torch
from torch import nn

from tests.runtime.distances import HASH
from threestudio.models.geometry.implicit_sdf import ImplicitSDF
from threestudio.models.networks import (
    HashGrid,
    ProgressiveBandHashGrid,
    TCNNNetwork,
    VanillaMLP,
    get_encoding,
    get_mlp,
    tcnn,
)
from threestudio.utils import logging
from threestudio.utils.errors import CheckpointError, UserError

SETTINGS = {
    "n_levels": 2,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 2.0,
}
MLP = {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 2}
BANDS = {**HASH, "otype": "ProgressiveBandHashGrid", "start_level": 1, "start_step": 5}
BANDS |= {"update_steps": 5}


class Encoding(nn.Module):
    """A hash grid with the published layout, which takes no empty batch."""

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        self.encoding_config, self.dtype = encoding_config, dtype
        self.grid = [HashGrid(n_input_dims, {**encoding_config, "backend": "torch"})]
        self.params = nn.Parameter(self.grid[0].params.detach().clone())
        self.n_input_dims, self.n_output_dims = n_input_dims, self.grid[0].n_output_dims

    def forward(self, x):
        assert len(x) and x.dtype == torch.float32
        return self.grid[0].reference(x, self.params)


class Network(nn.Module):
    """Takes the mean of its input, in half precision."""

    def __init__(self, n_input_dims, n_output_dims, network_config, seed=1337):
        super().__init__()
        if network_config["n_neurons"] not in (16, 32, 64, 128):
            raise RuntimeError("only 16, 32, 64 and 128 neurons")
        self.network_config, self.n_output_dims = network_config, n_output_dims
        self.params = nn.Parameter(torch.ones(n_input_dims * 16))

    def forward(self, x):
        assert len(x) and x.ndim == 2 and x.dtype == torch.float32
        return x.mean(dim=1, keepdim=True).repeat(1, self.n_output_dims).half()


@pytest.fixture
def said(monkeypatch):
    messages = []
    logging.warn_once.cache_clear()
    monkeypatch.setattr(logging, "warn", messages.append)
    yield messages
    logging.warn_once.cache_clear()


@pytest.fixture
def cuda(monkeypatch):
    """Components go on CUDA."""
    monkeypatch.setattr(tcnn, "get_device", lambda: torch.device("cuda:0"))


@pytest.fixture
def package(monkeypatch, cuda):
    """The stand-in is installed."""
    module = types.ModuleType("tinycudann")
    module.Encoding, module.Network = Encoding, Network
    monkeypatch.setitem(sys.modules, "tinycudann", module)


def test_hash_grids_are_tiny_cuda_nns(package):
    torch.manual_seed(0)
    encoding = get_encoding(3, {**HASH, "include_xyz": True})
    grid = encoding.encoding.encoding
    assert isinstance(grid, Encoding) and grid.dtype == torch.float32
    assert grid.encoding_config == {"otype": "HashGrid", **SETTINGS}
    ours = get_encoding(3, {**HASH, "include_xyz": True, "backend": "torch"})
    assert isinstance(ours.encoding.encoding, HashGrid)
    assert list(encoding.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(encoding.state_dict())
    x = torch.rand(2, 5, 3)
    assert encoding.n_output_dims == 7 and torch.equal(encoding(x), ours(x))
    nn.init.normal_(ours.encoding.encoding.params)
    encoding.load_state_dict(ours.state_dict())
    assert torch.equal(encoding(x), ours(x))
    assert encoding(torch.rand(0, 3)).shape == (0, 7)


def test_on_a_cpu_nothing_of_it_is_used(monkeypatch):
    monkeypatch.setattr(tcnn, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "tinycudann", types.ModuleType("tinycudann"))
    assert isinstance(get_encoding(3, HASH).encoding.encoding, HashGrid)
    assert isinstance(get_mlp(3, 1, MLP), VanillaMLP)


def test_progressive_bands_mask_tiny_cuda_nns_levels(package):
    torch.manual_seed(0)
    bands = ProgressiveBandHashGrid(3, BANDS)
    assert isinstance(bands.encoding, Encoding)
    assert bands.scales == [3.0, 7.0]
    x = torch.rand(4, 3)
    assert [int(bands(x)[0].count_nonzero()), len(bands(x[:0]))] == [2, 0]
    bands.update_step(0, 99)
    assert torch.equal(bands(x), bands.encoding(x)) and bands.current_level == 2


def test_progressive_finite_differences_know_the_cells_of_tiny_cuda_nns_grid(package):
    settings = {"pos_encoding_config": BANDS, "finite_difference_normal_eps": "progressive"}
    assert ImplicitSDF(settings).normal_eps == 2.0 / 4


def test_fused_networks_are_tiny_cuda_nns(package):
    network = get_mlp(3, 2, {**MLP, "activation": "Squareplus", "output_activation": "exp"})
    assert network.network.network_config == {
        "otype": "FullyFusedMLP",
        "activation": "Squareplus",
        "output_activation": "None",
        "n_neurons": 16,
        "n_hidden_layers": 2,
    }
    out = network(torch.full((5, 4, 3), 2.0, dtype=torch.float64))
    torch.testing.assert_close(out, torch.full((5, 4, 2), 2.0).exp())
    assert network(torch.zeros(0, 4, 3)).shape == (0, 4, 2)
    assert isinstance(get_mlp(3, 2, {**MLP, "otype": "CutlassMLP"}), TCNNNetwork)
    assert isinstance(get_mlp(3, 2, {**MLP, "otype": "VanillaMLP"}), VanillaMLP)


def test_networks_of_one_back_end_are_refused_by_the_other(package):
    fused, plain = get_mlp(3, 2, MLP), get_mlp(3, 2, {**MLP, "otype": "VanillaMLP"})
    with pytest.raises(CheckpointError, match="`layers` was computed in plain torch.*VanillaMLP"):
        fused.load_state_dict(plain.state_dict())
    with pytest.raises(CheckpointError, match="`0.network` was computed by tiny-cuda-nn.*FullyFu"):
        nn.Sequential(plain).load_state_dict(nn.Sequential(fused).state_dict())
    for network in (fused, plain):
        network.load_state_dict(network.state_dict())


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_grid_of_another_size_is_refused(package, backend):
    source = get_encoding(3, {**HASH, "n_levels": 1})
    target = get_encoding(3, {**HASH, "backend": backend})
    message = "`encoding.encoding.params` has 128 parameters, this one has 640.*`n_levels`"
    with pytest.raises(CheckpointError, match=message):
        target.load_state_dict(source.state_dict(), strict=False)


def test_what_tiny_cuda_nn_refuses_is_the_users_to_change(package):
    with pytest.raises(UserError, match="only 16, 32, 64 and 128 neurons.*`otype: VanillaMLP`"):
        get_mlp(3, 2, {**MLP, "n_neurons": 48})


def test_without_the_package_cuda_computes_in_torch_and_it_is_said_once(cuda, monkeypatch, said):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    assert isinstance(get_encoding(3, HASH).encoding.encoding, HashGrid)
    assert isinstance(get_mlp(3, 1, MLP), VanillaMLP)
    assert len(said) == 1 and "tiny-cuda-nn cannot be imported" in said[0]
    with pytest.raises(UserError, match="pip install 'git"):
        TCNNNetwork(3, 1, MLP)
