"""Training losses that are consistent with noisy targets.

Noise2Noise needs a loss whose minimum is the *mean* of the targets (Lehtinen et al. 2018, section 2):
squared errors qualify, absolute errors, which find the median, do not. `sdr` and `spectrum_l2` are
squared errors; the first weights each crop by its total error, which over tens of thousands of samples
hardly moves the minimum. `weighted_sdr` is made of cosines: they point to the mean of the targets, and
its level is tied only by the interplay of the two terms.

`sdr` is the one to take. At equal steps on the same noisy mixtures (width 4, 250 steps of 4 crops at 3e-3, real
songs and noises, 96 validation mixtures) it improved the SNR by +0.02 and +0.15 dB (two seeds) where `spectrum_l2`
still stood at -1.37 dB and `weighted_sdr` at -2.15 dB (one seed each). Its logarithm weights every crop by what is
left to gain, so that quiet noises count as much as loud ones; a plain squared error is ruled by the noisiest crops,
and the cosines' gradient fades as they near 1, though at 20 dB of SNR a cosine is 0.995 already.

A noisy target weakens it unevenly: a crop's gradient falls with the target's noise over the estimate's error, so that
a clean input with a noisy target teaches next to nothing, and the network learns to take too much from songs that are
hardly noisy. A target whose SNR follows the input's (MixtureSettings.target_snr_offset_db) evens that out: at the same
width, steps and seed (offsets of 0 dB) it cost 0.8 dB above 19 dB of input SNR, where targets at random SNRs cost 2.2
dB, gained less below 12 dB (+0.4 for +1.0) and ended at +0.14 dB for +0.02.

Shapes: waveforms (batch, samples); the result is a scalar, lower is better.
"""

import torch

EPSILON = 1e-8


def sdr_loss(estimate: torch.Tensor, target: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Negative signal-to-distortion ratio in dB, 10 log10(|estimate - target|^2 / |target|^2)."""
    del noisy  # every loss is called alike
    error = (estimate - target).square().mean(-1)
    return 10 * torch.log10((error + EPSILON) / (target.square().mean(-1) + EPSILON)).mean()


def _cosine(a, b):
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + EPSILON)


def weighted_sdr_loss(estimate: torch.Tensor, target: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Weighted SDR of Choi et al. 2019, equation 4, with its noise term; between -1 and 1."""
    noise, noise_estimate = noisy - target, noisy - estimate
    energy, noise_energy = target.square().sum(-1), noise.square().sum(-1)
    alpha = energy / (energy + noise_energy + EPSILON)
    return -(alpha * _cosine(target, estimate) + (1 - alpha) * _cosine(noise, noise_estimate)).mean()


def spectrum_l2_loss(estimate: torch.Tensor, target: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Squared error of the complex spectra (2048-point Hann frames), relative to the noisy input's energy."""
    window = torch.hann_window(2048, device=estimate.device)
    error, reference = (torch.stft(x, 2048, 512, window=window, pad_mode="constant", return_complex=True)
                        for x in (estimate - target, noisy))
    energy = reference.abs().square().mean((-2, -1))
    return (error.abs().square().mean((-2, -1)) / (energy + EPSILON)).mean()


LOSSES = {"sdr": sdr_loss, "weighted_sdr": weighted_sdr_loss, "spectrum_l2": spectrum_l2_loss}
