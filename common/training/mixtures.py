"""Noise2Noise pairs mixed during training: a crop of a song with two independent noises, drawn from a pool.

(seed, step, row) alone decide the content of a row, so that a resumed run repeats it and several processes can share a
batch. The draws are made on the host; the samples are gathered and mixed on the pool's device.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from common.cli import check_range, setting
from common.data.pool import CLIP_PEAK, POWER_BLOCK, SONG, Clip, Pool
from common.data.silence import MAX_SNR_DB
from common.errors import CallError, UserError
from common.labels import CLASS_NAMES, MIXED
from common.network.noise_print import LEAST_PRINT_SECONDS
from common.network.stft import SAMPLE_RATE
from common.seeds import stream
from common.training.filters import (
    MOST_EQUALISER_DB,
    Equaliser,
    LowPass,
    draw_equaliser,
    draw_low_pass,
    equalised,
    low_passed,
    to_device,
)
from common.training.overdrive import draw_overdrive, overdriven
from common.training.synthetic_noise import SYNTHETIC, synthetic

CLASSES, OTHER = "classes", "other"
TRAIN, VALIDATION = "train", "validation"
# The meaning of "mixed": 3/5 UrbanSound8K classes, 1/5 other recorded noises, 1/5 white noise.
MIXED_NOISES = f"white:1,{CLASSES}:3,{OTHER}:1"
# Power of a crop, relative to its song's, below which there is little to learn; and the number of draws to avoid it.
QUIET, MAX_DRAWS = 1e-3, 10
# Largest share of a clip that is kept for its noise print. The mixture uses the rest.
PRINT_SHARE_OF_CLIP = 1 / 3
# Taps of the interpolating sinc on either side.
HALF_TAPS = 4
# MixtureSettings of validation and calibration: songs as they are, and a print for every noise that is long enough.
AS_MEASURED = {"song_speed": (1.0, 1.0), "song_equaliser_db": None, "song_overdrive_db": None, "print_share": 1.0}
# Largest weight of a noise.
MOST_WEIGHT = 1_000_000
# Limits of the ranges of MixtureSettings: beyond them nothing can be learned, numbers overflow or memory fills.
RANGES = {"snr_db": (-MAX_SNR_DB, MAX_SNR_DB), "target_snr_offset_db": (-MAX_SNR_DB, MAX_SNR_DB),
          "print_seconds": (LEAST_PRINT_SECONDS, 60), "song_speed": (0.05, 20), "song_overdrive_db": (-60, 60),
          "noise_speed": (0.05, 20), "lowpass_hz": (1, SAMPLE_RATE)}


@dataclass(frozen=True)
class MixtureSettings:
    """Settings that decide how pairs are mixed. They are saved with a run.

    noise, target_noise: names with weights, as "white:2,siren,hum:0.5". A name is white, pink, brown, hiss, hum, a
    label of the pool, `classes` (all UrbanSound8K classes evenly), `other` (all other labels evenly) or `mixed`
    (MIXED_NOISES). The two recorded noises of a pair share neither label nor recording. snr_db: of a clip's whole level
    against the song's. target_snr_offset_db: None draws the target's SNR from snr_db too (common.training.losses
    compares both). A noise print is another stretch of the input's noise at the same level. The speed of a noise
    also moves up the band of recordings with low sample rates. An overdrive and an equaliser leave the crop's level as
    it is. A low-pass filter removes the top band of input, target and print together, as a lossy codec removes that of
    a whole recording.
    """

    noise: str = setting(
        MIXED, "noises of the input: names with weights, as white:2,siren; mixed means all noises")
    target_noise: str = setting(MIXED, "noises of the target, in the form of --noise")
    snr_db: tuple[float, float] = setting((-3.0, 27.0), "range of the SNR of input and target, in dB")
    target_snr_offset_db: tuple[float, float] | None = setting(
        (-5.0, 5.0), "range of the target's SNR above the input's, in dB")
    print_share: float = setting(0.7, "share of the rows that come with a noise print, 0 to 1")
    print_seconds: tuple[float, float] = setting((0.5, 2.0), "range of the length of a noise print, in seconds")
    song_speed: tuple[float, float] = setting((0.94, 1.06), "range of the factor by which songs are played faster")
    song_equaliser_db: float | None = setting(
        None, "standard deviation of the gain that a random equaliser gives each octave of a song, in dB (default: no "
        "equaliser)")
    song_overdrive_db: tuple[float, float] | None = setting(
        None, "range of the gain in dB with which half of the songs are overdriven, as by a guitar amplifier; 0 bends "
        "loud moments, 20 clips most of a song (default: no overdrive)")
    noise_speed: tuple[float, float] = setting((0.8, 2.0), "range of the factor by which noises are played faster")
    lowpass_share: float = setting(
        0.3, "share of the pairs that have no top band, as after a lossy codec, 0 to 1")
    lowpass_hz: tuple[float, float] = setting((7000.0, 21000.0), "range of the highest frequency of these pairs, in Hz")
    clean_target: bool = setting(False, "use the clean song as the target (Noise2Clean), for comparison")

    def __post_init__(self):
        for name, (least, most) in RANGES.items():
            if (given := getattr(self, name)) is not None:
                check_range(name, given, least, most)
        for name in ("print_share", "lowpass_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise CallError(f"expected a {name} from 0 to 1, got {getattr(self, name)}: correct the share")
        if not 0 <= (self.song_equaliser_db or 0) <= MOST_EQUALISER_DB:
            raise CallError(f"expected a song_equaliser_db from 0 to {MOST_EQUALISER_DB}, got "
                            f"{self.song_equaliser_db}: correct the number")


def parse_noises(text: str, labels: Sequence[str]) -> dict[str, float]:
    """Return the shares, which sum to 1, of single noises; raises CallError for an unknown name or a wrong weight."""
    groups = {CLASSES: [x for x in labels if x in CLASS_NAMES], OTHER: [x for x in labels if x not in CLASS_NAMES]}
    shares = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        group = groups.get(name, [name])
        members = parse_noises(MIXED_NOISES, labels) if name == MIXED else dict.fromkeys(group, 1 / max(1, len(group)))
        if not set(members) <= {*SYNTHETIC, *labels}:
            raise CallError(f"expected noises among {', '.join((*SYNTHETIC, CLASSES, OTHER, MIXED, *labels))}, got "
                            f"{name!r}: choose some of them")
        try:
            weight = float(weight or 1)
        except ValueError:
            weight = -1.0
        if not 0 < weight <= MOST_WEIGHT:
            raise CallError(f"expected a weight above 0 and at most {MOST_WEIGHT} behind {name}:, got {part!r}: "
                            "correct the number")
        for member, share in members.items():
            shares[member] = shares.get(member, 0) + weight * share
    if not shares:
        raise CallError(f"expected noises, but the pool holds none for {text!r}: choose another name")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


@dataclass(frozen=True)
class _Part:
    """One crop of a clip, or, with `clip` None, of the synthetic noise of this `label` and `seed`.

    The clip's samples from `begin` to `begin + length` are looped, and the crop starts `offset` samples after `begin`.
    """

    label: str
    gain: float
    clip: Clip | None = None
    channel: int = 0
    begin: int = 0
    length: int = 0
    offset: int = 0
    speed: float = 1.0
    seed: int = 0

    @property
    def name(self):
        return self.clip.name if self.clip else self.label

    def print(self, n_samples):
        """Return the same noise at the same level outside of a crop of `n_samples`; None where too little is left."""
        if self.clip is None:
            return replace(self, offset=n_samples)
        begin = 0 if self.begin else self.length
        left = self.clip.length - self.length
        if left < LEAST_PRINT_SECONDS * SAMPLE_RATE * self.speed:
            return None
        return replace(self, begin=begin, length=left, offset=0)


class _Row(NamedTuple):
    """What makes one row of a batch; None stands for a part that the row lacks."""

    song: _Part
    noise: _Part
    target_noise: _Part
    print: _Part | None
    overdrive: float | None
    equaliser: Equaliser | None
    low_pass: LowPass | None


class MixtureSource:
    """Batches of mixtures of one split of a pool, or of its noises with the songs of another split."""

    def __init__(self, pool: Pool, settings: MixtureSettings, split: str = TRAIN, song_split: str | None = None):
        self.pool, self.mixture, self.split, self.clean_target = pool, settings, split, settings.clean_target
        self.songs = pool.select(song_split or split, songs=True)
        self._by_label = {}
        for clip in pool.clips:
            if clip.split == split and clip.label != SONG:
                self._by_label.setdefault(clip.label, []).append(clip)
        self._shares = [parse_noises(text, sorted(self._by_label))
                        for text in (settings.noise, settings.target_noise)]
        first, second = self._shares
        if len(second) == 1 and set(second) <= set(first) - set(SYNTHETIC):
            raise CallError("expected a target noise of another label than the input's, got "
                            f"{settings.target_noise!r} for {settings.noise!r}: set target_noise to mixed")
        for clip in self.songs:
            for channel in range(clip.channels):
                pool.block_powers(clip, channel)  # the pool keeps them; a step need not wait for the device then

    def songs_and_recordings(self) -> tuple[set[str], set[str]]:
        """Return the names of the songs and of the noise recordings."""
        noises = (clip for clips in self._by_label.values() for clip in clips)
        return {clip.name for clip in self.songs}, {clip.recording for clip in noises}

    def settings(self) -> dict:
        """Return everything that decides the batches besides seed and step, as plain values."""
        return {"pool_sha256": self.pool.sha256(), "split": self.split, "songs": len(self.songs),
                "noises": sum(map(len, self._by_label.values())), **asdict(self.mixture)}

    def batch(self, seed: int, step: int, rows: range, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of these rows, each (len(rows), n_samples) float32, on the pool's device."""
        drawn = [self._draw(seed, step, row, n_samples) for row in rows]
        song, noise, target_noise = (self._render([row[k] for row in drawn], n_samples) for k in range(3))
        song = overdriven(song, [row.overdrive for row in drawn])
        song = equalised(song, [row.equaliser for row in drawn])
        noisy, target = song + noise, song if self.clean_target else song + target_noise
        filters = [row.low_pass for row in drawn]
        return low_passed(noisy, filters), low_passed(target, filters)

    def prints(self, seed: int, step: int, rows: range, n_samples: int) -> torch.Tensor:
        """Return the noise prints of batch()'s inputs, (len(rows), samples) float32; zeros for a row without one."""
        low, high = self.mixture.print_seconds
        n_print = int(SAMPLE_RATE * stream(seed, f"{self.split} print length", step).uniform(low, high))
        drawn = [self._draw(seed, step, row, n_samples) for row in rows]
        return low_passed(self._render([row.print for row in drawn], n_print), [row.low_pass for row in drawn])

    def names(self, seed: int, step: int, rows: range, n_samples: int) -> list[str]:
        """Return the names of song, input noise and target noise of each row."""
        return [f"{row.song.name} + {row.noise.name} / {row.target_noise.name}" for row in
                (self._draw(seed, step, row, n_samples) for row in rows)]

    def song_names(self, seed: int, step: int, rows: range, n_samples: int) -> list[str]:
        """Return the name of the song of each row."""
        return [self._draw(seed, step, row, n_samples).song.name for row in rows]

    def _draw(self, seed, step, row, n_samples):
        mixture = self.mixture
        rng = stream(seed, f"{self.split} mixtures", step, row)
        song = self._draw_song(rng, n_samples)
        snr_db = rng.uniform(*mixture.snr_db)
        noise = self._draw_noise(rng, self._shares[0], snr_db, n_samples, None)
        offset_db = mixture.target_snr_offset_db
        snr_db = snr_db + rng.uniform(*offset_db) if offset_db else rng.uniform(*mixture.snr_db)
        target_noise = self._draw_noise(rng, self._shares[1], snr_db, n_samples, noise)
        heard = noise.print(n_samples) if rng.random() < mixture.print_share else None
        low_pass = draw_low_pass(rng, mixture.lowpass_hz) if rng.random() < mixture.lowpass_share else None
        # Drawn last, so that the rest of a row is the same without them.
        equaliser = draw_equaliser(rng, mixture.song_equaliser_db) if mixture.song_equaliser_db else None
        overdrive = draw_overdrive(rng, mixture.song_overdrive_db)
        return _Row(song, noise, target_noise, heard, overdrive, equaliser, low_pass)

    def _draw_song(self, rng, n_samples):
        """Draw a crop, at an RMS of 1 for the whole clip. All songs are equally likely, long or short."""
        gain = rng.choice([-1.0, 1.0])
        for _ in range(MAX_DRAWS):
            clip = self.songs[rng.integers(len(self.songs))]
            part = self._draw_crop(rng, clip, gain / clip.rms, self.mixture.song_speed, n_samples)
            powers = self.pool.block_powers(clip, part.channel)
            # The blocks that lie wholly in the crop, at least one.
            first = min(-(-part.offset // POWER_BLOCK), len(powers) - 1)
            end = int(part.offset + n_samples * part.speed) // POWER_BLOCK
            if powers[first : max(end, first + 1)].mean() > QUIET * clip.rms**2:
                break
        return part

    def _draw_noise(self, rng, shares, snr_db, n_samples, other):
        """Draw a noise at its SNR against a song of RMS 1, with neither label nor recording of the noise `other`."""
        gain = 10 ** (-snr_db / 20)
        not_label, not_recording = (other.label, other.clip.recording) if other and other.clip else (None, None)
        names = [name for name in shares if name != not_label]
        odds = np.array([shares[name] for name in names])
        for _ in range(MAX_DRAWS):
            label = names[rng.choice(len(names), p=odds / odds.sum())]
            if label in SYNTHETIC:
                return _Part(label, gain, seed=int(rng.integers(2**62)))
            clips = [clip for clip in self._by_label[label] if clip.recording != not_recording]
            if clips:
                clip = clips[rng.integers(len(clips))]
                n_print = int(SAMPLE_RATE * self.mixture.print_seconds[1])
                return self._draw_crop(rng, clip, gain / clip.rms, self.mixture.noise_speed, n_samples, n_print)
        raise UserError(f"expected target noises of other recordings than {not_recording}, but {', '.join(names)} have "
                        "none: allow more noises")

    @staticmethod
    def _draw_crop(rng, clip, gain, speed_range, n_samples, n_print=0):
        """Draw a crop of a clip that leaves out its first or last samples, enough for a print of `n_print` samples."""
        speed = float(np.exp(rng.uniform(*np.log(speed_range))))
        n_kept = min(int(n_print * speed), int(clip.length * PRINT_SHARE_OF_CLIP))
        length = clip.length - n_kept
        begin = n_kept if rng.random() < 0.5 else 0
        free = length - n_samples * speed  # a stretch that is too short is looped, from any sample on
        offset = int(rng.integers(max(1, int(free if free > 0 else length))))
        return _Part(clip.label, gain, clip, int(rng.integers(clip.channels)), begin, length, offset, speed)

    def _render(self, parts, n_samples):
        """Return the crops of a batch, (len(parts), n_samples); zeros for a part that is None."""
        device = self.pool.samples.device
        out = torch.zeros(len(parts), n_samples, device=device)
        for i, part in enumerate(parts):
            if part and part.clip is None:
                made = synthetic(part.label, part.seed, part.offset + n_samples, device)
                out[i] = made[part.offset :] * part.gain
        real = [i for i, part in enumerate(parts) if part and part.clip]
        if real:
            found = [parts[i] for i in real]
            places = torch.tensor([[p.clip.start + p.channel * p.clip.length + p.begin, p.length, p.offset]
                                   for p in found])
            floats = torch.tensor([[p.speed, p.gain / CLIP_PEAK] for p in found], dtype=torch.float64)
            speed, gain = to_device(floats, device).T
            n_read = int(n_samples * max(p.speed for p in found)) + 2 * HALF_TAPS + 1
            crops = _interpolate(self.pool.samples, *to_device(places, device).T, speed, n_samples, n_read)
            out.index_copy_(0, to_device(torch.tensor(real), device), crops.mul_(gain[:, None].float()))
        return out


def _interpolate(samples, start, length, first, speed, n, n_read):
    """Return crops (rows, n), `speed` times faster, of the looped stretches samples[start : start + length].

    Each crop begins `first` samples after its start; n_read: samples that the longest crop spans. At a distance d from
    a sample the weight is a Hann-windowed sinc, sin(pi d) / (pi d) times the window. |sin(pi d)| is the same at all
    samples and cancels in the division by the sum of weights, so that only its alternating sign is computed. No filter
    limits the band of a crop that is `speed` times faster: the top 1 - 1/speed of its band is aliased (6 % at most by
    default, 29 % at 1.4), in input and target alike, and an aliased noise is still a noise.
    """
    steps = torch.arange(1 - HALF_TAPS, n_read + 1 - HALF_TAPS, device=samples.device)
    read = samples[start[:, None] + (first[:, None] + steps) % length[:, None]].float()
    position = speed[:, None] * torch.arange(n, device=samples.device, dtype=torch.float64)
    whole = position.long()
    fraction = (position - whole).float().clamp_(1e-6, 1 - 1e-6)
    angle = fraction * (math.pi / HALF_TAPS)
    cosine, sine = angle.cos(), angle.sin()
    total, norm = torch.zeros_like(fraction), torch.zeros_like(fraction)
    for tap in range(1 - HALF_TAPS, HALF_TAPS + 1):
        turn = math.pi / HALF_TAPS * tap
        window = cosine * math.cos(turn) + sine * math.sin(turn) + 1
        weight = window.mul_((-1) ** tap).div_(fraction - tap)
        total.addcmul_(read.gather(1, whole + (tap + HALF_TAPS - 1)), weight)
        norm += weight
    return total.div_(norm)
