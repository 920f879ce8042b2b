"""Make pairs from two noisy copies of one performance, such as two transfers of a disc or two tapes of a concert.

The noises of the copies are independent and the music is the same, which is all that Noise2Noise needs. Copy B is
aligned to copy A (common.data.couple), and its sound is matched to A's (common.data.copy_matching). Stretches that
do not agree are cut, and both directions are written, A to B and B to A, as the mergers write pairs. Every couple has a
report: one line, a JSON file and a picture. Example:

    python -m common.data.two_copies tape_a.flac tape_b.flac -o data/concert
"""

import logging
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from common.audio.reading import audio_name, list_audio
from common.audio.writing import write_audio
from common.cli import Parser, run
from common.data import copy_matching
from common.data.couple import LEAST_AGREEMENT, Couple, align, aligned, blocks_of_a
from common.data.couple_report import in_words, write_report
from common.data.manifest import MANIFEST, SIDES, file_sha256, write_dataset
from common.data.silence import MIN_RMS
from common.errors import CallError, UserError
from common.locks import locked
from common.path_checks import check_folders
from common.small_files import write_csv

log = logging.getLogger(__name__)

# Folder of a set that is not finished.
PARTIAL = ".partial"
# Lengths in seconds: of the longest pair, of the shortest, and between train and validation.
PAIR_SECONDS, LEAST_PAIR_SECONDS, GAP_SECONDS = 60.0, 3.0, 5.0
# Part of the time that is kept for validation, at the end.
VALIDATION_SHARE = 0.2


def stretches(couple: Couple) -> list[tuple[str, int, int]]:
    """The pairs to write: (split, first sample, last sample), counted from the start of the span.

    A pair is at most PAIR_SECONDS long. The end of the agreed time is kept for validation, after a gap.
    """
    agrees = couple.agreement >= LEAST_AGREEMENT
    per_second = couple.rate / copy_matching.BLOCK_SAMPLES
    border = int(np.searchsorted(np.cumsum(agrees), (1 - VALIDATION_SHARE) * agrees.sum()))
    gap, longest = (round(seconds * per_second) for seconds in (GAP_SECONDS, PAIR_SECONDS))
    place, found = np.arange(len(agrees)), []
    for split, chosen in (("train", agrees & (place < border - gap)), ("validation", agrees & (place >= border))):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen, [0]]).astype(int)))
        for first, last in edges.reshape(-1, 2):
            bounds = np.linspace(first, last, -(-(last - first) // longest) + 1).astype(int)
            bounds *= copy_matching.BLOCK_SAMPLES
            found += [(split, low, high) for low, high in pairwise(bounds.tolist())
                      if high - low >= LEAST_PAIR_SECONDS * couple.rate]
    return found


def write_pairs(couple: Couple, number: int, folder: Path) -> dict[str, list[dict]]:
    """Write both directions of every stretch as 16-bit WAV files; returns manifest rows by split.

    number: of the couple. The gain of both members keeps their peaks below full scale.
    """
    taps = copy_matching.matching_filter(couple.statistics.of(couple.agreement >= LEAST_AGREEMENT))
    streams = [blocks_of_a(couple), copy_matching.filtered(aligned(couple), taps)]
    rows, n_written = {}, {}
    for (split, first, last), members in _cut_out(streams, stretches(couple)):
        if np.sqrt(np.square(members).mean((1, 2))).min() < MIN_RMS:
            continue  # silence
        gain = min(1.0, 0.999 / np.abs(members).max())
        for order in ((0, 1), (1, 0)):
            n = n_written[split] = n_written.get(split, 0) + 1
            row = {"pair_id": f"S{number}N{n}", "split": split, "song": f"{couple.name}-{split}",
                   "sample_rate": couple.rate, "channels": couple.channels, "samples": last - first, "gain": gain,
                   "start_seconds": (couple.span[0] + first) / couple.rate}
            for side, which in zip(SIDES, order, strict=True):
                copy = (couple.copy_a, couple.copy_b)[which]
                path = folder / split / side / f"{side.upper()}-{row['pair_id']}-({couple.name}).wav"
                write_audio(path, gain * members[which], couple.rate, "PCM_16")
                row |= {f"{side}_noise": copy.name, f"{side}_noise_recording": f"{couple.name}-{split}-{'AB'[which]}",
                        f"{side}_file": path.name, f"{side}_sha256": file_sha256(path)}
            rows.setdefault(split, []).append(row)
    return rows


def _cut_out(streams, wanted):
    """Yield each wanted stretch and its members (2, channels, samples) of two streams of blocks of any lengths."""
    held, reached = [np.zeros((1, 0))] * 2, 0
    for stretch in wanted:
        _, first, last = stretch
        for k, stream in enumerate(streams):
            while reached + held[k].shape[1] < last:
                more = next(stream)
                held[k] = np.concatenate([held[k], more], axis=1) if held[k].size else more
        yield stretch, np.stack([part[:, first - reached : last - reached] for part in held])
        held, reached = [part[:, last - reached :] for part in held], last


def couples_in(copy_a: Path, copy_b: Path) -> list[tuple[Path, Path]]:
    """Two files, or the files of equal names in two folders. Raises CallError for anything else."""
    if copy_a.is_dir() != copy_b.is_dir():
        raise CallError(f"expected two files or two folders, got {copy_a} and {copy_b}: give two of one kind")
    if not copy_a.is_dir():
        return [(copy_a, copy_b)]
    named = [{str(path.relative_to(folder).with_name(audio_name(path))): path for path in list_audio(folder)}
             for folder in (copy_a, copy_b)]
    names = sorted(named[0].keys() & named[1].keys())
    if not names:
        raise CallError(f"expected files of equal names in {copy_a} and {copy_b}, but there are none: name both copies "
                        "of a performance alike")
    for name in sorted(named[0].keys() ^ named[1].keys()):
        log.warning("%s has no second copy and is left out", name)
    return [(named[0][name], named[1][name]) for name in names]


def build(couples: Sequence[tuple[Path, Path]], output_dir: str | Path) -> list[Couple]:
    """Align couples and write their pairs to `output_dir`/train and /validation, with a report for each.

    A couple that cannot be used is named in one sentence and left out. Returns the others. Raises UserError if none can
    be used, with the reason of the last one, or if there is nothing for training or validation, and CallError if the
    folder holds files. After an error no file is left.
    """
    output_dir = Path(output_dir)
    if output_dir.is_file() or (output_dir.is_dir() and any(path.name != PARTIAL for path in output_dir.iterdir())):
        raise CallError(f"expected an empty folder to write, but {output_dir} is a file or holds files: choose another "
                        "one")
    partial = output_dir / PARTIAL
    with locked(output_dir):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            used = _build(couples, partial)
            for path in list(partial.iterdir()):
                path.rename(output_dir / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return used


def _build(couples, folder):
    """Write the set to `folder`, and return the couples that could be used."""
    used, rows = [], {"train": [], "validation": []}
    for number, (copy_a, copy_b) in enumerate(couples, 1):
        try:
            couple = align(copy_a, copy_b)
        except UserError as error:
            if number == len(couples) and not used:
                raise
            log.warning("%s", error)
            continue
        found = write_pairs(couple, number, folder)
        for split, more in found.items():
            rows[split] += more
        used.append(couple)
        write_report(couple, folder / "reports" / f"{number}-{couple.name}")
        log.info("%s", in_words(couple, found))
    for split, found in rows.items():
        if not found:
            raise UserError(f"expected copies with music above -60 dBFS for {split}, but there is none: give louder or "
                            "longer copies")
        write_csv(folder / split / "input" / MANIFEST, found)
        write_dataset(folder / split / "input", {"made_by": "common.data.two_copies", "settings": {"split": split},
                                                 "couples": [couple.report for couple in used]})
    return used


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("copy_a", type=Path, help="the first copy, whose times and sound the pairs have; or a folder "
                        "of first copies")
    parser.add_argument("copy_b", type=Path, help="the second copy; or a folder with files of the same names")
    parser.add_argument("-o", "--output", required=True, help="folder to write, with train/ and validation/")
    args = parser.parse_args()
    check_folders({"--output": args.output}, [path for path in (args.copy_a, args.copy_b) if path.is_dir()])
    build(couples_in(args.copy_a, args.copy_b), args.output)
    log.info("written: %s", args.output)


if __name__ == "__main__":
    run(main)
