"""Which song files there are, and which of them a split may use.

Understands a plain folder of audio files, MUSDB18 (train/ and test/ of .stem.mp4) and MUSDB18-HQ (a folder per
song with mixture.wav beside its stems) as they come.
"""

import hashlib
import logging
from pathlib import Path

from common.audio.reading import audio_name, list_audio
from common.data.noises import SPLITS
from common.errors import CallError

log = logging.getLogger(__name__)

MIXTURE = "mixture"
HELD_OUT_SHARE = 0.15
MUSDB18_SPLITS = {"train", "test"}
# MUSDB18 has no validation folder; these training songs are its validation set (package musdb, mus.yaml).
MUSDB18_VALIDATION = frozenset((
    "Actions - One Minute Smile", "Clara Berry And Wooldog - Waltz For My Victims", "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave", "Triviul - Angelsaint", "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants", "Leaf - Summerghost", "Skelpolu - Human Mistakes", "Young Griffo - Pennies",
    "ANiMAL - Rockshow", "James May - On The Line", "Meaxic - Take A Step", "Traffic Experiment - Sirens"))


def song_name(path: str | Path) -> str:
    """A song's name: its file's without suffix and `.stem`, or its folder's where the file is a mixture.wav."""
    name = audio_name(path)
    return Path(path).parent.name if name == MIXTURE else name


def name_digest(name: str) -> bytes:
    """SHA-256 of a name, which need not be UTF-8."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def list_songs(folder: str | Path) -> list[Path]:
    """All songs below `folder`, sorted; where a folder holds a mixture, the other files in it are its stems.

    Raises CallError when the folder is missing or holds no audio.
    """
    files = list_audio(folder)
    of_mixtures = {p.parent for p in files if audio_name(p) == MIXTURE}
    return [p for p in files if audio_name(p) == MIXTURE or p.parent not in of_mixtures]


def songs_for_split(folder: str | Path, split: str) -> list[Path]:
    """The songs that `split` may use.

    A folder with sub-folders train, validation or test is taken at its word; with train and test but no
    validation (MUSDB18's layout) the validation songs are taken out of train: MUSDB18's own 14, or a share by
    name. Any other folder is divided by song name, about 70 : 15 : 15, so that no song is ever in two splits;
    files with one name (a song and its stem file) count as one song.
    """
    folder = Path(folder)
    own = folder.resolve().name
    if own in SPLITS:
        if own != split:
            raise CallError(f"expected songs for split {split}, but {folder} is named after split {own}: give "
                            "its parent folder or another one")
        beside = {s for s in SPLITS if (folder.resolve().parent / s).is_dir()}
        return _validation_apart(folder, split) if own == "train" and beside == MUSDB18_SPLITS else list_songs(folder)
    named = {s: folder / s for s in SPLITS if (folder / s).is_dir()}
    if set(named) == MUSDB18_SPLITS and split != "test":
        return _validation_apart(named["train"], split)
    if named:
        if split not in named:
            raise CallError(f"expected a folder {folder / split} beside {', '.join(map(str, named.values()))}, "
                            f"but there is none: put the songs of split {split} there")
        return list_songs(named[split])
    return _divided(folder, split)


def _ranked(songs):
    """Song names by a hash, so that a division has nothing to do with the alphabet."""
    return sorted({song_name(p) for p in songs}, key=name_digest)


def _pick(songs, names, folder, split):
    picked = [p for p in songs if song_name(p) in set(names)]
    if not picked:
        raise CallError(f"expected at least 3 songs in {folder} to divide into {', '.join(SPLITS)}, got "
                        f"{len({song_name(p) for p in songs})}: add songs, or sort them into sub-folders")
    log.info("%s has no folder for every split: divided by song name, split %s gets %d of %d files", folder, split,
             len(picked), len(songs))
    return picked


def _validation_apart(train, split):
    """The songs of a train folder without a validation folder beside it, or those held out of it."""
    songs = list_songs(train)
    names = _ranked(songs)
    held_out = [n for n in names if n in MUSDB18_VALIDATION] or names[: max(1, round(HELD_OUT_SHARE * len(names)))]
    return _pick(songs, held_out if split == "validation" else set(names) - set(held_out), train, split)


def _divided(folder, split):
    songs = list_songs(folder)
    names = _ranked(songs)
    n = max(1, round(HELD_OUT_SHARE * len(names)))
    parts = {"test": names[:n], "validation": names[n : 2 * n], "train": names[2 * n :]}
    return _pick(songs, parts[split], folder, split)
