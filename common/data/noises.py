"""Where noises come from: UrbanSound8K clips by fold, class and recording, and white noise.

An UrbanSound8K name is `{freesound id}-{class}-{occurrence}-{slice}`. Clips with the same freesound id are pieces of
one recording: two splits, or the two noises of a pair, must not share it. A file with another name is a recording of
its own without a class.
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
# Probability of white noise in the mixed set.
WHITE_SHARE = 0.5
_NAME = re.compile(r"(\d+)-(\d)-(\d+)-(\d+)$")
# UrbanSound8K cuts an occurrence of a sound into slices of up to 4 s, one every 2 s (Salamon et al. 2014): neighbours
# overlap. This holds for the audio; the start times in its metadata lie only 0.5 s apart.
SLICE_SECONDS = 2.0


@dataclass(frozen=True)
class NoiseClip:
    """A noise file. `class_id` is None when the name is not UrbanSound8K's."""

    path: Path
    fold: int
    recording: str
    class_id: int | None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def label(self) -> str:
        """The name of the class."""
        return "unlabelled" if self.class_id is None else CLASS_NAMES[self.class_id]

    @property
    def place(self) -> tuple[int, float] | None:
        """The number of the clip's occurrence in the recording, and the start of the clip in it in seconds.

        None for a clip without a class.
        """
        match = _NAME.match(self.name)
        return match and (int(match[3]), int(match[4]) * SLICE_SECONDS)


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise, which its seed decides."""

    seed: int
    name = label = WHITE


def parse_clip(path: Path, fold: int = 0) -> NoiseClip:
    """Read the recording and the class from a file name."""
    match = _NAME.match(path.stem)
    if not match:
        return NoiseClip(path, fold, path.stem, None)
    return NoiseClip(path, fold, match[1], int(match[2]))


def scan_folds(folder: str | Path) -> dict[int, list[NoiseClip]]:
    """Return all clips below `folder`/fold1 ... fold10 (or `folder`/audio/fold1 ...), by fold.

    An UrbanSound8K recording with clips in several folds keeps those of the highest fold only: folds make the splits,
    and two splits must not share a recording. Raises CallError when no foldN is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CallError(f"expected a folder of noises, but {folder} does not exist: check --path-noises")
    # UrbanSound8K is published with its folds in audio/, beside metadata/, which repeats what the file names say.
    folder = folder / "audio" if (folder / "audio").is_dir() else folder
    found = {n: folder / f"fold{n}" for n in range(1, 11) if (folder / f"fold{n}").is_dir()}
    if not found:
        raise CallError(f"expected folders fold1 ... fold10 in {folder}, but there is none: point --path-noises "
                        "to UrbanSound8K's audio folder or sort the noises into fold1, fold2, ...")
    clips = [parse_clip(p, fold) for fold, path in sorted(found.items()) for p in list_audio(path)]
    clips = separate_namesakes(clips, {clip.path: clip.path.relative_to(folder).as_posix() for clip in clips})
    owner = {clip.recording: clip.fold for clip in clips}
    elsewhere = [clip for clip in clips if clip.fold != owner[clip.recording]]
    if elsewhere:
        first = elsewhere[0]
        _log_once(f"{folder}: {len(elsewhere)} of {len(clips)} noises left out, whose recordings lie in higher folds "
                  f"too, as {first.path.relative_to(folder)} in fold{owner[first.recording]}")
    return {fold: [c for c in clips if c.fold == fold == owner[c.recording]] for fold in sorted(found)}


def separate_namesakes(clips: Sequence[NoiseClip], names: Mapping[Path, str]) -> list[NoiseClip]:
    """Give namesakes without an UrbanSound8K name recordings of their own: two files rain.wav are two recordings.

    names: the new names of the recordings by the paths of the clips.
    """
    # All clips of an UrbanSound8K recording count as one.
    bearers = Counter(name for name, _ in {(c.recording, c.path if c.class_id is None else None) for c in clips})
    return [replace(clip, recording=names[clip.path])
            if clip.class_id is None and bearers[clip.recording] > 1 else clip for clip in clips]


@functools.cache
def _log_once(text):
    """Log a line about a folder only once, though the folder is scanned for every split."""
    log.info("%s", text)


def clips_for_split(folder: str | Path, split: str, folds: Sequence[int] | None = None) -> list[NoiseClip]:
    """Return the clips of a split: those of `folds`, by default folds 1-8 for train, 9 for validation, 10 for test.

    Raises CallError when one of the folds is missing.
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
    """Divide the folds of a folder: the last one for test, the one before it for validation, the others for training.

    Raises CallError for fewer than four folds.
    """
    folds = sorted(scan_folds(folder))
    if len(folds) < 4:
        raise CallError(f"expected at least 4 folders foldN in {folder} (2 to train, 1 to validate, 1 to test), got "
                        f"{len(folds)}: sort the noises into more folders")
    return {"train": folds[:-2], "validation": folds[-2:-1], "test": folds[-1:]}


@dataclass(frozen=True)
class NoiseSource:
    """Draws the two noises of a pair, which always come from two recordings and two classes.

    clips: the noise files to draw from. class_id: the class of the first noise; None for any class, and then the two
    noises come from two folds too. white_share: the probability that either noise is white noise instead of a clip.
    """

    clips: Sequence[NoiseClip] = ()
    class_id: int | None = None
    white_share: float = 0.0

    def first(self, rng: np.random.Generator) -> NoiseClip | WhiteNoise:
        """Draw the noise of a pair's input. Raises CallError when no clip fits."""
        if self._is_white(rng):
            return WhiteNoise(int(rng.integers(2**63)))
        if self.class_id is None:
            return _draw(rng, self.clips, "noises")
        members = [clip for clip in self.clips if clip.class_id == self.class_id]
        return _draw(rng, members, f"noises of class {self.class_id} ({CLASS_NAMES[self.class_id]})")

    def second(self, rng: np.random.Generator, first: NoiseClip | WhiteNoise) -> NoiseClip | WhiteNoise:
        """Draw the noise of the same pair's noisy target. Raises CallError when no clip fits."""
        if isinstance(first, WhiteNoise):
            return self.first(rng)
        if self._is_white(rng):
            return WhiteNoise(int(rng.integers(2**63)))
        others = [clip for clip in self.clips if clip.recording != first.recording
                  and (clip.class_id is None or clip.class_id != first.class_id)
                  and (clip.fold != first.fold or self.class_id is not None)]
        place = "another fold and class" if self.class_id is None else "another class"
        return _draw(rng, others, f"a second noise from {place} than {first.path.name}")

    def _is_white(self, rng):
        # The seed decides the bytes: nothing is drawn for a share of 0 or 1.
        return self.white_share == 1 or (self.white_share > 0 and rng.random() < self.white_share)


def _draw(rng, clips, what):
    if not clips:
        raise CallError(f"expected {what}, but the chosen folds hold none: add folds with --folds")
    return clips[rng.integers(len(clips))]
