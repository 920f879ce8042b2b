"""A wider network whose first output equals that of a narrow trained one.

The narrow network's channels come first in every layer. Kernels from new channels to old ones begin at zero and learn;
kernels into new channels are random, as in any new network. So the steps of the narrow network, which cost less, are
not lost. After Net2Net (Chen et al. 2016), which copies channels and needs noise to make the copies differ.
"""

from collections.abc import Sequence

import torch

from common.errors import UserError
from common.network.dcunet import DCUNet20


def widen(narrow: DCUNet20, width: int, depth_factors: Sequence[int] | None = None) -> DCUNet20:
    """Make a network of the same plan that equals `narrow` in evaluation mode.

    width, depth_factors: as of DCUNet20. Raises UserError if a layer would have fewer channels than that of `narrow`.
    """
    wide = DCUNet20(width, narrow.plan_name, depth_factors, float(narrow.compression))
    for old, new in zip(narrow.depth_factors, wide.depth_factors, strict=True):
        if new * width < old * narrow.width:
            raise UserError(f"expected a network at least as wide as the weights to begin with, width {narrow.width} "
                            f"and depth factors {narrow.depth_factors}, got {width} and {wide.depth_factors}: set a "
                            "width that is not narrower, or choose other weights")
    with torch.no_grad():
        for old, new in zip(narrow.modules(), wide.modules(), strict=True):
            if hasattr(old, "weight_real"):
                _copy_kernels(old, new)
            elif isinstance(old, torch.nn.BatchNorm2d):
                kept = _planes([old.num_features // 2], [new.num_features // 2])
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(new, name)[kept] = getattr(old, name)
    return wide


def _copy_kernels(old, new):
    """Copy the kernels of a convolution. Kernels into channels that `old` lacks keep their random values."""
    inputs = _planes(old.in_channels, new.in_channels, parts=1)
    in_dim, out_dim = (0, 1) if new.transposed else (1, 0)
    n_outputs = old.weight_real.shape[out_dim]
    for name in ("weight_real", "weight_imag"):
        kept = getattr(new, name).narrow(out_dim, 0, n_outputs)
        kept.zero_().index_copy_(in_dim, inputs, getattr(old, name))
    new.bias[_planes([len(old.bias) // 2], [len(new.bias) // 2])] = old.bias


def _planes(narrow, wide, parts=2):
    """Return the places of the old channels among the new ones, for real and imaginary parts.

    narrow, wide: old and new channel counts of each input.
    """
    starts = [sum(wide[:k]) for k in range(len(wide))]
    channels = torch.cat([start + torch.arange(n) for start, n in zip(starts, narrow, strict=True)])
    return torch.cat([part * sum(wide) + channels for part in range(parts)])
