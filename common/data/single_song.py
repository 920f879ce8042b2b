"""A dataset from one song: the song is divided in time, and each part is mixed with noises of its own split."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.audio.writing import AudioWriter
from common.data.mergers import merge_splits
from common.data.segments import Cut, segment_length
from common.data.songs import song_name
from common.errors import CallError, UserError

# Shares of the song, in the order of time.
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def _part(folder, song, split):
    return folder / split / f"{song_name(song)}-{split}.wav"


def split_song(song: str | Path, output_dir: str | Path, cut: Cut | None = None) -> Path:
    """Write the parts of a song to `output_dir`/train, /validation and /test, and return `output_dir`.

    The parts are 24-bit WAV files at the song's rate, without the start and the end that `cut` skips. Raises UserError
    when the song is too short for one segment in each part.
    """
    cut, output_dir = cut or Cut(), Path(output_dir)
    with AudioReader(song) as reader:
        rate, n_samples = reader.sample_rate, reader.count_samples()
        first, last = round(cut.skip_start_seconds * rate), n_samples - round(cut.skip_end_seconds * rate)
        needed = segment_length(rate) / min(SHARES.values())
        if last - first < needed:
            skipped = cut.skip_start_seconds + cut.skip_end_seconds
            raise UserError(f"expected a song of at least {needed / rate + skipped:.1f} s, of which {skipped:g} s are "
                            f"skipped, but {song} has {n_samples / rate:.1f} s: use a longer one or skip less")
        bounds = np.cumsum([first, *((last - first) * np.array(list(SHARES.values())))]).round().astype(int)
        partial = output_dir.with_name(f".{output_dir.name}.partial")
        with ExitStack() as files:
            writers = [files.enter_context(AudioWriter(_part(partial, song, split), rate, reader.channels, "PCM_24"))
                       for split in SHARES]
            position = 0
            for block in reader.blocks(rate):
                for writer, begin, end in zip(writers, bounds[:-1], bounds[1:], strict=True):
                    part = block[:, max(0, begin - position) : max(0, end - position)]
                    if part.size:
                        writer.write(part)
                position += block.shape[-1]
    os.replace(partial, output_dir)
    return output_dir


def pairs_from_song(song: str | Path, path_noises: str | Path, output_dir: str | Path, n_pairs: int,
                    cut: Cut | None = None, jobs: int = -1) -> Path:
    """Mix one song with real and white noises: `n_pairs` for each split below `output_dir`, which is returned.

    The parts of the song are written to `output_dir`/song. An interrupted run is completed. Raises the errors of
    split_song and merge_splits.
    """
    output_dir = Path(output_dir).absolute()
    parts = output_dir / "song"
    if not parts.is_dir():
        split_song(song, parts, cut)
    elif not all(_part(parts, song, split).is_file() for split in SHARES):
        raise CallError(f"expected the parts of {song} in {parts}, but there are those of another song: choose another "
                        "OUTPUT_DIR")
    merge_splits(parts, path_noises, output_dir, dict.fromkeys(SHARES, (1, n_pairs)), jobs=jobs)
    return output_dir
