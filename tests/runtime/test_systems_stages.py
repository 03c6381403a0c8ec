"""Systems of several stages, conversion between their geometries, and the optimizer Adan."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.runtime import toys
from threestudio.registry import find, register
from threestudio.run import run
from threestudio.systems.optimizers import Adan
from threestudio.systems.utils import optimizer_class
from threestudio.utils.checkpoints import read_checkpoint
from threestudio.utils.errors import CheckpointError, ConfigError

BATCH = {"rays": torch.full((2, 4, 4, 3), 0.25), "elevation": torch.zeros(2)}


class FlatMesh:
    """Losses of a mesh, by hand."""

    def normal_consistency(self) -> torch.Tensor:
        return torch.tensor(0.25)

    def laplacian(self) -> torch.Tensor:
        return torch.tensor(0.5)


@register("toy-mesh-renderer")
class ToyMeshRenderer(toys.ToyRenderer):
    """Returns a mesh, and normals that tell whether colours were asked for."""

    def forward(self, rays: Any, render_rgb: bool = True, **kwargs: Any) -> dict[str, Any]:
        out = super().forward(rays)
        out |= {"mesh": FlatMesh(), "comp_normal": out["comp_rgb"] * 0.5}
        return out if render_rgb else {k: v for k, v in out.items() if k != "comp_rgb"}


@register("toy-shaped-geometry")
class ToyShapedGeometry(toys.ToyGeometry):
    """Has a shape to start as, and can be made of another toy."""

    @dataclass
    class Config(toys.ToyGeometry.Config):
        extra: float = 0.0

    has_weights: bool = False

    def initialize_shape(self) -> None:
        if not self.has_weights:
            self.color.bias.data.fill_(7.0)

    @staticmethod
    def create_from(other: Any, cfg: Any = None, copy_net: bool = True, **kwargs: Any) -> Any:
        made = ToyShapedGeometry(cfg)
        made.color.load_state_dict(other.color.state_dict())
        made.size_before, made.copy_net, made.has_weights = other.cfg.size, copy_net, True
        return made


def build(kind: str, **changes: Any) -> Any:
    system = find(kind)(toys.config(Path("out"), **changes)["system"])
    system.logged = {}
    system.log = lambda name, value, **kwargs: system.logged.__setitem__(name, float(value))
    system.set_resume_status(0, 5)
    return system


@pytest.mark.parametrize("kind", ["dreamfusion-system", "magic3d-system", "mvdream-system"])
def test_one_step_of_the_systems_that_only_differ_in_their_losses(kind):
    system = build(kind)
    loss = system.training_step(BATCH, 0)["loss"]
    assert loss.item() == pytest.approx(0.75 * system.logged["train/loss_sds"])


def test_the_second_stage_of_magic3d_smooths_the_mesh_and_reads_nothing_else():
    weights = {"lambda_sds": 0.0, "lambda_sparsity": 9.0, "lambda_normal_consistency": 100.0}
    settings = {"loss": weights, "renderer_type": "toy-mesh-renderer"}
    fine = build("magic3d-system", refinement=True, **settings)
    assert fine.training_step(BATCH, 0)["loss"].item() == pytest.approx(25.0)
    coarse = build("magic3d-system", **settings)
    loss = coarse.training_step(BATCH, 0)["loss"].item()
    assert loss == pytest.approx(9.0 * coarse.logged["train/loss_sparsity"])


def test_the_geometry_stage_of_prolificdreamer_guides_normals():
    weights = {
        "lambda_sds": 1.0,
        "lambda_normal_consistency": 4.0,
        "lambda_laplacian_smoothness": 2.0,
    }
    settings = {"loss": weights, "renderer_type": "toy-mesh-renderer"}
    system = build("prolificdreamer-system", stage="geometry", **settings)
    out = system(BATCH)
    assert "comp_rgb" not in out
    loss = system.training_step(BATCH, 0)["loss"].item()
    seen = system.guidance(out["comp_normal"], "a cube")["loss_sds"].item()
    assert loss == pytest.approx(seen + 4.0 * 0.25 + 2.0 * 0.5)
    texture = build("prolificdreamer-system", stage="texture", **settings)
    assert texture.training_step(BATCH, 0)["loss"].item() == pytest.approx(
        texture.logged["train/loss_sds"]
    )


def test_pictures_of_a_stage_without_colours_show_normals(tmp_path):
    system = build(
        "prolificdreamer-system", stage="geometry", renderer_type="toy-mesh-renderer"
    ).eval()
    cells = system._view(system(BATCH))
    assert [cell["type"] for cell in cells] == ["rgb", "grayscale"]


def test_prolificdreamer_shows_both_of_its_networks(tmp_path, monkeypatch):
    system = build("prolificdreamer-system")
    system.cfg.visualize_samples = True
    system.set_save_dir(str(tmp_path))
    for name, value in (("sample", 0.0), ("sample_lora", 1.0)):
        draw = lambda *args, value=value, **kwargs: torch.full((2, 4, 4, 3), value)  # noqa: E731
        monkeypatch.setattr(type(system.guidance), name, staticmethod(draw), raising=False)
    system.validation_step({**BATCH, "index": torch.tensor([0, 1])}, 0)
    assert (tmp_path / "it5-0-sample.png").is_file()


def test_an_unknown_stage_is_answered_with_the_known_ones():
    config = toys.config(Path("out"))["system"]
    cls = find("prolificdreamer-system")
    parsed = SimpleNamespace(cfg=cls({**config}).cfg)
    parsed.cfg.stage = "fine"
    assert cls.check(parsed.cfg) == [
        "system.stage is 'fine'; allowed are coarse, geometry, texture."
    ]


def test_a_mesh_loss_without_a_mesh_names_the_renderer():
    with pytest.raises(ConfigError, match="renderer_type: nvdiff-rasterizer"):
        build(
            "magic3d-system",
            refinement=True,
            loss={"lambda_sds": 1, "lambda_normal_consistency": 1},
        ).training_step(BATCH, 0)


def test_a_run_starts_from_the_geometry_of_another(tmp_path):
    """With its weights, its settings from parsed.yaml, and the overrides; not with its shape."""
    first = run(toys.write(tmp_path, geometry={"size": 5}), ["tag=first"])
    source = f"{tmp_path}/out/toy/fLAST/ckpts/last.ckpt"
    settings = {
        "geometry_type": "toy-shaped-geometry",
        "geometry_convert_from": source,
        "geometry_convert_override": {"size": 6},
    }
    (tmp_path / "two").mkdir()
    second = run(toys.write(tmp_path / "two", **settings), ["trainer.max_steps=0", "tag=second"])
    made, old = second.system.geometry, first.system.geometry
    assert made.size_before == 6 and made.copy_net is False
    assert torch.equal(made.color.bias, old.color.bias)


def test_a_new_geometry_is_given_its_shape_once(tmp_path):
    settings = {"geometry_type": "toy-shaped-geometry"}
    first = run(
        toys.write(tmp_path, **settings),
        ["trainer.max_steps=1", "system.optimizer.params.geometry.lr=0"],
    )
    assert first.system.geometry.color.bias.tolist() == [7.0] * 3
    parsed, resume = f"{first.trial_dir}/configs/parsed.yaml", f"{first.trial_dir}/ckpts/last.ckpt"
    changed = read_checkpoint(resume)
    changed["state_dict"]["geometry.color.bias"].zero_()
    torch.save(changed, resume)
    again = run(parsed, [f"resume={resume}", "trainer.max_steps=2"])
    assert again.system.geometry.color.bias.tolist() == [0.0] * 3


def test_what_cannot_be_converted_is_said_before_anything_is_built(tmp_path):
    config = toys.write(tmp_path, geometry_convert_from="nowhere/ckpts/last.ckpt")
    with pytest.raises(ConfigError, match="geometry_convert_from: 'nowhere/ckpts/last.ckpt' does"):
        run(config)
    stray = tmp_path / "last.ckpt"
    stray.write_bytes(b"")
    with pytest.raises(ConfigError, match="is not in the `ckpts` folder of a run"):
        run(toys.write(tmp_path, geometry_convert_from=str(stray)))


def test_a_checkpoint_of_another_geometry_is_named(tmp_path):
    first = run(toys.write(tmp_path), ["trainer.max_steps=1"])
    parsed = Path(first.trial_dir, "configs/parsed.yaml")
    parsed.write_text(parsed.read_text().replace("toy-geometry", "toy-empty"))
    settings = {"geometry_type": "toy-shaped-geometry"}
    settings["geometry_convert_from"] = f"{first.trial_dir}/ckpts/last.ckpt"
    settings["geometry_convert_override"] = {}
    parsed.write_text(parsed.read_text().replace("radius: 1.0", "weights: null"))
    with pytest.raises(CheckpointError, match="does not hold the geometry"):
        run(toys.write(tmp_path, **settings), ["tag=two"])


def reference_adan(p, grads, lr, betas, eps, decay):
    """Algorithm 1 of the paper, with its betas (1 - ours), on numbers."""
    b1, b2, b3 = (1 - beta for beta in betas)
    m = v = n = 0.0
    previous = grads[0]
    for k, g in enumerate(grads, start=1):
        d, previous = g - previous, g
        m = (1 - b1) * m + b1 * g
        v = (1 - b2) * v + b2 * d
        n = (1 - b3) * n + b3 * (g + (1 - b2) * d) ** 2
        corrected = [x / (1 - (1 - b) ** k) for x, b in ((m, b1), (v, b2), (n, b3))]
        step = lr / (corrected[2] ** 0.5 + eps)
        p = (p - step * (corrected[0] + (1 - b2) * corrected[1])) / (1 + lr * decay)
    return p


def test_adan_follows_the_paper():
    betas, grads = (0.9, 0.8, 0.95), [1.0, -0.5, 0.25, 2.0]
    p = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = Adan([p], lr=0.1, betas=betas, eps=1e-3, weight_decay=0.02)
    for grad in grads:
        p.grad = torch.tensor([grad], dtype=torch.float64)
        optimizer.step()
    expected = reference_adan(2.0, grads, 0.1, betas, 1e-3, 0.02)
    assert p.item() == pytest.approx(expected, abs=1e-12)


def test_adan_bounds_the_gradient_of_all_parameters_together():
    """(3, 4) has norm 5: scaled down to 1 it is (0.6, 0.8)."""
    ps = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = Adan(ps, max_grad_norm=1.0, eps=0.0)
    for p, grad in zip(ps, (3.0, 4.0), strict=True):
        p.grad = torch.tensor([grad])
    optimizer.step()
    means = [optimizer.state[p]["mean"].item() / (1 - 0.98) for p in ps]
    assert means == pytest.approx([0.6, 0.8], rel=1e-5)


def test_adan_resumes_from_its_state():
    def train(p, optimizer, steps):
        for step in steps:
            p.grad = torch.tensor([float(step % 3) - 0.7])
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(1))
    train(whole, Adan([whole]), range(6))
    half = torch.nn.Parameter(torch.ones(1))
    first = Adan([half])
    train(half, first, range(3))
    second = Adan([half])
    second.load_state_dict(first.state_dict())
    train(half, second, range(3, 6))
    assert torch.equal(whole, half)


def test_optimizers_by_name():
    assert optimizer_class("Adan") is Adan
    with pytest.raises(ConfigError, match="needs NVIDIA's apex"):
        optimizer_class("FusedAdam")
    with pytest.raises(ValueError, match="three betas in"):
        Adan([torch.nn.Parameter(torch.zeros(1))], betas=(0.9, 0.99))
