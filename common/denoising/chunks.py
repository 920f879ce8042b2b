"""The noise in a stream of sound, at the model's rate and in bounded memory.

The network gets chunks that start on the grid of its strides. Each chunk has more real context on both sides than the
network can see, and the context is dropped from the output, so that the result is that of one pass over the whole
signal. Before its start and after its end the signal is continued by its mirror image: with silence there, a network
takes the edge for music and leaves its noise.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from common.network.noise_model import NoiseModel

# Length of a chunk without its context. The context of 2.7 s costs an eighth of the computation.
CHUNK_SECONDS = 20.0


def grid_samples(model: NoiseModel) -> int:
    """Number of samples by which a shift of the signal only shifts the network's output."""
    return model.time_stride * model.stft.hop_length


def context_samples(model: NoiseModel) -> int:
    """Number of samples before and after a sample that can change the noise estimate there; a multiple of the grid."""
    grid = grid_samples(model)
    return model.context_frames * model.stft.hop_length + -(-model.stft.n_fft // grid) * grid


def resampled(blocks: Iterable[np.ndarray], rate_in: int, rate_out: int) -> Iterator[np.ndarray]:
    """Resample a stream of (channels, samples) blocks without delay."""
    if rate_in == rate_out:
        yield from blocks
        return
    resampler = None
    for block in blocks:
        resampler = resampler or soxr.ResampleStream(rate_in, rate_out, block.shape[0], dtype="float32")
        yield resampler.resample_chunk(np.ascontiguousarray(block.T, np.float32)).T
    if resampler:
        yield resampler.resample_chunk(np.zeros((0, block.shape[0]), np.float32), last=True).T


def noise_stream(model: NoiseModel, blocks: Iterable[np.ndarray], level: np.ndarray,
                 print_power: np.ndarray | None = None, chunk_seconds: float = CHUNK_SECONDS) -> Iterator[np.ndarray]:
    """Estimate the noise in a stream of (channels, samples) blocks at the model's rate.

    level: RMS of each channel of the whole stream, (channels,). print_power: power of the noise print, (channels,
    bins), see common.network.noise_print. Yields float32 arrays (2, channels, samples), the sound and the noise in it,
    of the stream's total length. Memory grows with `chunk_seconds`, not with the stream.
    """
    context, grid = context_samples(model), grid_samples(model)
    core = max(1, round(chunk_seconds * model.stft.sample_rate / grid)) * grid
    held, mirrored = np.zeros((len(level), 0), np.float32), False
    for block in blocks:
        held = np.concatenate([held, block], axis=-1, dtype=np.float32)
        if not mirrored and held.shape[-1] > context:
            held, mirrored = np.pad(held, ((0, 0), (context, 0)), mode="reflect"), True
        while mirrored and held.shape[-1] >= context + core + context:
            yield _core_noise(model, held[:, : context + core + context], level, print_power)
            held = held[:, core:]
    if held.size:
        held = np.pad(held, ((0, 0), (0 if mirrored else context, context)), mode="reflect")
        for start in range(0, held.shape[-1] - 2 * context, core):
            yield _core_noise(model, held[:, start : start + context + core + context], level, print_power)


def _core_noise(model, chunk, level, print_power):
    """Sound and noise of a chunk without its context, (2, channels, samples)."""
    context = context_samples(model)
    return np.stack([chunk, chunk_noise(model, chunk, level, print_power)])[..., context:-context]


def chunk_noise(model: NoiseModel, audio: np.ndarray, level: np.ndarray,
                print_power: np.ndarray | None = None) -> np.ndarray:
    """Estimate the noise in one chunk, (channels, samples) -> (channels, samples) at the model's rate.

    Channels are computed one by one, so that memory does not grow with their number.
    """
    channels = [slice(number, number + 1) for number in range(len(audio))]
    return np.concatenate([model.noise(audio[channel], level[channel, None],
                                       None if print_power is None else print_power[channel]) for channel in channels])
