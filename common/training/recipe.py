"""Pretrained weights within a budget of minutes: one universal network, then fine-tuning for each noise.

The universal network learns all noises. Fine-tuning it for one noise takes far less time than a new training, and the
mean of the fine-tuned weights is a universal network again (common.training.weight_averaging). Validation mixtures
decide for each noise which of the three is kept. Every stage resumes where it stopped.
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
from common.labels import CLASS_NAMES, MIXED, WHITE, weights_name
from common.network.checkpoints import load_weights, save_weights
from common.small_files import read_json, write_csv, write_text
from common.training.confidence_fit import calibrate
from common.training.loop import BEST, IMPROVEMENT, IMPROVEMENT_WITH_PRINT, best_epoch, train, validate
from common.training.mixture_validation import calibration_pairs, pool_validation
from common.training.mixtures import MixtureSettings, MixtureSource
from common.training.settings import Execution, TrainSettings, new_model
from common.training.weight_averaging import average

log = logging.getLogger(__name__)

# Share of the training time for the universal network. The noises share the rest.
UNIVERSAL_SHARE = 0.5
# Time in seconds that a network takes to begin and to be written, besides training and validation.
STAGE_SECONDS = 3.0
# Noisy pairs for each validation mixture, to calibrate a network.
CALIBRATION_SHARE = 2
# Learning rate of fine-tuning, as a share of the universal network's.
FINE_TUNE_LEARNING_RATE = 0.3
UNIVERSAL_EPOCHS = 8
PLAN, TABLE, MEAN = "plan.json", "table.csv", "mean.pth"
# Candidates for each noise.
UNIVERSAL, AVERAGED, FINE_TUNED = "universal", "mean", "fine-tuned"


def trainable(pool: Pool) -> list[str]:
    """Return white noise and the classes that have clips to train and to validate with."""
    train, validation = ({c.label for c in pool.clips if c.split == split} for split in ("train", "validation"))
    return [WHITE, *(name for name in CLASS_NAMES if name in train & validation)]


def run_recipe(pool: Pool, folder: str | Path, settings: TrainSettings, noises: Sequence[str] | None = None,
               n_validation: int = 48, execution: Execution | None = None, info: dict | None = None) -> list[dict]:
    """Train within `settings.minutes` and write `folder`/mixed.pth for all noises, white.pth, class0.pth ..., a table.

    settings: of the universal network; the epochs are chosen here. noises: those to fine-tune for, by default all that
    the pool can train. info: plain values to store with the weights, which have 16 bits and a confidence (see
    common.training.confidence_fit). Returns the table: for each noise the mean SNR improvement in dB, over
    `n_validation` mixtures, of the universal weights, of the mean of the fine-tuned ones and of its own; which of them
    were kept; and the improvement of these with their confidence. Raises CallError for noises that the pool cannot
    train.
    """
    folder, execution, info = Path(folder), execution or Execution(), info or {}
    known = trainable(pool)
    noises = list(known if noises is None else noises)
    if not set(noises) <= set(known):
        raise CallError(f"expected noises among {', '.join(known)}, which the pool can train and validate, got "
                        f"{', '.join(noises)}: choose among them or pack more noises")
    validations = {noise: pool_validation(pool, MixtureSettings(noise), n_validation) for noise in (MIXED, *noises)}
    plan = _plan(folder, noises, settings, validations[MIXED], execution.device)

    def train_for(noise, settings, name):
        """Train in a sub-folder; returns its best weights and their improvement without a print."""
        history = train(settings, MixtureSource(pool, _mixture(noise)), validations[noise], folder / name, execution,
                        info | {"noise": noise})
        return folder / name / BEST, best_epoch(history)[IMPROVEMENT]

    settings = replace(settings, minutes=plan["universal_minutes"], epochs=UNIVERSAL_EPOCHS)
    found = {MIXED: {UNIVERSAL: train_for(MIXED, settings, "universal")}}
    universal = found[MIXED][UNIVERSAL][0]
    tuned = replace(settings, minutes=plan["fine_tuning_minutes"], epochs=1, start=universal,
                    learning_rate=FINE_TUNE_LEARNING_RATE * settings.learning_rate)
    for noise in noises:
        log.info("fine-tuning for %s", noise)
        found[noise] = {FINE_TUNED: train_for(noise, tuned, noise), UNIVERSAL: (
            universal, validate(load_weights(universal, execution.device)[0], validations[noise]))}
    if len(noises) > 1:
        model, about = average([folder / noise / BEST for noise in noises])
        save_weights(model, folder / MEAN, about | info)
        for noise, candidates in found.items():
            candidates[AVERAGED] = (folder / MEAN, validate(model.to(execution.device), validations[noise]))
    rows = []
    for noise, candidates in found.items():
        pairs = calibration_pairs(pool, _mixture(noise))
        rows.append(_keep_best(noise, candidates, folder, pairs, validations[noise], execution.device))
        write_csv(folder / TABLE, rows)
    return rows


def _mixture(noise):
    """Return how pairs are mixed: the target has any other noise, or, for white noise, white noise too."""
    return MixtureSettings(noise, noise if noise == WHITE else MIXED)


def _plan(folder, noises, settings, validation, device):
    """Return the minutes of training for the universal network and for each noise, planned once for a folder.

    The time of a validation is measured first. One validation ends each training and calibration takes as long as
    CALIBRATION_SHARE + 1, both twice with noise prints; two measure the universal network and the mean. Raises
    UserError when the folder was planned for other values, CallError when too little time is left.
    """
    minutes = settings.minutes
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
    each = 2 + (1 + model.takes_print) * (2 + CALIBRATION_SHARE)
    validating = (time.monotonic() - started) / 60 * each * (1 + len(noises))
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


def _keep_best(noise, found, folder, pairs, validation, device):
    """Save the weights with the highest improvement; found: name to (path, dB). Returns their row of the table."""
    row = {"noise": noise, "mixtures": validation.n}
    row |= {f"{name}_db": found.get(name, (None, None))[1] for name in (UNIVERSAL, AVERAGED, FINE_TUNED)}
    # Weights that could not be measured are no better than the universal ones.
    measured = {name: gain if math.isfinite(gain) else -math.inf for name, (_, gain) in found.items()}
    row["kept"] = max(found, key=lambda name: (measured[name], name == UNIVERSAL))
    model, info = load_weights(found[row["kept"]][0], device)
    prior = None if noise == MIXED else load_weights(folder / f"{MIXED}.pth")[0]
    calibration = calibrate(model, pairs, validation.source, CALIBRATION_SHARE * validation.n, validation.n, prior)
    row["with_confidence_db"] = gain = calibration["confidence"]["improvement_db"]
    info |= {"noise": noise, "kept": row["kept"], IMPROVEMENT: gain} | calibration
    if model.takes_print:
        info[IMPROVEMENT_WITH_PRINT] = calibration["print_confidence"]["improvement_db"]
    save_weights(model, folder / f"{weights_name(noise)}.pth", info, half=True)
    return row


def format_table(rows: Sequence[dict]) -> str:
    """Format the table of run_recipe as text, with "do nothing" (0 dB) for comparison."""
    lines = [f"{'noise':<18} {'mixtures':>8} {'do nothing':>11} {UNIVERSAL:>10} {AVERAGED:>7} {FINE_TUNED:>11}  "
             f"{'kept':<10} {'confident':>10}"]
    for row in rows:
        mean, tuned = ("" if gain is None else f"{gain:+.2f}" for gain in (row["mean_db"], row["fine-tuned_db"]))
        lines.append(f"{row['noise']:<18} {row['mixtures']:8d} {'+0.00':>11} {row['universal_db']:+10.2f} {mean:>7} "
                     f"{tuned:>11}  {row['kept']:<10} {row['with_confidence_db']:+10.2f}")
    return "\n".join(lines)
