"""A dataset from one song: the song is divided in time, and every part is mixed with noises of its own split."""

import logging
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.audio.writing import AudioWriter
from common.data.manifest import SIDES
from common.data.merging import MergeSettings, build_dataset, choose_songs
from common.data.noises import MixedNoises, clips_for_split, folds_by_split
from common.data.segments import Cut, segment_length
from common.data.songs import song_name
from common.errors import CallError, UserError

log = logging.getLogger(__name__)

# Of the song, in time order.
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def split_song(song: str | Path, output_dir: str | Path, cut: Cut | None = None) -> Path:
    """Write the parts of a song to `output_dir`/train, /validation and /test, and return `output_dir`.

    What `cut` skips at the start and end is in none of them. The parts are 24-bit WAV files at the song's rate.
    Raises UserError when the song is too short for a segment in each.
    """
    cut, output_dir = cut or Cut(), Path(output_dir)
    with AudioReader(song) as reader:
        rate, channels = reader.sample_rate, reader.channels
        n_samples = reader.count_samples()
        first, last = round(cut.skip_start_seconds * rate), n_samples - round(cut.skip_end_seconds * rate)
        needed = segment_length(rate) / min(SHARES.values())
        if last - first < needed:
            skipped = cut.skip_start_seconds + cut.skip_end_seconds
            raise UserError(f"expected a song of at least {needed / rate + skipped:.1f} s, of which {skipped:g} s are "
                            f"skipped, but {song} has {n_samples / rate:.1f} s: use a longer one or skip less")
        bounds = np.cumsum([first, *((last - first) * np.array(list(SHARES.values())))]).round().astype(int)
        partial = output_dir.with_name(f".{output_dir.name}.partial")
        with ExitStack() as files:
            writers = [files.enter_context(AudioWriter(partial / split / _part_name(song, split), rate,
                                                       channels, "PCM_24")) for split in SHARES]
            position = 0
            for block in reader.blocks(rate):
                for writer, begin, end in zip(writers, bounds[:-1], bounds[1:], strict=True):
                    part = block[:, max(0, begin - position) : max(0, end - position)]
                    if part.size:
                        writer.write(part)
                position += block.shape[-1]
    os.replace(partial, output_dir)
    return output_dir


def _part_name(song, split):
    return f"{song_name(song)}-{split}.wav"


def pairs_from_song(song: str | Path, path_noises: str | Path, output_dir: str | Path, n_pairs: int,
                    cut: Cut | None = None, seed: int = 0, jobs: int = -1) -> Path:
    """Mix one song with real and white noises: sets of `n_pairs` per split below `output_dir`, which is returned.

    The song's parts lie in `output_dir`/song; noise folds are divided as folds_by_split does. Goes on where an
    interrupted run stopped. Raises what split_song and build_dataset raise.
    """
    output_dir = Path(output_dir).absolute()
    parts = output_dir / "song"
    if not parts.is_dir():
        split_song(song, parts, cut)
    elif not all((parts / split / _part_name(song, split)).is_file() for split in SHARES):
        raise CallError(f"expected the parts of {song} in {parts}, but there are those of another song: choose another "
                        "OUTPUT_DIR")
    for split, folds in folds_by_split(path_noises).items():
        settings = MergeSettings("merger_mixed_white", split, str(parts), str(Path(path_noises).absolute()), 1, n_pairs,
                                 seed, tuple(folds))
        clips = clips_for_split(settings.path_noises, split, folds)
        build_dataset(settings, MixedNoises(clips), choose_songs(settings), *(output_dir / split / s for s in SIDES),
                      jobs=jobs)
        log.info("%s: %d pairs of %s in %s", split, n_pairs, Path(song).name, output_dir / split)
    return output_dir
