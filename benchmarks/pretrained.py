"""The pretrained weights over the frozen test set: universal ones, those of the noise, and those that `auto` picks.

    python -m benchmarks.pretrained SET -o DIR [--every N [--first K]] [--precision float32] [--speech]

SET is the output of python -m common.evaluation. All weights denoise as the command does, also with the segments'
noise prints if they take one; the first two also without confidence. BASELINES are measured for comparison. Writes
metrics.csv (a row per segment and method), summary.csv and summary.md, picks.csv (the weights that `auto` picks),
improvement_by_noise.png, improvement_panels.png, snr_white.png and snr_mixed.png (all segments, the noise's weights),
and trade_offs.png (effect of the confidence on validation mixtures, from the weights files).
"""

import functools
from pathlib import Path

import joblib
import pandas as pd

from benchmarks import figures
from common.cli import Parser, count, natural, run
from common.data.pairs import load_test_pairs, manifest_sha256, segments
from common.denoising.auto import AUTO, choose_weights, noise_probabilities
from common.denoising.files import denoise
from common.errors import CallError
from common.evaluation.scores import (
    WITH_PRINT,
    format_summary,
    markdown_table,
    score_segment,
    segment_print_power,
    summarise,
    with_progress,
)
from common.labels import MIXED, WHITE, weights_name
from common.network.checkpoints import load_weights
from common.network.inference import inference_form
from common.network.model import Denoiser
from common.network.noise_model import PRECISIONS
from common.network.weights_files import pretrained_names
from common.notebook import plots

OWN = "weights of the noise"
UNLIMITED = ", without confidence"
BASELINES = ("Wiener with a print", "noisereduce with a print", "noisereduce stationary", "noisereduce non-stationary",
             "oracle Wiener mask", "oracle bounded complex mask")


def segment_estimates(segment, forms):
    """Return estimates (channels, samples) of a segment by method, and the name of the weights that `auto` picks."""
    own = weights_name(segment.pair.noise)
    picked = choose_weights(noise_probabilities(forms[MIXED], [segment.noisy]))
    call = functools.cache(lambda name, *settings: _denoised(forms[name], segment, *settings))
    estimates = {MIXED: call(MIXED), MIXED + UNLIMITED: call(MIXED, False), OWN: call(own),
                 OWN + UNLIMITED: call(own, False), AUTO: call(picked)}
    if segment.noise_print is not None:
        estimates |= {method + WITH_PRINT: call(name, True, True)
                      for method, name in ((MIXED, MIXED), (OWN, own), (AUTO, picked)) if forms[name].takes_print}
    return estimates, picked


def _denoised(form, segment, confidence=True, with_print=False):
    """Denoise a segment as the command would; `form` without confidence removes the whole noise estimate."""
    power = segment_print_power(form, segment) if with_print else None
    form = form if confidence else Denoiser(form.network, form.stft)
    return denoise(form, segment.noisy, segment.sample_rate, print_power=power)


def score_estimates(segment, estimates, speech):
    """Return the rows of score_segment, with PESQ and STOI (slow) for the noise's weights and "do nothing" only."""
    own = {OWN: estimates[OWN]}
    rest = {method: estimate for method, estimate in estimates.items() if method not in own}
    return score_segment(segment, own, speech=speech) + score_segment(segment, rest, BASELINES, speech=False)[1:]


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("set", type=Path, help="the frozen test set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for all output")
    parser.add_argument("--every", type=count, default=1, help="use every Nth pair only")
    parser.add_argument("--first", type=natural, default=0, help="number of pairs to leave out first")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="precision of the networks")
    parser.add_argument("--speech", action="store_true", help="also compute PESQ and STOI of the noise's weights")
    args = parser.parse_args()
    loaded = {name: load_weights(name) for name in pretrained_names()}
    forms = {name: inference_form(model, precision=args.precision) for name, (model, _) in loaded.items()}
    pairs, picks = load_test_pairs(args.set), []
    if args.first >= len(pairs):
        raise CallError(f"expected --first below the number of pairs, {len(pairs)}, got {args.first}: lower it")

    def work():
        for segment in segments(with_progress(pairs[args.first :: args.every]), forms[MIXED].stft.sample_rate):
            estimates, picked = segment_estimates(segment, forms)
            picks.append({"noise": segment.pair.noise, "picked": picked})
            yield joblib.delayed(score_estimates)(segment, estimates, args.speech)
    rows = [row for found in joblib.Parallel(n_jobs=-1, max_nbytes=None)(work()) for row in found]
    args.output.mkdir(parents=True, exist_ok=True)
    rows, picks = pd.DataFrame(rows), pd.DataFrame(picks)
    summary = summarise(rows)
    rows.to_csv(args.output / "metrics.csv", index=False)
    summary.to_csv(args.output / "summary.csv", index=False)
    (args.output / "summary.md").write_text(markdown_table(summary) + "\n", encoding="utf-8")
    table = pd.crosstab(picks.noise, picks.picked)
    table.to_csv(args.output / "picks.csv")
    shown = summary[summary.method.isin([OWN, MIXED, OWN + WITH_PRINT, MIXED + WITH_PRINT, BASELINES[0]])]
    plots.improvement_bars(shown).savefig(args.output / "improvement_by_noise.png", dpi=80)
    figures.improvement_panels(rows, OWN).savefig(args.output / "improvement_panels.png", dpi=80)
    for noise, method in ((WHITE, OWN), (MIXED, OWN)):
        plots.snr_distributions(rows[rows.noise == noise], method).savefig(args.output / f"snr_{noise}.png", dpi=80)
    curves = {name: info["confidence"] for name, (_, info) in loaded.items()}
    if loaded[MIXED][0].takes_print:
        curves[MIXED + WITH_PRINT] = loaded[MIXED][1]["print_confidence"]
    figures.trade_offs(curves).savefig(args.output / "trade_offs.png", dpi=80)
    print(f"{format_summary(summary)}\n\n{table.to_string()}\n\nmanifest {manifest_sha256(pairs)[:8]}, "
          f"precision {args.precision}")


if __name__ == "__main__":
    run(main)
