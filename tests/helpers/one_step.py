"""One step of a guidance of the extension, under whichever `threestudio` is on the path.

    python one_step.py <folder of threestudio> <guidance> <prior> <reward> <width of the texts>

prints what the guidance returned, and the gradients of render and adapter, as JSON.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

EXTENSION = Path(__file__).resolve().parents[2] / "custom" / "threestudio-reward-sds"
SIZE, VIEWS = 16, 4


def load_extension() -> None:
    """Import the folder under its own name, as upstream does."""
    name = EXTENSION.name
    spec = importlib.util.spec_from_file_location(
        name, EXTENSION / "__init__.py", submodule_search_locations=[str(EXTENSION)]
    )
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


class Prompt:
    """What a prompt processor returns, without views."""

    prompt = "a red cube"

    def __init__(self, width: int) -> None:
        import torch

        self.embeddings = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(7))

    def get_text_embeddings(self, elevation: Any, azimuth: Any, *rest: Any) -> Any:
        """Return B embeddings of the prompt, then B of the negative prompt."""
        return self.embeddings.repeat_interleave(len(azimuth), dim=0)


def take_step(name: str, prior: str, reward: str, width: int) -> dict[str, Any]:
    """Build the guidance and take step 3 on fixed inputs."""
    import torch

    import threestudio

    torch.manual_seed(0)
    settings = {
        "prior_type": "mvdream-prior",
        "ckpt_path": prior,
        "n_view": VIEWS,
        "n_noises": 4,
        "reward_model_type": "clip",
        "reward_model": {"pretrained_model_name_or_path": reward},
        "max_step_percent": [0, 0.98, 0.5, 10],
        "preview_steps": 2,
    }
    guidance = threestudio.find(name)(settings)
    guidance.do_update_step(0, 3)
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(VIEWS, SIZE, SIZE, 3, generator=generator).requires_grad_(True)
    c2w = torch.eye(4).repeat(VIEWS, 1, 1)
    c2w[:, :3, 3] = torch.nn.functional.normalize(
        torch.randn(VIEWS, 3, generator=generator), dim=-1
    )
    azimuth = torch.tensor([0.0, 90.0, 180.0, -90.0])
    out = guidance(
        rgb,
        Prompt(width),
        elevation=torch.zeros(VIEWS),
        azimuth=azimuth,
        camera_distances=torch.ones(VIEWS),
        c2w=c2w,
        mvp_mtx=c2w,
        height=SIZE,
    )
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    adapter = {key: tensor.grad.flatten().tolist() for key, tensor in guidance.named_parameters()}
    numbers = {key: torch.as_tensor(value).item() for key, value in out.items()}
    return {**numbers, "gradient": rgb.grad.flatten().tolist(), "adapter": adapter}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    load_extension()
    sys.stdout.write("\n" + json.dumps(take_step(*sys.argv[2:5], int(sys.argv[5]))))
