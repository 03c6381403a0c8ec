"""Slow, obvious implementations in float64: one candidate, one scene, one network call at a time.

Written from the equations of RewardSDS, DDIM, MVDream and of progressive distillation (what v is,
arXiv 2202.00512), sharing no code with the extension.
A `network(noisy [V c h w], t, half) -> [V c h w]` predicts the noise of one scene, with the prompt
(`half = 1`) or without (`half = 0`). With Perp-Neg it also predicts for negative prompts: they are
given as (`half`, weight).
"""

import math
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

Network = Callable[[Tensor, int, int], Tensor]
Negatives = Sequence[Tuple[int, float]]


def noise_network(output: Network, alpha_bar: Tensor, prediction_type: str) -> Network:
    """Return the noise prediction of a network that outputs it, or v: `alpha v + sigma z_t`."""

    def network(noisy: Tensor, t: int, half: int) -> Tensor:
        a, found = alpha_bar[t], output(noisy, t, half)
        if prediction_type == "v_prediction":
            return a.sqrt() * found + (1 - a).sqrt() * noisy
        return found

    return network


def guided_noise(
    noisy: Tensor, t: int, network: Network, scale: float, negatives: Negatives = ()
) -> Tensor:
    """Classifier-free guidance `eps_u + s (eps_c - eps_u)`; with negative prompts Perp-Neg, image
    by image: `eps_u + s (e_c + sum_i w_i (e_i - <e_i, e_c> / <e_c, e_c> e_c))`, `e = eps - eps_u`.
    """
    eps_c, eps_u = network(noisy, t, 1), network(noisy, t, 0)
    direction = eps_c - eps_u
    total = direction.clone()
    for half, weight in negatives:
        e_i = network(noisy, t, half) - eps_u
        for v in range(len(noisy)):
            along = (e_i[v] * direction[v]).sum() / (direction[v] ** 2).sum()
            total[v] += weight * (e_i[v] - along * direction[v])
    return eps_u + scale * total


def perp_neg_texts(
    views: Dict[str, Tensor], uncond: Tensor, elevation: float, azimuth: float
) -> Tuple[List[Tensor], List[float]]:
    """Return embeddings (unconditional, positive, two negatives) and weights of one camera, with
    threestudio's default weights; azimuth in [-180, 180).
    """
    if elevation > 60:
        return [uncond, views["overhead"], uncond, uncond], [0.0, 0.0]
    side, front, back = views["side"], views["front"], views["back"]
    if abs(azimuth) < 90:
        r = 1 - abs(azimuth) / 90
        weights = [-(4 * math.exp(-0.5 * x) - 2.426) for x in (r, 1 - r)]
        return [uncond, r * front + (1 - r) * side, front, side], weights
    r = 2 - abs(azimuth) / 90
    weights = [-(math.exp(-0.5 * r) + c) for c in (-0.606, 0.967)]
    return [uncond, r * side + (1 - r) * back, side, front], weights


def plain_residual(
    z: Tensor,
    noise: Tensor,
    t: int,
    alpha_bar: Tensor,
    network: Network,
    scale: float,
    negatives: Negatives = (),
) -> Tensor:
    """SDS of one scene: `(1 - alpha_bar) (guided noise - noise)`."""
    a = alpha_bar[t]
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    return (1 - a) * (guided_noise(noisy, t, network, scale, negatives) - noise)


def reconstruction_residual(
    z: Tensor,
    noise: Tensor,
    t: int,
    alpha_bar: Tensor,
    network: Network,
    scale: float,
    negatives: Negatives = (),
    share: float = 0.5,
) -> Tensor:
    """Gradient of `0.5 |z - x0'|^2` by autograd, the rescaled x0 prediction x0' held fixed."""
    a = alpha_bar[t]
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    x0 = (noisy - (1 - a).sqrt() * guided_noise(noisy, t, network, scale, negatives)) / a.sqrt()
    x0_cond = (noisy - (1 - a).sqrt() * network(noisy, t, 1)) / a.sqrt()
    rescaled = x0 * (x0_cond.std() / (x0.std() + 1e-8))
    target = (share * rescaled + (1 - share) * x0).detach()
    latents = z.detach().clone().requires_grad_(True)
    loss = 0.5 * ((latents - target) ** 2).sum()
    return torch.autograd.grad(loss, latents)[0]


def vsd_residual(
    z: Tensor,
    noise: Tensor,
    t: int,
    alpha_bar: Tensor,
    network: Network,
    adapted: Network,
    scale: float,
    scale_lora: float,
) -> Tensor:
    """VSD of one scene: `(1 - alpha_bar) (eps_prior - eps_lora)`, both guided by their scale."""
    a = alpha_bar[t]
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    guided = []
    for evaluate, s in ((network, scale), (adapted, scale_lora)):
        eps_c, eps_u = evaluate(noisy, t, 1), evaluate(noisy, t, 0)
        guided.append(eps_u + s * (eps_c - eps_u))
    return (1 - a) * (guided[0] - guided[1])


def denoising_loss(
    z: Tensor,
    noises: Tensor,
    timesteps: List[int],
    alpha_bar: Tensor,
    output: Network,
    half: int,
    prediction_type: str,
) -> Tensor:
    """Mean squared error of the adapter's output, one timestep per scene.

    It shall be the noise, or `v = alpha noise - sigma z`.
    """
    views, errors = len(z) // len(timesteps), []
    for g, t in enumerate(timesteps):
        scene, a = slice(g * views, (g + 1) * views), alpha_bar[t]
        noisy = a.sqrt() * z[scene] + (1 - a).sqrt() * noises[scene]
        target = noises[scene]
        if prediction_type == "v_prediction":
            target = a.sqrt() * noises[scene] - (1 - a).sqrt() * z[scene]
        errors.append((output(noisy, t, half) - target) ** 2)
    return torch.cat(errors).mean()


def ddim_preview(
    noisy: Tensor,
    times: List[int],
    alpha_bar: Tensor,
    network: Network,
    scale: float,
    end: Optional[int] = None,
    negatives: Negatives = (),
) -> Tensor:
    """Textbook deterministic DDIM through `times`, then to `end` (None: no noise at all)."""
    one = torch.ones((), dtype=alpha_bar.dtype)
    x = noisy
    for t, then in zip(times, [*times[1:], end], strict=True):
        a, b = alpha_bar[t], one if then is None else alpha_bar[then]
        eps = guided_noise(x, t, network, scale, negatives)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
    return x


def even_times(t: int, num_steps: int) -> List[int]:
    """Return t, ... : `num_steps` times evenly spaced from t towards 0, 0 itself left out."""
    return [int(t * (num_steps - i) / num_steps + 0.5) for i in range(num_steps)]


def strategy_weights(name: str, rewards: List[float]) -> List[float]:
    """Return the weights of one scene's candidates with the default settings of each strategy."""
    count = len(rewards)
    order = sorted(range(count), key=lambda k: -rewards[k])
    weights = [0.0] * count
    if name == "mean":
        return [1 / count] * count
    if name == "softmax":
        powers = torch.tensor(rewards, dtype=torch.float64).exp()
        return (powers / powers.sum()).tolist()
    if name == "best":
        weights[order[0]] = 1.0
    elif name == "min-max":
        for k in order[:2]:
            weights[k] = 0.45
        for k in order[-2:]:
            weights[k] = -0.05
    else:
        raise ValueError(name)
    return weights


def weighted_gradient(
    z: Tensor,
    noises: Tensor,
    timesteps: List[int],
    weights: List[List[float]],
    residual: Callable[[Tensor, Tensor, int], Tensor],
) -> Tensor:
    """Return `sum_k w_k residual_k / B` for each scene: the gradient of the guidance's loss.

    Args:
        z: Latents [B c h w], scene by scene.
        noises: One noise per candidate [K B c h w].
        timesteps: One per scene.
        weights: Of candidate k in scene g: `weights[k][g]`.
        residual: `(z, noise, t)` of one scene to its gradient.
    """
    views = len(z) // len(timesteps)
    total = torch.zeros_like(z)
    for k in range(len(noises)):
        for g, t in enumerate(timesteps):
            scene = slice(g * views, (g + 1) * views)
            total[scene] += weights[k][g] * residual(z[scene], noises[k, scene], t)
    return total / len(z)


def dds_residual(
    z: Tensor,
    source: Tensor,
    noise: Tensor,
    t: int,
    alpha_bar: Tensor,
    target_network: Network,
    source_network: Network,
    scale: float,
) -> Tensor:
    """DDS with w = 1: the SDS residual of the image under the target prompt minus that of the
    source under its own, at the same t and noise."""
    a = alpha_bar[t]
    residuals = []
    for latents, network in ((z, target_network), (source, source_network)):
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        residuals.append(guided_noise(noisy, t, network, scale) - noise)
    return residuals[0] - residuals[1]


def bridge_residual(
    z: Tensor,
    noise: Tensor,
    t: int,
    alpha_bar: Tensor,
    target_network: Network,
    source_network: Network,
    scale: float,
) -> Tensor:
    """Second stage of the bridge: `(1 - alpha_bar) s (eps_target - eps_source)`, without CFG."""
    a = alpha_bar[t]
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    return (1 - a) * scale * (target_network(noisy, t, 1) - source_network(noisy, t, 1))


def official_2d_weights(name: str, rewards: List[float]) -> Tuple[List[float], int]:
    """Return what the official 2D code multiplies each candidate's loss with, and how many it
    keeps: it divides every loss by their number, and by the size of their group once more.

    The names are the six rows of the paper's Table 5; its random one is the best of random numbers.
    """
    count = len(rewards)
    order = sorted(range(count), key=lambda k: -rewards[k])
    if name == "softmax":
        powers = [math.exp(r) for r in rewards]
        return [p / sum(powers) / count for p in powers], count
    best, worst = {
        "random one": (1, 0),
        "best one": (1, 0),
        "two best": (2, 0),
        "best and worst": (1, 1),
        "two best and two worst": (2, 2),
    }[name]
    kept, weights = best + worst, [0.0] * count
    for k in order[:best]:
        weights[k] = (0.9 if worst else 1.0) / best / kept
    for k in order[count - worst :]:
        weights[k] = -0.1 / worst / kept
    return weights, kept
