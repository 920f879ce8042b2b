"""Pretrained weights within a budget of minutes: one universal network, then a slice of the time for each noise.

The universal network hears all noises; fine-tuning it for one noise is many times shorter than training anew, and
the mean of what was fine-tuned is a universal network again (common.training.averaging). Every stage checkpoints and
goes on where it stopped. Validation mixtures, whose songs and recordings no training ever heard, decide for each noise
which of the three is kept.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.data.pool import Pool
from common.errors import CallError, UserError
from common.files import read_json, write_csv, write_text
from common.labels import CLASS_NAMES, MIXED, WHITE, weights_name
from common.network.checkpoints import load_weights, save_weights
from common.training.averaging import average
from common.training.calibration import calibrate
from common.training.loop import BEST, IMPROVEMENT, best_epoch, train, validate
from common.training.mixtures import MixtureSettings, MixtureSource, pool_validation
from common.training.settings import TrainSettings, new_model

log = logging.getLogger(__name__)

# Of the time for training; the noises share the rest.
UNIVERSAL_SHARE = 0.5
# What every network takes to begin and to be written, besides training and validation.
STAGE_SECONDS = 3.0
# Noisy pairs that calibrate a network, to a validation mixture.
CALIBRATION_SHARE = 4
FINE_TUNE_LEARNING_RATE = 0.3  # of the universal one
UNIVERSAL_EPOCHS = 8
PLAN, TABLE, MEAN = "plan.json", "table.csv", "mean.pth"
# What may be kept for a noise.
UNIVERSAL, AVERAGED, FINE_TUNED = "universal", "mean", "fine-tuned"


def trainable(pool: Pool) -> list[str]:
    """White noise and the classes that have clips to train and to validate with."""
    train, validation = ({c.label for c in pool.clips if c.split == split} for split in ("train", "validation"))
    return [WHITE, *(name for name in CLASS_NAMES if name in train & validation)]


def run_recipe(pool: Pool, folder: str | Path, minutes: float, settings: TrainSettings,
               noises: Sequence[str] | None = None, n_validation: int = 48, device: str = "cpu",
               info: dict | None = None, compiled: bool = False) -> list[dict]:
    """Train within `minutes`; write `folder`/mixed.pth for all noises, white.pth, class0.pth ... and a table.

    settings: of the universal network, whose minutes and epochs are set here. Weights are stored in 16 bits, with their
    confidence (see common.training.calibration). Returns the table: for each noise the mean SNR improvement in dB of
    universal weights, of the mean of the fine-tuned ones and of its own over `n_validation` mixtures, which were kept,
    and what they do with their confidence. Raises CallError for noises that the pool cannot train.
    """
    folder = Path(folder)
    known = trainable(pool)
    noises = list(known if noises is None else noises)
    if not set(noises) <= set(known):
        raise CallError(f"expected noises among {', '.join(known)}, which the pool can train and validate, got "
                        f"{', '.join(noises)}: choose among them or pack more noises")
    info = info or {}
    validations = {noise: pool_validation(pool, MixtureSettings(noise), n_validation) for noise in (MIXED, *noises)}
    plan = _plan(folder, minutes, noises, settings, validations[MIXED], device)
    settings = replace(settings, minutes=plan["universal_minutes"], epochs=UNIVERSAL_EPOCHS)
    history = train(settings, MixtureSource(pool, _pairs(MIXED)), validations[MIXED], folder / "universal", device,
                    info | {"noise": MIXED}, compiled=compiled)
    universal = folder / "universal" / BEST
    tuned = replace(settings, minutes=plan["fine_tuning_minutes"], epochs=1,
                    learning_rate=FINE_TUNE_LEARNING_RATE * settings.learning_rate)
    found = {MIXED: {UNIVERSAL: (universal, _best(history))}}
    for noise in noises:
        log.info("fine-tuning for %s", noise)
        history = train(tuned, MixtureSource(pool, _pairs(noise)), validations[noise], folder / noise, device,
                        info | {"noise": noise}, start=universal, compiled=compiled)
        found[noise] = {FINE_TUNED: (folder / noise / BEST, _best(history)),
                        UNIVERSAL: (universal, validate(load_weights(universal, device)[0], validations[noise]))}
    if len(noises) > 1:
        model, about = average([folder / noise / BEST for noise in noises])
        save_weights(model, folder / MEAN, about | info)
        for noise, candidates in found.items():
            candidates[AVERAGED] = (folder / MEAN, validate(model.to(device), validations[noise]))
    rows = []
    for noise, candidates in found.items():
        pairs = MixtureSource(pool, _pairs(noise))
        rows.append(_keep_better(noise, candidates, folder, pairs, validations[noise], device))
        write_csv(folder / TABLE, rows)
    return rows


def _pairs(noise):
    """How pairs are mixed: any other noise in the target, but for white noise, of which there is always more."""
    return MixtureSettings(noise, noise if noise == WHITE else MIXED)


def _best(history):
    """The improvement, without a print, of the epoch that was kept."""
    return best_epoch(history)[IMPROVEMENT]


def _plan(folder, minutes, noises, settings, validation, device):
    """Minutes of training for the universal network and for each noise, made once and then kept with the run.

    What validations take is measured beforehand: one ends each training, two measure the universal network and the mean
    on each noise, and calibrating takes as long as CALIBRATION_SHARE + 1. Raises UserError when the folder was planned
    for something else, CallError when too little is left.
    """
    path, asked = folder / PLAN, {"minutes": minutes, "noises": list(noises)}
    if path.is_file():
        plan = read_json(path, "remove it to plan again, which fits no network that is there already")
        if {name: plan.get(name) for name in asked} != asked:
            raise UserError(f"expected the budget and noises that {folder} was planned for, {plan['minutes']:g} "
                            f"minutes for {', '.join(plan['noises'])}, got others: use the same ones or another folder")
        return plan
    model = new_model(settings).to(device).eval()
    validate(model, validation)  # warms up
    started = time.monotonic()
    validate(model, validation)
    validating = (time.monotonic() - started) / 60 * (4 + CALIBRATION_SHARE) * (1 + len(noises))
    net = minutes - validating - STAGE_SECONDS / 60 * (1 + len(noises))
    if net < minutes / 2:
        raise CallError(f"expected half of {minutes:g} minutes for training, but {max(0.0, net):.1f} would be left "
                        f"beside {validating:.1f} for validation: allow more minutes, fewer noises, or lower "
                        "--n-validation")
    share = UNIVERSAL_SHARE if noises else 1.0
    plan = asked | {"universal_minutes": net * share, "fine_tuning_minutes": net * (1 - share) / max(1, len(noises))}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(plan, indent=1) + "\n")
    return plan


def _keep_better(noise, found, folder, pairs, validation, device):
    """Save the weights with the highest improvement; found: name to (path, dB). Returns their row of the table."""
    row = {"noise": noise, "mixtures": validation.n}
    row |= {f"{name}_db": None for name in (UNIVERSAL, AVERAGED, FINE_TUNED)}
    row |= {f"{name}_db": gain for name, (_, gain) in found.items()}
    # What could not be measured is not better than the universal network.
    row["kept"] = max(found, key=lambda name: (gain if math.isfinite(gain := found[name][1]) else -math.inf,
                                               name == UNIVERSAL))
    model, info = load_weights(found[row["kept"]][0], device)
    prior = None if noise == MIXED else load_weights(folder / f"{MIXED}.pth")[0].confidence
    calibration = calibrate(model, pairs, validation.source, CALIBRATION_SHARE * validation.n, validation.n, prior)
    row["with_confidence_db"] = gain = calibration["improvement_db"]
    info |= {"noise": noise, "kept": row["kept"], "validation_snr_improvement_db": gain, "confidence": calibration}
    save_weights(model, folder / f"{weights_name(noise)}.pth", info, half=True)
    return row


def format_table(rows: Sequence[dict]) -> str:
    """The table of run_recipe as text, do nothing (0 dB) being what it is compared with."""
    lines = [f"{'noise':<18} {'mixtures':>8} {'do nothing':>11} {UNIVERSAL:>10} {AVERAGED:>7} {FINE_TUNED:>11}  "
             f"{'kept':<10} {'confident':>10}"]
    for row in rows:
        mean, tuned = ("" if gain is None else f"{gain:+.2f}" for gain in (row["mean_db"], row["fine-tuned_db"]))
        lines.append(f"{row['noise']:<18} {row['mixtures']:8d} {'+0.00':>11} {row['universal_db']:+10.2f} {mean:>7} "
                     f"{tuned:>11}  {row['kept']:<10} {row['with_confidence_db']:+10.2f}")
    return "\n".join(lines)
