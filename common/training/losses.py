"""Training losses that are consistent with noisy targets.

Noise2Noise needs a loss whose minimum is the *mean* of the targets (Lehtinen et al. 2018, section 2). Squared errors
qualify; absolute errors, whose minimum is the median, do not. `sdr` and `spectrum_l2` are squared errors; `sdr` weights
each crop by its total error, which over tens of thousands of samples hardly moves the minimum. `weighted_sdr` consists
of cosines: they point to the mean of the targets, and only the balance of the two terms fixes the level.

Use `sdr`. At equal steps on the same noisy mixtures (width 4, 250 steps of 4 crops at 3e-3, real songs and noises,
96 validation mixtures) it improved the SNR by +0.02 and +0.15 dB (two seeds); `spectrum_l2` reached -1.37 dB and
`weighted_sdr` -2.15 dB (one seed each). The logarithm gives quiet noises as much weight as loud ones. The noisiest
crops dominate a plain squared error, and the cosines' gradient fades near 1 (at 20 dB of SNR a cosine is 0.995).

A noisy target weakens the loss unevenly: the gradient of a crop falls with the ratio of the target's noise to the
estimate's error. A clean input with a noisy target teaches almost nothing, and the network removes too much from songs
with little noise. Targets whose SNR follows the input's (MixtureSettings.target_snr_offset_db) reduce that. At the same
width, steps and seed, an offset of 0 dB cost 0.8 dB above 19 dB of input SNR, random target SNRs cost 2.2 dB; below
12 dB the gain was +0.4 against +1.0 dB, over all mixtures +0.14 against +0.02 dB.

Shapes: waveforms (batch, samples); the result is a scalar, lower is better.
"""

import torch

EPSILON = 1e-8


def sdr_loss(estimate: torch.Tensor, target: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Negative signal-to-distortion ratio in dB: 10 log10(|estimate - target|^2 / |target|^2)."""
    del noisy  # all losses have the same arguments
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
