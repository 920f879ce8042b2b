"""Datasets of the generated corpus, which the notebooks make for themselves on a checkout without data."""

import logging
from pathlib import Path

from common.data.manifest import MANIFEST
from common.data.mergers import merge_splits
from common.data.noises import SPLITS
from common.data.segment_sets import build_sets
from common.data.segments import Cut
from common.demo.copies import make_copies
from common.demo.corpus import make_corpus

log = logging.getLogger(__name__)

DEMO_DIR = Path(__file__).resolve().parents[2] / "data" / "demo"
CORPUS, MERGED, SEGMENTS, COPIES = "corpus", "merged", "segments", "copies"
# Short mono songs, few folds and FLAC keep the corpus and all that is made of it below 100 MB.
CORPUS_SIZE = {"song_seconds": 7.5, "channels": 1, "n_folds": 4}
FORMAT = "flac"
# By split: the largest number of songs, and the noise pairs of each.
PAIRS = {"train": (24, 2), "validation": (4, 1), "test": (12, 3)}
N_SEGMENTS, N_HELD_OUT = 24, 24
# Nothing of these short songs is skipped.
WHOLE = Cut(None, 0, 0)


def is_demo(path: str | Path) -> bool:
    """Whether a path lies in DEMO_DIR."""
    return DEMO_DIR in Path(path).resolve().parents


def ready(path: str | Path) -> Path:
    """Return `path` after making it, if it lies in the corpus, the merged sets, the segments or the copies of DEMO_DIR.

    What is there already stays, and the log says what is made. Other paths are returned as they are.
    """
    path = Path(path)
    stage = path.resolve().relative_to(DEMO_DIR).parts[0] if is_demo(path) else None
    if stage == COPIES:
        make_copies(DEMO_DIR / COPIES)
        return path
    if stage not in (CORPUS, MERGED, SEGMENTS) or _whole(DEMO_DIR / stage):
        return path
    log.info("There is no data yet: generated songs and noises are mixed in %s (70 MB, about a minute).\n"
             "For your own, set the paths in the first cells.", DEMO_DIR)
    songs, noises = make_corpus(DEMO_DIR / CORPUS, **CORPUS_SIZE)
    if stage != CORPUS:
        merge_splits(songs, noises, DEMO_DIR / MERGED, PAIRS, FORMAT)
    if stage == SEGMENTS:
        build_sets(DEMO_DIR / MERGED, DEMO_DIR / SEGMENTS, N_SEGMENTS, N_HELD_OUT, cut=WHOLE)
    return path


def _whole(folder):
    """Whether the corpus, or the sets of all splits, are finished."""
    return any(folder.glob("corpus-*")) or all((folder / split / "input" / MANIFEST).is_file() for split in SPLITS)
