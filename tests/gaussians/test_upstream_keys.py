"""Keys of threestudio's 3DGS extension: every one of them is known and accepted."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from threestudio.registry import find
from threestudio.utils.config import merge_configs
from threestudio.utils.config_check import config_faults

ROOT = Path(__file__).resolve().parents[2]
GEOMETRY = {
    "max_num": 500000,
    "sh_degree": 0,
    "position_lr": 0.001,
    "scale_lr": 0.003,
    "scaling_lr": 0.005,
    "feature_lr": 0.01,
    "opacity_lr": 0.05,
    "rotation_lr": 0.005,
    "pred_normal": False,
    "normal_lr": 0.001,
    "sphere": False,
    "color_clip": 2.0,
    "init_num_pts": 100,
    "pc_init_radius": 0.8,
    "opacity_init": 0.1,
    "densification_interval": 50,
    "prune_interval": 50,
    "opacity_reset_interval": 100000,
    "densify_from_iter": 100,
    "densify_until_iter": 2000,
    "prune_from_iter": 100,
    "prune_until_iter": 2000,
    "densify_grad_threshold": 0.01,
    "min_opac_prune": 0.005,
    "split_thresh": 0.02,
    "radii2d_thresh": 1000.0,
    "prune_big_points": False,
    "geometry_convert_from": "",
    "load_ply_only_vertex": False,
    "shap_e_guidance_config": {},
}
"""Of the geometry, with upstream's defaults."""
SHARED = [
    *("data.rays_d_normalize=false", "data.batch_size=4", "data.camera_distance_range=[2.5,2.5]"),
    *("data.fovy_range=[60,70]", "data.elevation_range=[-20,90]", "data.eval_fovy_deg=70."),
    *("data.eval_camera_distance=2.5", "system.visualize_samples=false"),
    *("system.renderer.debug=false", "system.guidance.max_step_percent=[1000,0.98,0.5,1001]"),
    *(
        "system.loss.lambda_sds=0.1",
        "system.loss.lambda_position=1",
        "system.loss.lambda_opacity=1e-4",
    ),
    *(
        "system.loss.lambda_scales=1e-4",
        "system.loss.lambda_tv_loss=1",
        "trainer.precision=32-true",
    ),
    *("system.loss.lambda_depth_tv_loss=1", "system.geometry.position_lr=[0,0.001,2e-5,1000]"),
    *("system.exporter_type=gaussian-mesh-exporter", "system.exporter.fmt=obj"),
    *("system.exporter.save_name=model", "system.exporter.save_video=true"),
]
"""What all of upstream's YAMLs say."""
OPTIMIZER = [
    *("system.optimizer.name=Adam", "system.optimizer.args.lr=0.01"),
    *("system.optimizer.args.betas=[0.9,0.99]", "system.optimizer.args.eps=1e-15"),
    "system.optimizer.params.background.lr=0.001",
]
YAMLS = {
    "basic": [
        *("system.renderer_type=diff-gaussian-rasterizer", "system.renderer.invert_bg_prob=0.5"),
        *(
            "system.background_type=solid-color-background",
            "system.renderer.back_ground_color=[1,1,1]",
        ),
    ],
    "advanced": [
        *(
            "system.renderer_type=diff-gaussian-rasterizer-advanced",
            "system.renderer.invert_bg_prob=1",
        ),
    ],
    "background": [
        "system.renderer.back_ground_color=[1,1,1]",
        "system.renderer_type=diff-gaussian-rasterizer-background",
        # upstream's is black or white, see the README
        "system.background_type=mvdream-neural-environment-map-background",
        *("system.background.random_aug=true", "system.background.random_aug_prob=0.8"),
        *("system.geometry.densify_until_iter=10000", *OPTIMIZER),
    ],
    "mvdream": [
        "system.loss.lambda_sparsity=1",
        "system.renderer_type=diff-gaussian-rasterizer-background",
        "system.background_type=mvdream-neural-environment-map-background",
        *("system.background.random_aug=true", "system.background.share_aug_bg=true", *OPTIMIZER),
        "system_type=gaussian-splatting-mvdream-system",
        "data_type=mvdream-random-multiview-camera-datamodule",
        *(
            "data.n_view=4",
            "data.batch_size=[4,4]",
            "data.resolution_milestones=[5000]",
            "data.camera_distance_range=[0.8,1.0]",
        ),
        *("data.fovy_range=[15,60]", "data.elevation_range=[0,30]"),
        "system.geometry.color_clip=[0,0.01,0.02,1500,0.5,4000,1,7000]",
        *("system.geometry.feature_lr=[0,0.005,0.001,6000]", "system.geometry.max_num=100000"),
    ],
}
"""What one of them says beside."""


def test_every_key_of_the_geometry_has_upstreams_default():
    cls = find("gaussian-splatting")
    made = cls({**GEOMETRY})
    plain = cls({}).cfg
    assert cls.check(made.cfg) == []
    assert {key: OmegaConf.to_container(plain)[key] for key in GEOMETRY} == GEOMETRY


def check(overrides: list[str]) -> list[str]:
    paths = (
        ROOT / "custom/threestudio-3dgs/configs/sd21-gaussians.yaml",
        ROOT / "configs/tiny-blocks-gaussians.yaml",
    )
    prompt = "system.prompt_processor.prompt=a cube"
    merged: Any = OmegaConf.to_container(
        merge_configs(*map(str, paths), cli_args=[prompt, *overrides]), resolve=True
    )
    return config_faults(merged)


@pytest.mark.parametrize("name", YAMLS)
def test_the_keys_of_upstreams_yamls_are_known(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check([*SHARED, *YAMLS[name]]) == []
    (fault,) = check([*SHARED, *YAMLS[name], "system.geometry.splitt_thresh=0.02"])
    assert "Did you mean `split_thresh`" in fault
