"""Pretrained weights within a budget of minutes: one universal network, then a slice of the time for each noise.

The universal network hears all noises; fine-tuning it for one noise is many times shorter than training anew. Every
stage checkpoints and goes on where it stopped. Validation mixtures, whose songs and recordings no training ever
heard, decide for each noise whether the fine-tuned weights are better than the universal ones.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.checkpoints import load_weights, save_weights
from common.errors import CallError, UserError
from common.labels import CLASS_NAMES, MIXED, WHITE
from common.mixtures import MixtureSettings, MixtureSource, pool_validation
from common.pool import Pool
from common.training import BEST, TrainSettings, train, validate, write_table

log = logging.getLogger(__name__)

# Of the budget: for the universal network, for all that is not training (reading, the last validations, the table);
# the noises share what is left.
UNIVERSAL_SHARE, OVERHEAD_SHARE = 0.5, 0.1
FINE_TUNE_LEARNING_RATE = 0.3  # of the universal one
EPOCHS = {"universal": 8, "fine-tuning": 2}
TABLE = "table.csv"


def trainable(pool: Pool) -> list[str]:
    """White noise and the classes that have clips to train and to validate with."""
    train, validation = ({c.label for c in pool.clips if c.split == split} for split in ("train", "validation"))
    return [WHITE, *(name for name in CLASS_NAMES if name in train & validation)]


def run_recipe(pool: Pool, folder: str | Path, minutes: float, settings: TrainSettings,
               noises: Sequence[str] | None = None, n_validation: int = 48, device: str = "cpu",
               info: dict | None = None, compiled: bool = False) -> list[dict]:
    """Train within `minutes` and write `folder`/<noise>.pth, `mixed` being the universal network, and a table.

    settings: of the universal network, whose minutes and epochs are set here. Weights are stored in 16 bits. Returns
    the table: for each noise the mean SNR improvement in dB of universal and fine-tuned weights over `n_validation`
    mixtures, and which were kept. Raises CallError for noises that the pool cannot train.
    """
    folder = Path(folder)
    known = trainable(pool)
    noises = list(known if noises is None else noises)
    if not set(noises) <= set(known):
        raise CallError(f"expected noises among {', '.join(known)}, which the pool can train and validate, got "
                        f"{', '.join(noises)}: choose among them or pack more noises")
    net = minutes * (1 - OVERHEAD_SHARE)
    share = UNIVERSAL_SHARE if noises else 1
    settings = replace(settings, minutes=net * share, epochs=EPOCHS["universal"])
    info = info or {}
    train(settings, MixtureSource(pool, MixtureSettings()), pool_validation(pool, MixtureSettings(), n_validation),
          folder / "universal", device, info | {"noise": MIXED}, compiled=compiled)
    universal = folder / "universal" / BEST
    tuned = replace(settings, minutes=net * (1 - share) / max(1, len(noises)), epochs=EPOCHS["fine-tuning"],
                    learning_rate=FINE_TUNE_LEARNING_RATE * settings.learning_rate)
    rows = []
    for noise in (MIXED, *noises):
        weights = {"universal": universal}
        validation = pool_validation(pool, MixtureSettings(noise), n_validation)
        if noise != MIXED:
            log.info("fine-tuning for %s", noise)
            source = MixtureSource(pool, MixtureSettings(noise, noise if noise == WHITE else MIXED))
            try:
                train(tuned, source, validation, folder / noise, device, info | {"noise": noise}, start=universal,
                      compiled=compiled)
            except UserError as error:  # the other noises, and the universal weights, are worth having
                log.warning("%s is not fine-tuned: %s", noise, error)
            else:
                weights["fine-tuned"] = folder / noise / BEST
        rows.append(_keep_better(noise, weights, validation, folder, device, n_validation))
        write_table(folder / TABLE, rows)
    return rows


def _keep_better(noise, weights, validation, folder, device, n):
    """Save the weights that improve the validation mixtures of a noise most; returns its row of the table."""
    row, models = {"noise": noise, "mixtures": n, "universal_db": None, "fine-tuned_db": None}, {}
    for name, path in weights.items():
        models[name] = load_weights(path, device)
        row[f"{name}_db"] = validate(models[name][0], validation)
    row["kept"] = max(models, key=lambda name: row[f"{name}_db"])
    model, info = models[row["kept"]]
    save_weights(model, folder / f"{noise}.pth", info | {"noise": noise, "kept": row["kept"],
                                                        "validation_snr_improvement_db": row[f"{row['kept']}_db"]},
                 half=True)
    return row


def format_table(rows: Sequence[dict]) -> str:
    """The table of run_recipe as text, do nothing (0 dB) being what it is compared with."""
    lines = [f"{'noise':<18} {'mixtures':>8} {'do nothing':>11} {'universal':>10} {'fine-tuned':>11}  kept"]
    for row in rows:
        tuned = "" if row["fine-tuned_db"] is None else f"{row['fine-tuned_db']:+.2f}"
        lines.append(f"{row['noise']:<18} {row['mixtures']:8d} {'+0.00':>11} {row['universal_db']:+10.2f} {tuned:>11}  "
                     f"{row['kept']}")
    return "\n".join(lines)
