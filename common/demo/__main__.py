"""The whole idea in one run: corpus, pairs, segments, training, evaluation, one denoised song.

With --songs and --noises the run uses your own files. Everything is written below one folder, and a second call resumes
where the first one stopped. Example:

    python -m common.demo --out demo --quick
"""

import logging
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import papermill

from common.audio.reading import read_audio
from common.cli import Parser, run
from common.data.manifest import read_manifest
from common.data.mergers import merge_splits
from common.demo import datasets
from common.demo.corpus import make_corpus
from common.errors import CallError, UserError
from common.evaluation.metrics import snr
from common.evaluation.scores import DENOISED, format_summary
from common.labels import MIXED, WHITE, weights_name
from common.network.weights_files import pretrained_names
from common.notebook.records import read_records

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Size:
    """The size of a demo: (songs at most, noises per song) of each split, and parameters of two notebooks."""

    pairs: dict[str, tuple[int, int]]
    segments: dict[str, int]
    training: dict[str, int]


FULL = Size(datasets.PAIRS, {"N_SEGMENTS": datasets.N_SEGMENTS, "N_HELD_OUT": datasets.N_HELD_OUT},
            {"WIDTH": 8, "EPOCHS": 4, "STEPS_PER_EPOCH": 100})
# Large enough to run every step and to learn something.
QUICK = Size({"train": (12, 4), "validation": (4, 2), "test": (6, 4)}, {"N_SEGMENTS": 40, "N_HELD_OUT": 24},
             {"WIDTH": 8, "EPOCHS": 3, "STEPS_PER_EPOCH": 70})
NEXT = """
What next:
  denoise a song of yours     python denoise.py song.mp3
  train on your own sounds    python -m common.demo --songs SONGS --noises NOISES --out own
  do it step by step          README.md, and docs/ for all the rest"""


def _step(title):
    log.info("\n== %s", title)


def _notebook(name, out, **parameters):
    """Run a notebook under papermill and keep the executed copy in `out`; returns its records.

    The log shows what the notebook prints, without its tables and pictures.
    """
    log.info("papermill %s", name)
    executed = out / "notebooks" / Path(name).name
    executed.parent.mkdir(parents=True, exist_ok=True)
    parameters = {key: str(v) if isinstance(v, Path) else v for key, v in parameters.items()}
    try:
        papermill.execute_notebook(str(ROOT / name), str(executed), parameters, cwd=str(ROOT), kernel_name="python3",
                                   stdout_file=sys.stderr, progress_bar=False,
                                   extra_arguments=["--log-level=ERROR"])
    except papermill.PapermillExecutionError as error:
        raise UserError(f"{name} stopped with {error.ename}: {error.evalue} (see {executed})") from error
    return read_records(executed)


def demo(out: Path, songs: Path | None = None, noises: Path | None = None, size: Size = FULL) -> None:
    """Run all steps below `out` (absolute), on the generated corpus unless songs and noises are given.

    Raises UserError when a step fails or the trained network does not improve the test songs.
    """
    if songs is None:
        _step("demo corpus: synthetic songs with stems, and noises of ten classes")
        songs, noises = make_corpus(out / "corpus", **datasets.CORPUS_SIZE)
    merged, segments = out / "merged", out / "segments"
    _step("pairs: every song with noises, twice in training, against the clean song in test")
    merge_splits(songs, noises, merged, size.pairs, datasets.FORMAT)
    _step("segments: the best of the training pairs, evenly spread ones of the others")
    _notebook("notebooks/generate_best_segments.ipynb", out, SOURCE=merged, OUTPUT_DIR=segments,
              SKIP_START_SECONDS=0.0, SKIP_END_SECONDS=0.0, LISTEN=False, **size.segments)
    _step("train with noisy targets only, then evaluate on unknown songs and noises")
    _notebook("NoiseRemover.ipynb", out, TRAIN_DIR=segments / "train", VALIDATION_DIR=segments / "validation",
              TEST_DIR=segments / "test", WEIGHTS_DIR=out / "Weights", SAMPLES_DIR=out / "Samples",
              LISTEN=False, **size.training)
    test = read_manifest(merged / "test" / "input")
    row = next((r for r in test if r["input_noise_class"] == WHITE), test[0])
    weights = weights_name(row["input_noise_class"])
    weights = weights if weights in pretrained_names() else MIXED
    _step(f"denoise one whole song with the pretrained weights {weights}")
    noisy, song, removed = (out / f"{name}.flac" for name in ("noisy_song", "denoised_song", "removed_from_song"))
    shutil.copyfile(merged / "test" / "input" / row["input_file"], noisy)
    report = _notebook("notebooks/denoising_entire_song.ipynb", out, MODEL_PATH=weights, INPUT_AUDIO_PATH=noisy,
                       OUTPUT_AUDIO_PATH=song, RESIDUAL_AUDIO_PATH=removed, LISTEN=False)
    clean = read_audio(merged / "test" / "target" / row["target_file"])[0]
    before, after = (snr(clean, read_audio(path)[0] / gain) for path, gain in ((noisy, 1), (song, report["gain"])))
    summary = pd.read_csv(out / "Samples" / "summary.csv")
    print(f"\nHeld-out songs with held-out noises, {int(summary.segments.max())} segments of 3.74 s:\n\n"
          f"{format_summary(summary)}\n\n"
          f"a noisy song      {noisy} (SNR {before:.1f} dB)\n"
          f"denoised          {song} (SNR {after:.1f} dB, pretrained weights {weights})\n"
          f"what was removed  {removed}\n"
          f"its picture       {song.with_suffix('.png')}\n"
          f"samples, plots    {out / 'Samples'}\n"
          f"weights           {out / 'Weights' / 'best.pth'}\n"
          f"notebooks as run  {out / 'notebooks'}")
    gain = float(summary[(summary.noise == "all") & (summary.method == DENOISED)].improvement_db.iloc[0])
    if not gain > 0:
        raise UserError(f"expected the network to improve unknown songs, but it changed them by {gain:+.2f}"
                        " dB: give it more or longer songs, or train longer in NoiseRemover.ipynb")


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--out", default="demo", help="folder for all output")
    parser.add_argument("--songs", help="folder of your own songs")
    parser.add_argument("--noises", help="folder of your own noises, in fold1, fold2, ...")
    parser.add_argument("--quick", action="store_true", help="make a smaller run, which learns less")
    args = parser.parse_args()
    if bool(args.songs) != bool(args.noises):
        raise CallError("expected both SONGS and NOISES or neither: give the other folder too")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    started = time.monotonic()
    given = [Path(p).absolute() if p else None for p in (args.songs, args.noises)]
    demo(Path(args.out).absolute(), *given, QUICK if args.quick else FULL)
    print(f"\ndone in {(time.monotonic() - started) / 60:.1f} minutes\n{NEXT}")


if __name__ == "__main__":
    run(main)
