"""Which song files there are, and which of them belong to a split.

A songs folder may be a plain folder of audio files, MUSDB18 (train/ and test/ with .stem.mp4 files) or MUSDB18-HQ (one
folder per song with mixture.wav and its stems).
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
# MUSDB18 has no validation folder. These training songs are its validation set (package musdb, mus.yaml).
MUSDB18_VALIDATION = frozenset((
    "Actions - One Minute Smile", "Clara Berry And Wooldog - Waltz For My Victims", "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave", "Triviul - Angelsaint", "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants", "Leaf - Summerghost", "Skelpolu - Human Mistakes", "Young Griffo - Pennies",
    "ANiMAL - Rockshow", "James May - On The Line", "Meaxic - Take A Step", "Traffic Experiment - Sirens"))


def song_name(path: str | Path) -> str:
    """Return the name of a song: the file name without suffix and `.stem`, or the folder's name for a mixture.wav."""
    name = audio_name(path)
    return Path(path).parent.name if name == MIXTURE else name


def name_digest(name: str) -> bytes:
    """Return the SHA-256 of a name, which may hold bytes that are not UTF-8."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def list_songs(folder: str | Path) -> list[Path]:
    """Return all songs below `folder`, sorted. Files beside a mixture are its stems and no songs.

    Raises CallError when the folder is missing or holds no audio.
    """
    files = list_audio(folder)
    mixture_folders = {p.parent for p in files if audio_name(p) == MIXTURE}
    return [p for p in files if audio_name(p) == MIXTURE or p.parent not in mixture_folders]


def songs_for_split(folder: str | Path, split: str) -> list[Path]:
    """Return the songs of a split.

    A folder with sub-folders train, validation and test has its splits there, and each of these sub-folders may also be
    given itself. With train and test alone, which is MUSDB18's layout, the validation songs are taken out of train:
    MUSDB18's own 14 songs, or a share of the songs by name. Any other folder is divided by song name, about
    70 : 15 : 15. Files with the same name, such as a song and its stem file, count as one song. Raises CallError when
    the split has no songs.
    """
    folder = Path(folder)
    own = folder.resolve()
    if own.name in SPLITS:
        if own.name != split:
            raise CallError(f"expected songs for split {split}, but {folder} is named after split {own.name}: give "
                            "its parent folder or another one")
        named = {s: own.parent / s for s in SPLITS if (own.parent / s).is_dir()} | {split: folder}
    else:
        named = {s: folder / s for s in SPLITS if (folder / s).is_dir()}
    divide_train = set(named) == MUSDB18_SPLITS and split != "test"
    if named and not divide_train:
        if split not in named:
            raise CallError(f"expected a folder {folder / split} beside {', '.join(map(str, named.values()))}, "
                            f"but there is none: put the songs of split {split} there")
        return list_songs(named[split])
    return _divided(named.get("train", folder), split, with_test=not named)


def _divided(folder, split, with_test):
    """The songs of a split of one folder, which is divided into train, validation and, if `with_test`, test."""
    songs = list_songs(folder)
    # By a hash, so that the alphabet has no part in the division.
    names = sorted({song_name(path) for path in songs}, key=name_digest)
    n_held_out = max(1, round(HELD_OUT_SHARE * len(names)))
    if with_test:
        parts = {"test": names[:n_held_out], "validation": names[n_held_out : 2 * n_held_out]}
    else:
        parts = {"validation": [n for n in names if n in MUSDB18_VALIDATION] or names[:n_held_out]}
    parts["train"] = set(names).difference(*parts.values())
    picked = [path for path in songs if song_name(path) in parts[split]]
    if not picked:
        raise CallError(f"expected at least 3 songs in {folder} to divide into {', '.join(SPLITS)}, got "
                        f"{len(names)}: add songs, or sort them into sub-folders")
    log.info("%s has no folder for every split: divided by song name, split %s gets %d of %d files", folder, split,
             len(picked), len(songs))
    return picked
