"""From blocks of sound to the noise in them, at the model's rate, in bounded memory.

The network gets chunks that lie on the grid of its strides, each with more real context on both sides than the network
can see, which is thrown away: the result is that of one pass over the whole signal. Before its beginning and behind its
end the signal is continued by its mirror image. A network that meets silence there takes the edge for music and leaves
its noise.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
import torch

from common.network.model import Denoiser

# Net length of a chunk: the context of 2.7 s, computed for nothing, is an eighth of it.
CHUNK_SECONDS = 20.0


def grid_samples(model: Denoiser) -> int:
    """Samples between two places of a signal that the network's strides treat alike."""
    return model.network.plan.time_stride * model.stft.hop_length


def context_samples(model: Denoiser) -> int:
    """Samples on either side beyond which nothing changes the noise of a place; a multiple of grid_samples."""
    frames = model.network.plan.context_frames() * model.stft.hop_length
    return frames + -(-model.stft.n_fft // grid_samples(model)) * grid_samples(model)


def resampled(blocks: Iterable[np.ndarray], rate_in: int, rate_out: int) -> Iterator[np.ndarray]:
    """A stream of (channels, samples) blocks at another rate, in step with the first (soxr leaves no delay)."""
    if rate_in == rate_out:
        yield from blocks
        return
    resampler = None
    for block in blocks:
        resampler = resampler or soxr.ResampleStream(rate_in, rate_out, block.shape[0], dtype="float32")
        yield resampler.resample_chunk(np.ascontiguousarray(block.T, np.float32)).T
    if resampler:
        empty = np.zeros((0, block.shape[0]), np.float32)
        yield resampler.resample_chunk(empty, last=True).T


def _mirrored(blocks, n):
    """The stream with `n` samples of its mirror image before it and behind it."""
    first, tail = [], None
    for block in blocks:
        block = block.astype(np.float32, copy=False)
        if tail is None:
            first.append(block)
            if sum(b.shape[-1] for b in first) <= n:
                continue
            block = np.concatenate(first, axis=-1)
            yield block[:, n:0:-1]
            tail = block[:, :0]
        yield block
        tail = np.concatenate([tail, block], axis=-1)[:, -n - 1 :]
    if tail is not None:
        yield tail[:, -2::-1]
    elif first and (whole := np.concatenate(first, axis=-1)).shape[-1]:
        yield np.pad(whole, ((0, 0), (n, n)), mode="reflect" if whole.shape[-1] > 1 else "edge")


def noise_stream(model: Denoiser, blocks: Iterable[np.ndarray], level: np.ndarray,
                 print_power: np.ndarray | None = None, chunk_seconds: float = CHUNK_SECONDS
                 ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of the sound and the noise in it, from a stream of (channels, samples) blocks at the model's rate.

    Both are float32 and as long as the stream in all. level: the RMS of each channel of the whole stream, (channels,).
    print_power: of the noise alone, (channels, bins), see common.network.noise_print. Memory grows with
    `chunk_seconds`, and not with the stream.
    """
    context, grid = context_samples(model), grid_samples(model)
    core = max(1, round(chunk_seconds * model.stft.sample_rate / grid)) * grid
    held = np.zeros((len(level), 0), np.float32)
    for block in _mirrored(blocks, context):
        held = np.concatenate([held, block], axis=-1)
        while held.shape[-1] >= context + core + context:
            yield _inner(model, held[:, : context + core + context], level, print_power)
            held = held[:, core:]
    if held.shape[-1] > 2 * context:
        yield _inner(model, held, level, print_power)


def _inner(model, chunk, level, print_power):
    """Sound and noise of a chunk without its context."""
    inner = slice(context_samples(model), -context_samples(model))
    return chunk[:, inner], chunk_noise(model, chunk, level, print_power)[:, inner]


@torch.inference_mode()
def chunk_noise(model: Denoiser, audio: np.ndarray, level: np.ndarray,
                print_power: np.ndarray | None = None) -> np.ndarray:
    """The noise in one chunk (channels, samples) at the model's rate.

    Channels pass one by one, so that memory does not grow with their number.
    """
    waveforms = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(model.device)
    levels = torch.from_numpy(level.astype(np.float32)[:, None]).to(model.device)
    powers = None if print_power is None else torch.from_numpy(print_power.astype(np.float32)).to(model.device)
    channels = (slice(c, c + 1) for c in range(len(audio)))
    return torch.cat([waveforms[c] - model(waveforms[c], levels[c], None if powers is None else powers[c])
                      for c in channels]).cpu().numpy()
