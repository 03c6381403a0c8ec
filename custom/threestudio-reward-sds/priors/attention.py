"""Which kernels compute attention."""

from contextlib import contextmanager
from typing import Iterator

import torch


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Keep cuDNN's attention out of the forward passes of this block, and so of their backward.

    On Hopper GPUs its gradients in half precision are NaN for some lengths of the sequence
    (github.com/pytorch/pytorch/issues/196678); the other kernels' are not.
    """
    flags = torch.backends.cuda
    if not hasattr(flags, "enable_cudnn_sdp"):  # torch before 2.3 has no such kernel
        yield
        return
    enabled = flags.cudnn_sdp_enabled()
    flags.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        flags.enable_cudnn_sdp(enabled)
