"""Where noises come from: UrbanSound8K clips by fold, class and recording, and white noise.

An UrbanSound8K name is `{freesound id}-{class}-{occurrence}-{slice}`. Clips of one freesound id are
pieces of one recording, which must never be on both sides of a split nor on both sides of a pair.
Files with other names are taken too: each is a recording of its own, without a class.
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.audio.reading import list_audio
from common.errors import CallError
from common.labels import CLASS_NAMES, WHITE

log = logging.getLogger(__name__)

SPLIT_FOLDS = {"train": tuple(range(1, 9)), "validation": (9,), "test": (10,)}
SPLITS = tuple(SPLIT_FOLDS)
# In the mixed set every member of a pair is white noise with this probability.
WHITE_SHARE = 0.5
_NAME = re.compile(r"(\d+)-(\d)-(\d+)-(\d+)$")
# UrbanSound8K cuts slices of up to 4 s out of an occurrence of a sound, one every 2 s (Salamon et al. 2014): neighbours
# overlap. So it is in the audio; the start times of its metadata lie only 0.5 s apart.
SLICE_SECONDS = 2.0


@dataclass(frozen=True)
class NoiseClip:
    """A noise file. `class_id` is None for a name that is not UrbanSound8K's."""

    path: Path
    fold: int
    recording: str
    class_id: int | None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def label(self) -> str:
        """The class as a word."""
        return "unlabelled" if self.class_id is None else CLASS_NAMES[self.class_id]

    @property
    def place(self) -> tuple[int, float] | None:
        """The occurrence of its class in the recording, and the second of it with which the clip begins; None without
        a class."""
        match = _NAME.match(self.name)
        return match and (int(match[3]), int(match[4]) * SLICE_SECONDS)


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise, another for every seed."""

    seed: int
    name = label = WHITE


Noise = NoiseClip | WhiteNoise


def parse_clip(path: Path, fold: int) -> NoiseClip:
    """Read recording and class off a file name."""
    match = _NAME.match(path.stem)
    if not match:
        return NoiseClip(path, fold, path.stem, None)
    return NoiseClip(path, fold, match[1], int(match[2]))


def scan_folds(folder: str | Path) -> dict[int, list[NoiseClip]]:
    """All clips below `folder`/fold1 ... fold10 (or `folder`/audio/fold1 ...), by fold.

    An UrbanSound8K recording that lies in several folds is kept in the highest one only: folds make the splits, and
    a recording must not be in two of them. Raises CallError when no foldN is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CallError(f"expected a folder of noises, but {folder} does not exist: check --path-noises")
    # UrbanSound8K as published has its folds in audio/, beside metadata/, which the file names make superfluous.
    folder = folder / "audio" if (folder / "audio").is_dir() else folder
    found = {n: folder / f"fold{n}" for n in range(1, 11) if (folder / f"fold{n}").is_dir()}
    if not found:
        raise CallError(f"expected folders fold1 ... fold10 in {folder}, but there is none: point --path-noises "
                        "to UrbanSound8K's audio folder or sort the noises into fold1, fold2, ...")
    clips = [parse_clip(p, fold) for fold, path in sorted(found.items()) for p in list_audio(path)]
    clips = told_apart(clips, {clip.path: clip.path.relative_to(folder).as_posix() for clip in clips})
    owner = {clip.recording: clip.fold for clip in clips}
    elsewhere = [clip for clip in clips if clip.fold != owner[clip.recording]]
    if elsewhere:
        first = elsewhere[0]
        _say_once(f"{folder}: {len(elsewhere)} of {len(clips)} noises left out, whose recordings lie in higher folds "
                  f"too, as {first.path.relative_to(folder)} in fold{owner[first.recording]}")
    return {fold: [c for c in clips if c.fold == fold == owner[c.recording]] for fold in sorted(found)}


def told_apart(clips: Sequence[NoiseClip], names: Mapping[Path, str]) -> list[NoiseClip]:
    """The clips; those without an UrbanSound8K name that have namesakes get a recording from `names`, by their paths.

    Two files rain.wav are two recordings.
    """
    # All pieces of an UrbanSound8K recording bear its name together.
    bearers = Counter(name for name, _ in {(c.recording, c.path if c.class_id is None else None) for c in clips})
    return [replace(clip, recording=names[clip.path])
            if clip.class_id is None and bearers[clip.recording] > 1 else clip for clip in clips]


@functools.cache
def _say_once(text):
    """Folders are scanned for every split."""
    log.info("%s", text)


def clips_for_split(folder: str | Path, split: str, folds: Sequence[int] | None = None) -> list[NoiseClip]:
    """The clips that `split` may draw: folds 1-8, 9 or 10, or the `folds` given instead.

    Raises CallError, naming --folds, when one of them is absent.
    """
    wanted = tuple(folds or SPLIT_FOLDS[split])
    by_fold = scan_folds(folder)
    missing = [n for n in wanted if not by_fold.get(n)]
    if missing:
        raise CallError(f"expected noises in {', '.join(f'fold{n}' for n in missing)} of {folder} for split "
                        f"{split}, but only {', '.join(f'fold{n}' for n in by_fold)} are there: "
                        "choose among them with --folds")
    return [clip for n in wanted for clip in by_fold[n]]


def folds_by_split(folder: str | Path) -> dict[str, list[int]]:
    """The default folds if all ten are there, else the last for test, the one before for validation.

    Raises CallError for fewer than four folds.
    """
    folds = sorted(scan_folds(folder))
    if len(folds) < 4:
        raise CallError(f"expected at least 4 folders foldN in {folder} (2 to train, 1 to validate, 1 to test), got "
                        f"{len(folds)}: sort the noises into more folders")
    return {"train": folds[:-2], "validation": folds[-2:-1], "test": folds[-1:]}


def _draw(rng, items, what):
    if not items:
        raise CallError(f"expected {what}, but the chosen folds hold none: add folds with --folds")
    return items[rng.integers(len(items))]


def _differ(a: NoiseClip, b: NoiseClip) -> bool:
    """Whether two clips come from different recordings and classes."""
    return a.recording != b.recording and (a.class_id is None or a.class_id != b.class_id)


class RealNoises:
    """Clips; the two noises of a pair are of different recordings, folds and classes."""

    def __init__(self, clips: Sequence[NoiseClip]):
        self.clips = clips

    def first(self, rng: np.random.Generator) -> Noise:
        """The noise of a pair's input."""
        return _draw(rng, self.clips, "noises")

    def second(self, rng: np.random.Generator, first: Noise) -> Noise:
        """The noise of the same pair's noisy target."""
        others = [c for c in self.clips if c.fold != first.fold and _differ(c, first)]
        return _draw(rng, others, f"a second noise from another fold and class than {first.path.name}")


class ClassNoises:
    """The input's noise is of one class, the target's of any other class and another recording."""

    def __init__(self, clips: Sequence[NoiseClip], class_id: int):
        self.clips = clips
        self.members = [c for c in clips if c.class_id == class_id]
        self.others = [c for c in clips if c.class_id != class_id]
        self.class_id = class_id

    def first(self, rng: np.random.Generator) -> Noise:
        """The noise of a pair's input."""
        return _draw(rng, self.members, f"noises of class {self.class_id} ({CLASS_NAMES[self.class_id]})")

    def second(self, rng: np.random.Generator, first: Noise) -> Noise:
        """The noise of the same pair's noisy target."""
        others = [c for c in self.others if c.recording != first.recording]
        return _draw(rng, others, f"noises of other classes than {self.class_id}")


class WhiteNoises:
    """White noise, drawn anew for every member of a pair."""

    clips = ()

    def first(self, rng: np.random.Generator) -> Noise:
        """The noise of a pair's input."""
        return WhiteNoise(int(rng.integers(2**63)))

    def second(self, rng: np.random.Generator, first: Noise) -> Noise:
        """The noise of the same pair's noisy target."""
        return self.first(rng)


class MixedNoises:
    """Either noise is white with probability WHITE_SHARE, else a clip; two clips differ as in RealNoises."""

    def __init__(self, clips: Sequence[NoiseClip]):
        self.clips, self.real, self.white = clips, RealNoises(clips), WhiteNoises()

    def first(self, rng: np.random.Generator) -> Noise:
        """The noise of a pair's input."""
        return (self.white if rng.random() < WHITE_SHARE else self.real).first(rng)

    def second(self, rng: np.random.Generator, first: Noise) -> Noise:
        """The noise of the same pair's noisy target."""
        if isinstance(first, WhiteNoise):
            return self.first(rng)
        return self.white.first(rng) if rng.random() < WHITE_SHARE else self.real.second(rng, first)


NoiseSource = RealNoises | ClassNoises | WhiteNoises | MixedNoises
