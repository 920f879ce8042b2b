"""Training batches: crops of pair files, or mixtures made on the fly from songs and noises.

All randomness comes from the generator that is passed in, so that step n of a run is the same batch
after a restart.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from common.audio import AudioError, list_audio, read_audio, resample
from common.errors import CallError, UserError
from common.manifest import read_manifest
from common.noises import parse_clip
from common.signals import SILENT_RMS
from common.songs import song_name

SAMPLE_RATE = 44100
# 323 frames of the default STFT: the 3.74 s segments of the literature.
SEGMENT_SAMPLES = 165_000
# A segment that is quieter than this (-60 dBFS RMS) has no meaningful SNR.
MIN_RMS = 1e-3
_PAIR_FILE = re.compile(r"(INPUT|TARGET)-(S\d+N\d+(?:G\d+)?)-")
# Crops that are tried before a silent one is accepted.
MAX_CROPS = 10


@dataclass(frozen=True)
class PairFile:
    """One pair on disk. `noise` is the class of the input's noise as a word, or '' when unknown."""

    pair_id: str
    input: Path
    target: Path
    song: str
    noise: str
    recordings: frozenset[str]


def pair_key(file_name: str) -> str | None:
    """The pair id in the name of an INPUT or TARGET file; None for another name."""
    match = _PAIR_FILE.match(file_name)
    return match and match[2]


def _by_pair_id(directory, side):
    found = {}
    for path in list_audio(directory):
        match = _PAIR_FILE.match(path.name)
        if match and match[1] == side:
            found[match[2]] = path
    if not found:
        raise CallError(f"expected {side}-S1N1-... files in {directory}, but there is none: run a merger first or "
                        "swap the two folders")
    return found


def find_pairs(input_dir: str | Path, target_dir: str | Path) -> list[PairFile]:
    """The pairs of two folders that a merger or the segment notebook wrote, in manifest order.

    Raises CallError when a folder is missing or empty, or when members lack their partner.
    """
    inputs, targets = _by_pair_id(input_dir, "INPUT"), _by_pair_id(target_dir, "TARGET")
    alone = sorted(inputs.keys() ^ targets.keys())
    if alone:
        raise CallError(f"expected an INPUT and a TARGET for every pair, but {alone[0]} and {len(alone) - 1} others "
                        f"lack one in {input_dir} or {target_dir}: run the merger again to complete the set")
    rows = {row["pair_id"]: row for row in read_manifest(input_dir)}
    pairs = []
    for pair_id, path in inputs.items():
        row = rows.get(pair_id, {})
        song = song_name(row["song"]) if row else re.sub(r".*-\((.*)\)$", r"\1", path.stem)
        recordings = {row.get("input_noise_recording"), row.get("target_noise_recording")} - {None, ""}
        pairs.append(PairFile(pair_id, path, targets[pair_id], song, row.get("input_noise_class", ""),
                              frozenset(recordings)))
    return pairs


def pairs_in(folder: str | Path) -> list[PairFile]:
    """The pairs of a dataset folder: find_pairs of its input/ and target/."""
    return find_pairs(Path(folder) / "input", Path(folder) / "target")


def check_disjoint(**splits: Sequence[PairFile]) -> None:
    """Raise UserError when two splits share a song or a noise recording."""
    names = list(splits)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            songs = {p.song for p in splits[a]} & {p.song for p in splits[b]}
            recordings = (frozenset().union(*(p.recordings for p in splits[a]))
                          & frozenset().union(*(p.recordings for p in splits[b])))
            for what, shared in (("song", songs), ("noise recording", recordings)):
                if shared:
                    raise UserError(f"expected {a} and {b} without a {what} in common, but they share "
                                    f"{sorted(shared)[0]!r} ({len(shared)} in all): build them with the mergers' "
                                    "--split from one source")


class Source(ABC):
    """Where training batches come from."""

    def batch(self, rng: np.random.Generator, batch_size: int,
              n_samples: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Inputs and targets, each (batch_size, n_samples) float32 at SAMPLE_RATE, and a name for every row."""
        inputs, targets, names = zip(*(self.example(rng, n_samples) for _ in range(batch_size)), strict=True)
        return np.stack(inputs), np.stack(targets), list(names)

    @abstractmethod
    def example(self, rng: np.random.Generator, n_samples: int) -> tuple[np.ndarray, np.ndarray, str]:
        """One row of a batch."""


class PairSource(Source):
    """Random crops of pair files, one random channel each; reads only what it crops."""

    def __init__(self, pairs: Sequence[PairFile]):
        self.pairs = list(pairs)

    def example(self, rng: np.random.Generator, n_samples: int) -> tuple[np.ndarray, np.ndarray, str]:
        """One row of a batch; silent crops are drawn again."""
        for _ in range(MAX_CROPS):
            pair = self.pairs[rng.integers(len(self.pairs))]
            position, channel = rng.random(2)
            members = [_read_crop(p, position, channel, n_samples) for p in (pair.input, pair.target)]
            if np.abs(members[0]).max() > SILENT_RMS:
                break
        return *members, pair.input.name


def _read_crop(path, position, channel, n_samples):
    """A crop of `n_samples` at SAMPLE_RATE from a relative position; a short file is continued with zeros."""
    try:
        with sf.SoundFile(path) as file:
            n_native = -(-n_samples * file.samplerate // SAMPLE_RATE)
            file.seek(int(position * max(0, file.frames - n_native + 1)))
            audio = file.read(n_native, dtype="float32", always_2d=True)[:, int(channel * file.channels)]
            audio = resample(audio[None], file.samplerate, SAMPLE_RATE)[0, :n_samples]
    except sf.LibsndfileError as error:
        raise AudioError(f"expected a readable pair file, but {path} could not be decoded ({error}): build the "
                         "dataset again") from error
    return np.pad(audio, (0, n_samples - len(audio)))


@dataclass(frozen=True)
class PooledClip:
    """A decoded file: int16 samples (channels, samples) at SAMPLE_RATE, and its RMS at full scale 1."""

    name: str
    recording: str
    samples: np.ndarray
    rms: float


def pool_audio(files: Sequence[Path]) -> list[PooledClip]:
    """Decode files into memory; silent ones are left out. Noise recordings are read off the names."""
    clips = []
    for path in files:
        audio, _ = read_audio(path, SAMPLE_RATE)
        rms = float(np.sqrt(np.square(audio, dtype=np.float64).mean()))
        if rms > SILENT_RMS:
            # Scaled to its own peak, so that a quiet file keeps 16 bits.
            peak = np.abs(audio).max()
            samples = np.rint(audio / peak * 32767).astype(np.int16)
            clips.append(PooledClip(path.name, parse_clip(path, 0).recording, samples, rms / peak))
    if not clips:
        raise UserError(f"expected audio with signal, but all {len(files)} files are silent: check the folder")
    return clips


class MixtureSource(Source):
    """Noise2Noise pairs mixed on the fly: a crop of a song with two independent noises.

    Args: songs, and groups of noises with the share in which each is drawn; what is left to 1 is white
    noise. snr_db: range of the SNR, drawn for either member. noise_speed: range of the factor by which a
    clip is played faster, which also moves up the band of noises recorded at low rates. clean_target:
    Noise2Clean on the same draws, for comparison.
    """

    def __init__(self, songs: Sequence[PooledClip], noises: Sequence[tuple[float, Sequence[PooledClip]]],
                 snr_db: tuple[float, float] = (-3.0, 22.0), noise_speed: tuple[float, float] = (0.8, 2.0),
                 clean_target: bool = False):
        if sum(share for share, _ in noises) > 1 + 1e-9:
            raise CallError(f"expected noise shares that sum to at most 1, got {[share for share, _ in noises]}")
        self.songs, self.noises = list(songs), [(share, list(clips)) for share, clips in noises]
        self.snr_db, self.noise_speed, self.clean_target = snr_db, noise_speed, clean_target

    def example(self, rng: np.random.Generator, n_samples: int) -> tuple[np.ndarray, np.ndarray, str]:
        """One row of a batch: a loud enough crop of a song, mixed twice."""
        for _ in range(MAX_CROPS):
            clip = self.songs[rng.integers(len(self.songs))]
            song = _pool_crop(rng, clip, n_samples) * rng.choice([-1.0, 1.0]) / clip.rms
            if np.square(song).mean() > 1e-3:  # 30 dB under the song's level there is little to learn
                break
        first, recording, name = self._noise(rng, n_samples, None)
        second, _, other = self._noise(rng, n_samples, recording)
        target = song if self.clean_target else song + second
        return (song + first).astype(np.float32), target.astype(np.float32), f"{clip.name} + {name} / {other}"

    def _noise(self, rng, n_samples, not_recording):
        """A noise at its SNR against a song of RMS 1, from another recording than `not_recording`."""
        scale = 10 ** (-rng.uniform(*self.snr_db) / 20)
        point = rng.random()
        clips = None
        for share, group in self.noises:
            if 0 <= point < share:
                clips = group
            point -= share
        if clips is None:
            return rng.standard_normal(n_samples, dtype=np.float32) * scale, None, "white"
        clip = clips[rng.integers(len(clips))]
        while clip.recording == not_recording:
            clip = clips[rng.integers(len(clips))]
        speed = np.exp(rng.uniform(*np.log(self.noise_speed)))
        raw = _pool_crop(rng, clip, int(n_samples * speed) + 2)
        noise = np.interp(np.arange(n_samples) * speed, np.arange(len(raw)), raw)
        return noise * (scale / clip.rms), clip.recording, clip.name


def _pool_crop(rng, clip, n_samples):
    """A crop of one channel as float at full scale 1, looped where the clip is too short."""
    channel = clip.samples[rng.integers(len(clip.samples))]
    start = rng.integers(max(1, len(channel) - n_samples + 1))
    crop = channel[start : start + n_samples]
    if len(crop) < n_samples:
        crop = np.resize(np.roll(channel, -rng.integers(len(channel))), n_samples)
    return crop.astype(np.float32) / 32767
