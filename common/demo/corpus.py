"""A synthetic corpus to try everything on, made in seconds.

Songs are stem files like those of MUSDB18 (five AAC streams, the mix first) in train/, validation/ and test/. Noises
have UrbanSound8K names, one of every class in each of fold1, fold2, ...
"""

import os
from fractions import Fraction
from pathlib import Path

import av
import joblib
import numpy as np

from common.audio.writing import write_audio
from common.demo import synth
from common.seeds import stream
from common.small_files import ffmpeg_name
from common.workers import worker_processes

SONGS_PER_SPLIT = {"train": 8, "validation": 2, "test": 4}
TITLES = ("Amber", "Brook", "Cinder", "Dune", "Ember", "Fjord", "Glade", "Harbour", "Isle", "Juniper", "Kite",
          "Lagoon", "Meadow", "Nimbus")


def write_stems(path: Path, stems: dict[str, np.ndarray], sample_rate: int) -> None:
    """Write the sum of `stems`, (channels, samples) each, and then the stems as AAC streams of one MP4 file."""
    temporary = path.with_name(f".{path.name}.tmp")
    layout = {1: "mono", 2: "stereo"}[len(next(iter(stems.values())))]
    with av.open(ffmpeg_name(temporary), "w", format="mp4") as container:
        streams = []
        for _ in range(1 + len(stems)):
            stream = container.add_stream("aac", rate=sample_rate, layout=layout)
            stream.bit_rate, stream.options = 96_000 * stream.channels, {"aac_coder": "fast"}
            streams.append(stream)
        for stream, audio in zip(streams, (sum(stems.values()), *stems.values()), strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio, np.float32), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), 0
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
    os.replace(temporary, path)


def _write_song(path, seed, seconds, channels):
    stems = synth.song(seed, seconds)
    if channels == 1:
        stems = {name: audio.mean(axis=0, keepdims=True) for name, audio in stems.items()}
    peak = np.abs(sum(stems.values())).max()
    write_stems(path, {name: audio * (0.8 / peak) for name, audio in stems.items()}, synth.SAMPLE_RATE)


def _write_noises(folder, fold, seed):
    for class_id in range(10):
        key = seed * 100 + fold
        seconds = stream(key, "length", class_id).uniform(2, 4)
        path = folder / f"fold{fold}" / f"{100000 + 100 * fold + class_id}-{class_id}-0-0.wav"
        write_audio(path, synth.noise(class_id, key, seconds), synth.SAMPLE_RATE)


def make_corpus(folder: str | Path, seed: int = 0, song_seconds: float = 16.0, channels: int = 2, n_folds: int = 10,
                jobs: int = -1) -> tuple[Path, Path]:
    """Write the corpus unless it exists; returns the folders of songs and noises.

    channels: 1 or 2, of the songs; noises are mono. n_folds: number of noise folders.
    """
    done = Path(folder) / f"corpus-{seed}-{song_seconds:g}-{channels}-{n_folds}"
    songs, noises = Path(folder) / "songs", Path(folder) / "noises"
    if done.exists():
        return songs, noises
    work, n = [], 0
    for split, count in SONGS_PER_SPLIT.items():
        (songs / split).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            work.append(joblib.delayed(_write_song)(songs / split / f"{TITLES[n]}.stem.mp4", seed * 100 + n,
                                                    song_seconds, channels))
            n += 1
    work += [joblib.delayed(_write_noises)(noises, fold, seed) for fold in range(1, n_folds + 1)]
    with worker_processes(jobs) as parallel:
        for _ in parallel(work):
            pass
    done.touch()
    return songs, noises
