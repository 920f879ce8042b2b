"""Training the classifier of noises with which `--model auto` chooses weights (common.denoising.auto)."""

import torch
from torch.nn import functional as F

from common.data.pool import Pool
from common.denoising.auto import LABELS, NoiseClassifier, noise_features
from common.network.confidence import WINDOW_SAMPLES
from common.network.model import Denoiser, autocast
from common.seeds import number
from common.training.mixtures import MixtureSettings, MixtureSource

# Of the squared weights of the standardised features, beside the mean cross-entropy.
REGULARISATION = 1e-3
BATCH_SIZE = 4
# Noises are learned at about their own speed: which they are lies in it.
NOISE_SPEED = 0.9, 1.1


def fit_classifier(model: Denoiser, pool: Pool, n_per_label: int, snr_db: tuple[float, float] = (0.0, 25.0),
                   seed: int = 1) -> NoiseClassifier:
    """Train on `n_per_label` windows of training songs with each noise, by L-BFGS."""
    features, labels = [], []
    for k, label in enumerate(LABELS):
        source = MixtureSource(pool, MixtureSettings(label, snr_db=snr_db, noise_speed=NOISE_SPEED))
        for first in range(0, n_per_label, BATCH_SIZE):
            rows = range(first, min(n_per_label, first + BATCH_SIZE))
            with autocast(model.device):
                noisy = source.batch(number(seed, "classifier"), 0, rows, WINDOW_SAMPLES)[0]
                features.append(noise_features(model, noisy))
        labels += [k] * n_per_label
    return _fit(torch.cat(features).double(), torch.tensor(labels))


def _fit(features, labels):
    centre, scale = features.mean(0), features.std(0).clamp_min(1e-3)
    weight = torch.zeros(len(centre), len(LABELS), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(len(LABELS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logits = NoiseClassifier(centre, scale, weight, offset).logits(features)
        value = F.cross_entropy(logits, labels) + REGULARISATION * weight.square().sum()
        value.backward()
        return value
    optimizer.step(loss)
    return NoiseClassifier(*(x.detach().float() for x in (centre, scale, weight, offset)))
