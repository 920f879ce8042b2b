"""A dataset from one song: the song is divided in time, and each part is mixed with noises of its own split."""

import logging
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.audio.writing import AudioWriter
from common.data.dataset_builder import MergeSettings, build_dataset, choose_songs
from common.data.manifest import SIDES
from common.data.noises import WHITE_SHARE, NoiseSource, clips_for_split, folds_by_split
from common.data.segments import Cut, segment_length
from common.data.songs import song_name
from common.errors import CallError, UserError

log = logging.getLogger(__name__)

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

    The parts of the song are written to `output_dir`/song, and folds_by_split divides the noises. An interrupted run is
    completed. Raises the errors of split_song and build_dataset.
    """
    output_dir = Path(output_dir).absolute()
    parts = output_dir / "song"
    if not parts.is_dir():
        split_song(song, parts, cut)
    elif not all(_part(parts, song, split).is_file() for split in SHARES):
        raise CallError(f"expected the parts of {song} in {parts}, but there are those of another song: choose another "
                        "OUTPUT_DIR")
    for split, folds in folds_by_split(path_noises).items():
        settings = MergeSettings("merger_mixed_white", str(parts), str(Path(path_noises).absolute()), n_pairs,
                                 split=split, iter_songs=1, folds=tuple(folds))
        source = NoiseSource(clips_for_split(settings.path_noises, split, folds), white_share=WHITE_SHARE)
        build_dataset(settings, source, choose_songs(settings), [output_dir / split / side for side in SIDES], jobs)
        log.info("%s: %d pairs of %s in %s", split, n_pairs, Path(song).name, output_dir / split)
    return output_dir
