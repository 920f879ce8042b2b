"""Denoise many files: which inputs, where each result goes, and which results are finished already.

Each output folder has a small file RECORDS that holds, for each result, the settings that it was made with. So have the
folders of several inputs whose results lie beside them.
"""

import functools
import glob
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from common.audio.formats import NEAREST, OUTPUT_SUFFIXES
from common.audio.reading import AUDIO_SUFFIXES, audio_name, list_audio
from common.audio.writing import named_refusals
from common.denoising.files import peak_words, removed_words
from common.errors import CallError, UserError
from common.path_checks import check_outputs
from common.small_files import write_text

log = logging.getLogger(__name__)

RECORDS = ".denoised.json"
# What the names of results beside their inputs end in, before the suffix.
DENOISED = ".denoised"
# Maximum number of failed files whose names are listed.
N_NAMED = 5
# Suffixes of a file's name, as opposed to a folder's name with a dot, that cannot be written here.
OTHER_SUFFIXES = (*AUDIO_SUFFIXES, ".alac", ".amr", ".au", ".dsf", ".mkv", ".mov", ".snd", ".w64", ".webm")


@dataclass(frozen=True)
class Job:
    """One file to denoise.

    source: the input. target, residual: files for the result and for the removed sound. named: whether the target is
    made anew each time and keeps no records, since the user named the one input or the result.
    """

    source: Path
    target: Path
    residual: Path | None = None
    named: bool = False

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that are written."""
        return tuple(path for path in (self.target, self.residual) if path)


@functools.lru_cache(maxsize=32)
def _read_records(folder):
    """Settings by file name, None for a file that was not finished; empty if there are no records."""
    try:
        content = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_recorded(path):
    """Whether this command made or began a file."""
    return path.name in _read_records(path.parent)


def record(paths: Sequence[Path], settings: dict | None) -> None:
    """Record the settings of files in one existing folder; None before the work, in case it is killed.

    Raises AudioError if the folder cannot be written.
    """
    folder = paths[0].parent
    _read_records.cache_clear()  # another process may have changed the file
    with named_refusals(folder / RECORDS):
        write_text(folder / RECORDS, json.dumps(_read_records(folder) | {path.name: settings for path in paths}))
    _read_records.cache_clear()


def _find_inputs(inputs, output):
    """Audio files for the names of files, folders and patterns, each with its place in an output tree.

    A place is relative to the given folder, or to the part of a pattern without wildcards. Files in folders and
    patterns that are results are left out: those in the folder `output`, or without one those beside their inputs.
    """
    found, left_out = [], []
    for name in inputs:
        path = Path(name)
        if path.is_file():
            found.append((path, Path(path.name)))
            continue
        base, files = (path, list_audio(path)) if path.is_dir() else _matches(name)
        for file in files:
            if _is_result(file, base, output) if output else DENOISED in file.suffixes:
                left_out.append(file)
            else:
                found.append((file, file.relative_to(base)))
    unknown = sum(not _is_recorded(path) for path in set(left_out))
    if unknown and output:
        log.warning("%d audio files in the output folder %s are left out: name them to denoise them", unknown, output)
    if not found:
        raise CallError(f"expected files to denoise, but all {len(left_out)} are results of this command: name files "
                        "or choose another output folder")
    return found


def _matches(pattern):
    """The folder that a pattern begins in, and the audio files that it matches."""
    files = [path for path in map(Path, sorted(glob.glob(pattern, recursive=True)))
             if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES]
    if not files:
        raise CallError("expected an audio file, a folder or a pattern that matches audio files, got "
                        f"{pattern}: check the path")
    return Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])), files


def _is_result(file, base, output):
    """Whether a file that was found in the folder `base` is a result in the folder `output`.

    Every file in an output folder below `base` is one. In other output folders the records decide.
    """
    folder, output = file.parent.resolve(), output.resolve()
    return folder.is_relative_to(output) and (base.resolve() in output.parents or _is_recorded(file))


def _names_a_file(inputs, output):
    """Whether `output` is the name of a file; otherwise it is a folder.

    An existing folder, a name that ends in a slash and a name without a suffix are folders. For a folder, a pattern or
    several files as input, so is a name with a suffix of no audio format ("vol.2"). Raises CallError if the name fits
    neither.
    """
    suffix = Path(output).suffix.lower()
    if os.path.isdir(output) or output.endswith((os.sep, os.altsep or os.sep)) or not suffix:
        return False
    single, known = len(inputs) == 1 and os.path.isfile(inputs[0]), ", ".join(OUTPUT_SUFFIXES)
    if single and suffix not in OUTPUT_SUFFIXES:
        raise CallError(f"expected an output that ends in {known}, got {output}: choose one of these, or write "
                        f"{output}{os.sep} for a folder of this name")
    if not single and suffix in (*OUTPUT_SUFFIXES, *OTHER_SUFFIXES):
        raise CallError(f"expected a folder as output for a folder, a pattern or several files, got {output}: choose "
                        f"the format with --format ({known}), or write {output}{os.sep} for a folder of this name")
    return single


def plan(inputs: Sequence[str], output: str | None, suffix: str | None = None, like_input: bool = False,
         residual: bool = False) -> list[Job]:
    """List the jobs for files, folders and patterns, whose results go into a file or a folder, or beside each input.

    output: None for NAME.denoised beside each input, in its format. suffix: another format for those, or for files in a
    folder, where `like_input` chooses each input's own. residual: write the removed sound too,
    as NAME.removed. Raises CallError for inputs that do not exist, an output that does not fit, and a file that would
    be written over an input or twice.
    """
    if "" in (*inputs, output):
        raise CallError("expected names of files or folders, got an empty one: check the call")
    _read_records.cache_clear()
    out = None if output is None else Path(output)
    found, named = _find_inputs(inputs, out), out is not None and _names_a_file(inputs, output)
    if named and (suffix or like_input):
        raise CallError(f"expected --format and --like-input with an output folder, but {output} names its format: "
                        "leave them out")
    jobs = {}
    for source, place in found:
        own = source.suffix.lower()
        nearest = NEAREST.get(own, own if own in OUTPUT_SUFFIXES else ".wav")
        if out is None:
            target = source.with_name(f"{audio_name(source)}{DENOISED}{suffix or nearest}")
        elif named:
            target = out
        else:
            target = out / place.with_name(audio_name(place) + (nearest if like_input else suffix or ".wav"))
        removed = target.with_name(f"{target.stem}.removed{target.suffix}") if residual else None
        job = Job(source, target, removed, named=named or (out is None and len(found) == 1))
        jobs[os.path.realpath(source), target] = job  # a file may be found twice
    jobs = list(jobs.values())
    check_outputs([(path, job.source) for job in jobs for path in job.outputs], [job.source for job in jobs])
    return jobs


def check_foreign_files(jobs: Sequence[Job]) -> None:
    """Raise CallError if a result in an output folder would replace a file beside the inputs that is none of ours."""
    folders = {job.source.parent.resolve() for job in jobs}
    for job in jobs:
        if not job.named and job.target.parent.resolve() in folders:
            for path in job.outputs:
                if os.path.exists(path) and not _is_recorded(path):
                    raise CallError(f"expected no {path} beside the input {job.source}, but this command did not make "
                                    "it: choose another output folder, or write over it with --force")


def run_jobs(jobs: Sequence[Job], settings: dict, force: bool, denoise: Callable[[Job], dict]) -> None:
    """Run every job that is not finished; a file that fails does not stop the others.

    A job is finished if the output folder's records hold the same source and `settings` (plain values), unless
    `force`. `denoise` returns the report of denoise_file. Raises UserError at the end if files failed, and names them;
    with the reason if there is one job.
    """
    failed, skipped = [], 0
    for number, job in enumerate(jobs, 1):
        try:
            source = job.source.stat()
            current = settings | {"source": job.source.name, "bytes": source.st_size,
                                  "modified_ns": source.st_mtime_ns}
            if not (force or job.named) and _is_finished(job, current):
                skipped += 1
                continue
            log.info("[%d/%d] %s", number, len(jobs), job.source)
            _run(job, current, denoise)
        except MemoryError:
            raise
        except Exception as error:  # one bad file must not stop the others
            reason = str(error) if isinstance(error, UserError) else (
                f"expected to denoise {job.source}, but {type(error).__name__}: {error}: --verbose shows where")
            log.debug("%s", job.source, exc_info=True)
            if len(jobs) == 1:
                raise UserError(reason) from error
            log.error("failed: %s", " ".join(reason.split()))
            failed.append(job.source)
    if skipped:
        log.info("%d of %d were finished before with these settings and stay as they are; --force makes them again",
                 skipped, len(jobs))
    if failed:
        names = ", ".join(map(str, failed[:N_NAMED])) + (" ..." if len(failed) > N_NAMED else "")
        raise UserError(f"expected to denoise {len(jobs)} files, but {len(failed)} failed ({names}): see the messages "
                        "above")


def _is_finished(job, settings):
    records = _read_records(job.target.parent)
    return all(path.exists() and records.get(path.name) == settings for path in job.outputs)


def _run(job, settings, denoise):
    """Denoise one file, record its settings and log the report."""
    folder = job.target.parent
    # A named output makes no records, but existing ones must stay true.
    recorded = not job.named or (folder / RECORDS).is_file()
    if recorded and folder.is_dir():
        record(job.outputs, None)
    started = time.monotonic()
    report = denoise(job)
    if recorded:
        record(job.outputs, settings)
    log.info("%s: %.1f s of audio in %.1f s; %s%s", job.target, report["seconds"], time.monotonic() - started,
             removed_words(report["removed_db"]),
             "" if job.residual or not math.isfinite(report["removed_db"]) else " (--residual writes it too)")
    if report["peak"] > 1:
        log.warning("%s", peak_words(report))
