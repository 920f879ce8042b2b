"""DCUNet-20 in textbook form: the baseline of the benchmarks, and an independent reference for the tests.

Four real convolutions for a complex one, real and imaginary parts in a last dimension of 2, separate batch norms of
both parts, concatenation. It shares only the plans of rows with common.network.dcunet.
"""

import torch
from torch import nn
from torch.nn import functional as F

from common.network.dcunet import DCUNet20


class TextbookLayer(nn.Module):
    """A layer from and to (batch, channels, bins, frames, 2). The last layer ends in the bounded mask."""

    def __init__(self, channels_in, channels_out, row, transposed, last=False):
        super().__init__()
        options = {"kernel_size": row.kernel, "stride": row.stride, "padding": row.padding}
        if transposed:
            options["output_padding"] = row.output_padding
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.real, self.imag = (kind(channels_in, channels_out, bias=False, **options) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(2, channels_out))
        self.norms = None if last else nn.ModuleList(nn.BatchNorm2d(channels_out) for _ in range(2))

    def forward(self, x):
        re, im = x[..., 0], x[..., 1]
        y = torch.stack([self.real(re) - self.imag(im), self.real(im) + self.imag(re)], -1)
        y = y + self.bias.T[:, None, None, :]
        if self.norms is None:
            magnitude = torch.sqrt(y[..., 0] ** 2 + y[..., 1] ** 2 + 1e-12)[..., None]
            return torch.tanh(magnitude) * y / magnitude
        return F.leaky_relu(torch.stack([norm(y[..., part]) for part, norm in enumerate(self.norms)], -1), 0.01)


class TextbookDCUNet20(nn.Module):
    """(batch, inputs, bins, frames, 2) -> mask (batch, 1, bins, frames, 2), for sizes that fit the strides."""

    def __init__(self, plan, width, depth_factors):
        super().__init__()
        channels = [plan.inputs] + [factor * width for factor in depth_factors]
        self.encoder = nn.ModuleList(TextbookLayer(channels[k], channels[k + 1], row, False)
                                     for k, row in enumerate(plan.encoder))
        self.decoder, previous = nn.ModuleList(), channels[-1]
        for k, row in enumerate(plan.decoder):
            out = channels[9 - k] if k < 9 else 1
            self.decoder.append(TextbookLayer(previous + (channels[10 - k] if k else 0), out, row, True, last=k == 9))
            previous = out

    def forward(self, x):
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.decoder[0](skips.pop())
        for layer in self.decoder[1:]:
            x = layer(torch.cat([x, skips.pop()], 1))
        return x


def textbook_planes(planes: torch.Tensor) -> torch.Tensor:
    """Turn our planes (batch, 2 * inputs, bins, frames) into the textbook's (batch, inputs, bins, frames, 2)."""
    return planes.unflatten(1, (-1, 2)).movedim(2, -1).contiguous()


def textbook_copy(network: DCUNet20) -> TextbookDCUNet20:
    """Make the textbook network with the weights of ours, in the same mode."""
    copy = TextbookDCUNet20(network.plan, network.width, network.depth_factors).to(network.mask.bias.dtype)
    ours = [*network.encoder, *network.decoder, network.mask]
    with torch.no_grad():
        for layer, target in zip(ours, [*copy.encoder, *copy.decoder], strict=True):
            conv = getattr(layer, "conv", layer)
            target.real.weight.copy_(conv.weight_real)
            target.imag.weight.copy_(conv.weight_imag)
            target.bias.copy_(conv.bias.view(2, -1))
            for part, norm in enumerate(target.norms or []):
                for name, value in norm.state_dict().items():
                    own = layer.norm.state_dict()[name]
                    value.copy_(own.view(2, -1)[part] if own.ndim else own)
    return copy.train(network.training)
