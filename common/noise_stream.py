"""From blocks of sound to the noise in them, at the model's rate, in bounded memory.

On a processor the network itself streams (common.streaming). Other forms of it get chunks that lie on the grid of
its strides, each with more real context on both sides than the network can see, which is thrown away. Either way
the result is that of one pass over the whole signal.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from common.dcunet import TIME_STRIDE, context_frames
from common.model import SILENCE_RMS, Denoiser
from common.stft import OverlapAdd
from common.streaming import StreamingDCUNet20

# Net length of a chunk: the context of 3 s, computed for nothing, is less than a tenth of it.
CHUNK_SECONDS = 35.0
# Frames that a zero-continued chunk edge reaches into the STFT, beside the network's own context.
STFT_CONTEXT_FRAMES = TIME_STRIDE


def noise_stream(model: Denoiser, blocks: Iterable[np.ndarray], level: np.ndarray,
                 chunk_seconds: float = CHUNK_SECONDS) -> Iterator[np.ndarray]:
    """The noise in a stream of (channels, samples) blocks at the model's rate, equally long in all.

    `level` is the RMS of each channel of the whole stream, shape (channels,). `chunk_seconds` concerns networks that
    take chunks: memory grows with it. Memory does not grow with the stream.
    """
    if isinstance(model.network, StreamingDCUNet20):
        return _by_columns(model, blocks, level)
    return _by_chunks(model, blocks, level, chunk_seconds)


@torch.inference_mode()
def chunk_noise(model: Denoiser, audio: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The noise in one chunk (channels, samples) at the model's rate; channels pass as a batch."""
    waveform = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(model.device)
    levels = torch.from_numpy(level.astype(np.float32)[:, None]).to(model.device)
    return (waveform - model(waveform, levels)).cpu().numpy()


def _by_chunks(model, blocks, level, chunk_seconds):
    grid = TIME_STRIDE * model.stft.hop_length
    context = (context_frames() + STFT_CONTEXT_FRAMES) * model.stft.hop_length
    core = max(1, round(chunk_seconds * model.stft.sample_rate / grid)) * grid
    held, n_left = [], 0  # samples waiting; the first n_left of them are context that is already done
    for block in blocks:
        held.append(block)
        while sum(b.shape[-1] for b in held) >= n_left + core + context:
            window = np.concatenate(held, axis=-1)
            noise = chunk_noise(model, window[:, : n_left + core + context], level)
            yield noise[:, n_left : n_left + core]
            keep = max(0, n_left + core - context)  # a multiple of the grid
            held, n_left = [window[:, keep:]], n_left + core - keep
    if held and (window := np.concatenate(held, axis=-1)).shape[-1] > n_left:
        yield chunk_noise(model, window, level)[:, n_left:]


class _ColumnStream:
    """Samples in, noise out, with transforms and network keeping what they still need."""

    def __init__(self, model, level):
        self.model, self.stft, self.channels = model, model.stft, len(level)
        level = torch.from_numpy(level.astype(np.float32)).view(-1, 1)
        self.level = torch.where(level < SILENCE_RMS, torch.ones_like(level), level)
        self.masks, self.sound = model.network.open(self.channels), OverlapAdd(model.stft, self.channels)
        self.spectra = torch.zeros(self.channels, model.stft.n_bins, 0, dtype=torch.complex64)
        # Frames are centred on their times, so that the first one begins before the signal.
        self.samples = np.zeros((self.channels, model.stft.n_fft // 2), np.float32)
        self.n_samples = self.n_frames = 0

    def push(self, block):
        """Take (channels, samples), yield noise as far as it is known."""
        self.n_samples += block.shape[1]
        self.samples = np.concatenate([self.samples, block], axis=1)
        step = self.masks.step * TIME_STRIDE
        overlap = self.stft.n_fft - self.stft.hop_length
        while self.samples.shape[1] >= step * self.stft.hop_length + overlap:
            yield self._pass(step)

    def finish(self):
        """The rest, as of a signal that zeros continue; some samples more than were pushed."""
        frames = self.stft.n_frames(self.n_samples) - self.n_frames
        missing = (frames - 1) * self.stft.hop_length + self.stft.n_fft - self.samples.shape[1]
        self.samples = np.pad(self.samples, ((0, 0), (0, max(0, missing))))
        return self._pass(frames, last=True)

    @torch.inference_mode()
    def _pass(self, frames, last=False):
        hop = self.stft.hop_length
        samples = torch.from_numpy(self.samples[:, : (frames - 1) * hop + self.stft.n_fft])
        spectrum = self.stft.frames(samples / self.level)
        self.samples = self.samples[:, frames * hop :]
        self.n_frames += frames
        mask = self.masks.push(torch.stack([spectrum.real, spectrum.imag], 1), last)
        spectra = torch.cat([self.spectra, spectrum], -1)
        ready = spectra[..., : mask.shape[-1]]
        noise = self.model.noise(mask, ready)
        self.spectra = spectra[..., mask.shape[-1] :]
        return (self.sound.push(noise, last) * self.level).numpy()


def _by_columns(model, blocks, level):
    stream, n_given = _ColumnStream(model, level), 0
    for block in blocks:
        for noise in stream.push(block):
            n_given += noise.shape[1]
            yield noise
    if stream.n_samples:
        yield stream.finish()[:, : stream.n_samples - n_given]
