"""The image loss of the baselines (HiFA, arXiv 2305.18766, section 3.2): x0 compared in pixels."""

from jaxtyping import Bool, Float
from torch import Tensor

from ..priors.base import Denoiser
from ..search import Candidates


def decoded_x0(
    noise_pred: Float[Tensor, "K B c h w"],
    candidates: Candidates,
    denoiser: Denoiser,
    mask: Bool[Tensor, "K B"],
) -> Float[Tensor, "K B 3 H W"]:
    """Decode `(z_t - sigma eps) / alpha` where `mask` is true; zeros elsewhere."""
    alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, noise_pred)
    x0 = (candidates.noisy - sigma * noise_pred) / alpha
    decoded = denoiser.decode(x0[mask][None])[0]  # [rows 3 H W]
    images = decoded.new_zeros(*mask.shape, *decoded.shape[1:])
    images[mask] = decoded
    return images
