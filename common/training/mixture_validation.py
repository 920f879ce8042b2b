"""Validation on mixtures from a pool, against their clean songs."""

from dataclasses import replace
from pathlib import Path

import torch

from common.data.pool import Pool
from common.data.silence import measurable
from common.network import tensor_stft
from common.network.model import Denoiser, autocast
from common.network.noise_print import TEST_PRINT_SECONDS, print_power
from common.network.stft import SEGMENT_SAMPLES
from common.training.mixtures import AS_MEASURED, TRAIN, VALIDATION, MixtureSettings, MixtureSource


class MixtureValidation:
    """`n` mixtures of `n_samples` that are always the same, measured against their clean songs.

    has_prints: whether gains() can give the model noise prints.
    """

    def __init__(self, source: MixtureSource, n: int, n_samples: int, batch_size: int = 8):
        self.source, self.n, self.n_samples, self.batch_size = source, n, n_samples, batch_size
        self.has_prints, self.songs_and_recordings = source.mixture.print_share > 0, source.songs_and_recordings

    def song_names(self) -> list[str]:
        """Return the name of the song of each mixture."""
        return self.source.song_names(0, 0, range(self.n), self.n_samples)

    def gains(self, model: Denoiser, part: slice, with_print: bool = False) -> list[float | None]:
        """Return the SNR improvement in dB of each mixture of `part`, None without song or noise.

        The model must be on the pool's device. with_print: the model is given the noise prints.
        """
        found, numbers = [], range(self.n)[part]
        device = str(self.source.pool.samples.device)
        for first in range(0, len(numbers), self.batch_size):
            where = 0, 0, numbers[first : first + self.batch_size], self.n_samples
            noisy, clean = self.source.batch(*where)
            power = print_power(tensor_stft.frames(model.stft, self.source.prints(*where))) if with_print else None
            with torch.inference_mode(), autocast(device):
                estimate = model(noisy, print_power=power)
            before = _snr_db(clean, noisy)
            gains = (_snr_db(clean, estimate) - before).tolist()
            found += [gain if known else None for gain, known in zip(gains, measurable(before).tolist(), strict=True)]
        return found


def _snr_db(reference, estimate):
    return 10 * torch.log10(reference.square().sum(-1) / (reference - estimate).square().sum(-1))


def pool_sources(folder: str | Path, settings: MixtureSettings, n_validation: int, device: str = "cpu"
                 ) -> tuple[MixtureSource, MixtureValidation]:
    """Return training batches from a pool, and the validation on `n_validation` mixtures of it."""
    pool = Pool.load(folder, device)
    return MixtureSource(pool, settings), pool_validation(pool, settings, n_validation)


def pool_validation(pool: Pool, settings: MixtureSettings, n: int, song_split: str = VALIDATION) -> MixtureValidation:
    """Return the validation on `n` mixtures of 3.74 s of the validation split, of songs as they are.

    Each mixture has a print of TEST_PRINT_SECONDS if its noise is long enough.
    """
    settings = replace(settings, clean_target=True, print_seconds=(TEST_PRINT_SECONDS,) * 2, **AS_MEASURED)
    return MixtureValidation(MixtureSource(pool, settings, VALIDATION, song_split), n, SEGMENT_SAMPLES)


def calibration_pairs(pool: Pool, settings: MixtureSettings) -> MixtureSource:
    """Return noisy pairs of validation songs with training noises.

    Networks have not learned from these songs, and the mixtures of pool_validation() have none of these noises.
    """
    return MixtureSource(pool, replace(settings, clean_target=False, **AS_MEASURED), TRAIN, VALIDATION)
