"""Speed of the mergers, compared with a plain implementation and with a lower bound, on the same files in one run.

    python -m benchmarks.mixing [--path-songs DIR --path-noises DIR] [--iter-noise 10] [--rounds 3]

plain: the method of the literature, pair by pair: ffmpeg decodes each song to a temporary WAV, and every pair is read,
mixed and written in float64 with NumPy. ours: merger.py with one job, with all cores, and with all cores as FLAC.
floor: every song is decoded once and as many bytes are written as by "ours all", in one job or on all cores. All
variants take turns, each in a fresh process; the table shows medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import soundfile as sf
import soxr

from common.audio.reading import AudioReader, read_audio
from common.cli import Parser, run
from common.data.manifest import read_manifest
from common.data.noises import NoiseSource, clips_for_split
from common.data.songs import song_name, songs_for_split
from common.errors import CallError

VARIANTS = ("plain", "ours 1 job", "ours all", "ours flac", "floor", "floor all")
BASE, BEST, FLOOR = "plain", "ours all", "floor"


def plain(songs, noises, folds, iter_noise, out):
    """Make pairs in a plain loop that shares with the library only the choice of noises and the noise reader."""
    rng, source = np.random.default_rng(0), NoiseSource(clips_for_split(noises, "train", folds))
    for side in ("input", "target"):
        (out / side).mkdir(parents=True)
    for song_number, path in enumerate(songs):
        wav = out / "song.wav"
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", path, "-map", "0:a:0", wav], check=True)
        for n in range(iter_noise):
            song, rate = sf.read(wav, always_2d=True)
            first = source.first(rng)
            mixed = []
            for clip in (first, source.second(rng, first)):
                noise, noise_rate = read_audio(clip.path)
                noise = soxr.resample(noise.mean(axis=0).astype(np.float64), noise_rate, rate)
                noise = np.tile(noise, len(song) // len(noise) + 1)[: len(song)]
                noise = np.stack([noise - noise.mean()] * song.shape[1], axis=1)
                snr_db = rng.uniform(2, 27)
                scale = np.sqrt((song**2).mean() / ((noise**2).mean() * 10 ** (snr_db / 10)))
                mixed.append(song + scale * noise)
            gain = min(1.0, 0.99 / max(np.abs(m).max() for m in mixed))
            for side, audio in zip(("input", "target"), mixed, strict=True):
                sf.write(out / side / f"S{song_number}N{n}-{song_name(path)}.wav", audio * gain, rate, "PCM_16")
        wav.unlink()


def _decode_and_write(path, n_files, folder):
    with AudioReader(path) as reader:
        n_bytes = sum(block.size for block in reader.blocks(reader.sample_rate)) * 2
    data = bytes(n_bytes)
    for n in range(n_files):
        (folder / f"{song_name(path)}-{n}.raw").write_bytes(data)


def floor(songs, iter_noise, out, jobs):
    """Decode every song once and write as many bytes as the pairs take."""
    out.mkdir(parents=True)
    joblib.Parallel(n_jobs=jobs)(joblib.delayed(_decode_and_write)(p, 2 * iter_noise, out) for p in songs)


def _measure(variant, args, out):
    """Run one variant as a fresh process; returns seconds, bytes written and the largest process in MB."""
    if variant.startswith("ours"):
        command = ["merger.py", "--path-songs", args.path_songs, "--path-noises", args.path_noises, "--iter-songs",
                   10**6, "--iter-noise", args.iter_noise, "--input-dir", out / "input", "--target-dir",
                   out / "target", "--jobs", 1 if variant == "ours 1 job" else -1,
                   "--format", "flac" if variant == "ours flac" else "wav"]
        command += ["--folds", args.folds] if args.folds else []
    else:
        command = ["-m", "benchmarks.mixing", "--only", variant, "--out", out, "--path-songs", args.path_songs,
                   "--path-noises", args.path_noises, "--iter-noise", args.iter_noise]
        command += ["--folds", args.folds] if args.folds else []
    seconds, peak_rss_mb = run_measured(command, Path(f"{out}.rss"))
    n_bytes = sum(p.stat().st_size for p in out.rglob("*") if p.suffix in (".wav", ".flac", ".raw"))
    return {"seconds": seconds, "megabytes": n_bytes / 1e6, "peak_rss_mb": peak_rss_mb}


def run_measured(arguments: list, note: Path) -> tuple[float, float]:
    """Run Python with `arguments`; returns seconds and the peak RSS in MB of the largest process (via file `note`)."""
    # The wrapper waits for all processes and then asks for the memory of the largest one.
    wrapper = ("import resource, subprocess, sys; code = subprocess.run(sys.argv[2:], stderr=subprocess.DEVNULL)"
               ".returncode; open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss));"
               " sys.exit(code)")
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", wrapper, note, sys.executable, *map(str, arguments)], check=True)
    return time.monotonic() - started, int(note.read_text()) / 1024


def compare(args):
    """Run all variants in turn, `rounds` times; prints the table and returns its rows."""
    songs = songs_for_split(args.path_songs, "train")
    n_pairs, runs = len(songs) * args.iter_noise, {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for n in range(args.rounds):
            for variant in VARIANTS:
                out = Path(folder) / f"{variant.replace(' ', '-')}-{n}"
                runs[variant].append(_measure(variant, args, out))
                if variant == "ours 1 job":
                    rows = read_manifest(out / "input")
                    hours = sum(float(r["samples"]) / float(r["sample_rate"]) for r in rows) / 3600
                    assert len(rows) == n_pairs
                shutil.rmtree(out)
    print(f"{len(songs)} songs x {args.iter_noise} pairs = {n_pairs} pairs, {hours:.2f} hours each of INPUT and TARGET;"
          f" {os.cpu_count()} cores; median of {args.rounds} rounds\n")
    print(f"{'variant':<12} {'seconds':>8} {'pairs/s':>8} {'MB':>7} {'MB/s':>6} {'peak RSS MB':>12} "
          f"{'plain / it':>11} {'it / floor':>11}")
    table = []
    medians = {v: {k: statistics.median(r[k] for r in runs[v]) for k in runs[v][0]} for v in VARIANTS}
    for variant, m in medians.items():
        row = {"variant": variant, "pairs_per_second": n_pairs / m["seconds"], **m,
               "speed_up": medians[BASE]["seconds"] / m["seconds"],
               "of_floor": m["seconds"] / medians[FLOOR]["seconds"]}
        table.append(row)
        print(f"{variant:<12} {m['seconds']:8.2f} {row['pairs_per_second']:8.2f} {m['megabytes']:7.0f} "
              f"{m['megabytes'] / m['seconds']:6.0f} {m['peak_rss_mb']:12.0f} {row['speed_up']:11.2f} "
              f"{row['of_floor']:11.2f}")
    return table


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--path-songs", help="folder of songs (default: a generated corpus of one-minute songs)")
    parser.add_argument("--path-noises", help="folder with fold1 ... fold10 (default: generated)")
    parser.add_argument("--folds", help="noise folds, in the form of merger.py")
    parser.add_argument("--iter-noise", type=int, default=10, help="number of pairs of each song")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each variant")
    parser.add_argument("--json", help="also write the table to this file")
    parser.add_argument("--only", choices=("plain", "floor", "floor all"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        songs = songs_for_split(args.path_songs, "train")
        folds = [int(f) for f in args.folds.split(",")] if args.folds else None
        if args.only == "plain":
            plain(songs, args.path_noises, folds, args.iter_noise, args.out)
        else:
            floor(songs, args.iter_noise, args.out, 1 if args.only == "floor" else -1)
        return
    if shutil.which("ffmpeg") is None:
        raise CallError("expected the program ffmpeg, which the plain variant calls, but it is not on the PATH: "
                        "install it to run this benchmark")
    with tempfile.TemporaryDirectory() as folder:
        if not args.path_songs:
            from common.demo.corpus import make_corpus  # the timed processes must not load it

            args.path_songs, args.path_noises = make_corpus(Path(folder), song_seconds=60)
        table = compare(args)
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
