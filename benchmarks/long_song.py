"""Peak memory of the mergers for short and long songs: it should not grow with the length.

    python -m benchmarks.long_song [--minutes 10 120]
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.mixing import run_measured
from common.audio.writing import AudioWriter
from common.cli import Parser, run
from common.demo.corpus import make_corpus

SAMPLE_RATE = 44100


def make_song(path, minutes, channels=2):
    """Write a song of noise bursts, in blocks."""
    rng = np.random.default_rng(0)
    with AudioWriter(path, SAMPLE_RATE, channels) as writer:
        for second in range(minutes * 60):
            level = 0.05 + 0.1 * (second % 7)
            writer.write((level * rng.uniform(-1, 1, (channels, SAMPLE_RATE))).astype(np.float32))


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 120], help="lengths of the songs in minutes")
    args = parser.parse_args()
    print(f"{'merger':<16} {'minutes':>8} {'seconds':>8} {'peak RSS MB':>12}")
    with tempfile.TemporaryDirectory() as folder:
        _, noises = make_corpus(Path(folder) / "corpus", song_seconds=5)
        for minutes in args.minutes:
            songs = Path(folder) / f"{minutes}" / "train"
            make_song(songs / "long.wav", minutes)
            for merger, flags in (("merger.py", ["--path-noises", noises, "--iter-noise", 1]),
                                  ("merger_white.py", ["--iter-white-noise", 1])):
                out = Path(folder) / f"{merger}-{minutes}"
                seconds, rss = run_measured([merger, "--path-songs", songs, *flags, "--jobs", 1, "--input-dir",
                                             out / "input", "--target-dir", out / "target"], out.with_suffix(".rss"))
                print(f"{merger:<16} {minutes:8d} {seconds:8.1f} {rss:12.0f}", flush=True)
                shutil.rmtree(out)


if __name__ == "__main__":
    run(main)
