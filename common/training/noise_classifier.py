"""Training the classifier of noises that `--model auto` uses to recognise white noise (common.denoising.auto)."""

import torch
from torch.nn import functional as F

from common.data.pool import Pool
from common.denoising.auto import noise_features
from common.labels import LABELS
from common.network.confidence import WINDOW_SAMPLES, FeatureModel
from common.network.model import Denoiser, autocast
from common.seeds import number
from common.training.confidence_fit import BATCH_SIZE, minimise
from common.training.mixtures import MixtureSettings, MixtureSource

# Penalty on the squared weights of the standardised features, against the mean cross-entropy.
REGULARISATION = 1e-3
# Noises keep about their own speed, since it tells them apart.
NOISE_SPEED = 0.9, 1.1
SNR_DB = 0.0, 25.0


def fit_classifier(model: Denoiser, pool: Pool, n_per_label: int) -> FeatureModel:
    """Train on `n_per_label` windows of training songs with each noise."""
    features, labels = [], []
    for k, label in enumerate(LABELS):
        source = MixtureSource(pool, MixtureSettings(label, snr_db=SNR_DB, noise_speed=NOISE_SPEED))
        for first in range(0, n_per_label, BATCH_SIZE):
            rows = range(n_per_label)[first : first + BATCH_SIZE]
            with autocast(model.device):
                noisy = source.batch(number(1, "classifier"), 0, rows, WINDOW_SAMPLES)[0]
                features.append(torch.from_numpy(noise_features(model, noisy.cpu().numpy())))
        labels += [k] * n_per_label
    return _fit(torch.cat(features).double(), torch.tensor(labels))


def _fit(features, labels):
    centre, scale = features.mean(0), features.std(0).clamp_min(1e-3)
    weight = torch.zeros(len(centre), len(LABELS), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(len(LABELS), dtype=torch.float64, requires_grad=True)

    def loss():
        logits = FeatureModel(centre, scale, weight, offset).logits(features)
        return F.cross_entropy(logits, labels) + REGULARISATION * weight.square().sum()
    minimise(loss, [weight, offset])
    return FeatureModel(*(x.detach().float().numpy() for x in (centre, scale, weight, offset)))
