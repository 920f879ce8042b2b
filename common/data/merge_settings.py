"""The settings of a merged dataset: flags with their defaults, checks, and the songs that they choose."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.cli import setting
from common.data.noises import SPLITS
from common.data.songs import songs_for_split
from common.errors import CallError

FORMATS = ("wav", "flac")


def fold_numbers(text: str) -> tuple[int, ...]:
    """Read fold numbers that are separated by commas."""
    return tuple(sorted({int(part) for part in text.split(",")}))


@dataclass(frozen=True)
class MergeSettings:
    """What decides the bytes of a dataset besides the bytes of its sources. path_noises: None for white noise alone."""

    merger: str
    path_songs: str
    path_noises: str | None
    iter_noise: int
    split: str = setting("train", "train: the target is the song with another noise; validation and test: the target "
                         "is the clean song", choices=SPLITS)
    iter_songs: int = setting(100, "largest number of songs")
    seed: int = setting(0, "number that decides the choice of songs, noises and levels")
    folds: tuple[int, ...] | None = setting(
        None, "noise folds to use, as 1,2,3 (default: 1-8 for train, 9 for validation, 10 for test)",
        type=fold_numbers, nargs=None, metavar="FOLDS")
    snr_db: tuple[float, float] | None = setting(
        None, "range of the SNR in dB (default: 2 to 27, 4 to 30 for very dynamic songs, 0 to 25 for flat ones)")
    clean_target: bool = setting(False, "make clean targets for training too, beside the same INPUT files, to compare "
                                 "Noise2Noise with Noise2Clean")
    format: str = setting("wav", "format of the 16-bit output files; flac takes less space and more time",
                          choices=FORMATS)
    class_num: int | None = None
    use_cuda: bool = False

    def __post_init__(self):
        for name in ("iter_songs", "iter_noise"):
            if getattr(self, name) < 1:
                raise CallError(f"expected {name} of at least 1, got {getattr(self, name)}: raise it")
        if self.folds and not set(self.folds) <= set(range(1, 11)):
            raise CallError(f"expected --folds between 1 and 10, got {list(self.folds)}: name folds fold1 to fold10")
        if self.snr_db and self.snr_db[0] > self.snr_db[1]:
            low, high = self.snr_db
            raise CallError(f"expected --snr-db LOW HIGH with LOW <= HIGH, got {low} {high}: swap them")
        if self.seed < 0:
            raise CallError(f"expected --seed >= 0, got {self.seed}: choose another number")

    def command(self) -> str:
        """Return the shell command for this dataset, without the output folders and flags that change no byte of it."""
        words = [f"{self.merger}.py"]
        for name, value in list(asdict(self).items())[1:]:
            if value is None or value is False:  # 0 is a class and a seed
                continue
            white_only = name == "iter_noise" and self.path_noises is None
            words.append("--iter-white-noise" if white_only else "--" + name.replace("_", "-"))
            if name == "folds":
                words.append(",".join(map(str, value)))
            elif value is not True:
                words += map(str, value if name == "snr_db" else [value])
        return shlex.join(words)


def choose_songs(settings: MergeSettings) -> list[Path]:
    """Return at most `iter_songs` songs of the split, in an order that the seed decides."""
    songs = songs_for_split(settings.path_songs, settings.split)
    order = np.random.default_rng(settings.seed).permutation(len(songs))
    return [songs[i] for i in order[: settings.iter_songs]]
