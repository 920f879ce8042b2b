"""Decoded songs and noises as one array of 16-bit samples, from which training mixes its batches.

A pool is a folder with `samples.i16`, the channels of all clips one after another, and `pool.json`, which describes
them. On a CPU the array is mapped from the disk, on a GPU it is in memory. Only making a pool
(common.data.pool_packing) needs audio libraries, reading one does not.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import CallError, UserError
from common.network.stft import SAMPLE_RATE
from common.small_files import read_json, write_text

FORMAT = "song-denoiser-pool-1"
SAMPLES, INDEX = "samples.i16", "pool.json"
# Largest sample of every clip, to which it is scaled so that a quiet one keeps 16 bits.
CLIP_PEAK = 32767
SONG = ""  # the label of a song
# Number of samples of a block whose power is known, so that silent crops are found without reading them.
POWER_BLOCK = 4096


@dataclass(frozen=True)
class Clip:
    """A decoded file, scaled to full scale so that a quiet file keeps 16 bits.

    label: the name of a noise's class, or SONG. recording: a name; clips of one recording must not meet in a pair.
    start: place of the first channel in the samples of the pool. length: number of samples of each channel. rms: RMS of
    the scaled samples, at full scale 1.
    """

    name: str
    split: str
    label: str
    recording: str
    channels: int
    start: int
    length: int
    rms: float


class Pool:
    """The clips of a pool and their samples, an int16 tensor of shape (all samples of all channels,)."""

    def __init__(self, clips: list[Clip], samples: torch.Tensor):
        self.clips, self.samples, self._powers = clips, samples, {}

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "Pool":
        """Open a pool. Raises CallError for another folder, UserError for a damaged pool."""
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise CallError(f"expected a pool with {INDEX}, but {folder} is none: make it with python -m "
                            "common.training pack, or unpack it")
        content = read_json(folder / INDEX, "pack it again")
        if content.get("format") != FORMAT:
            raise UserError(f"expected a pool of format {FORMAT}, but {folder} says {content.get('format')!r}: pack it "
                            "again")
        try:
            clips = [Clip(**row) for row in content["clips"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"expected the clips of a pool in {folder / INDEX}, but it is damaged ({error!r}): pack it "
                            "again") from error
        n = sum(clip.channels * clip.length for clip in clips)
        size = (folder / SAMPLES).stat().st_size if (folder / SAMPLES).is_file() else 0
        if size != 2 * n:
            raise UserError(f"expected {2 * n} bytes in {folder / SAMPLES}, got {size}: pack it again")
        samples = torch.from_file(str(folder / SAMPLES), shared=False, size=n, dtype=torch.int16)
        return cls(clips, samples.to(device))

    def select(self, split: str, songs: bool) -> list[Clip]:
        """Return the songs or the noises of a split. Raises UserError when there are none."""
        found = [clip for clip in self.clips if clip.split == split and (clip.label == SONG) == songs]
        if not found:
            raise UserError(f"expected {'songs' if songs else 'noises'} of split {split} in the pool, but it has none: "
                            "pack it with some")
        return found

    def sha256(self) -> str:
        """Return the hex SHA-256 of the descriptions of all clips, which identifies the pool."""
        return hashlib.sha256(json.dumps([vars(clip) for clip in self.clips]).encode()).hexdigest()

    def block_powers(self, clip: Clip, channel: int) -> np.ndarray:
        """Return the mean square of each POWER_BLOCK of a channel at full scale 1; the last block may be shorter."""
        start = clip.start + channel * clip.length
        if start not in self._powers:  # kept, since many sources draw from one pool
            audio = self.samples[start : start + clip.length].cpu().numpy().astype(np.float32) / CLIP_PEAK
            edges = np.arange(0, clip.length, POWER_BLOCK)
            self._powers[start] = np.add.reduceat(np.square(audio), edges) / np.diff(np.append(edges, clip.length))
        return self._powers[start]


def write_index(folder: Path, clips: list[Clip], skipped: Sequence[str] = ()) -> None:
    """Write pool.json beside the samples. skipped: the reasons why other files are not in the pool."""
    rows, left_out = (",\n".join(map(json.dumps, x)) for x in (map(vars, clips), skipped))
    write_text(folder / INDEX, f'{{"format": "{FORMAT}", "sample_rate": {SAMPLE_RATE}, "clips": [\n{rows}\n], '
               f'"skipped": [\n{left_out}\n]}}\n')
