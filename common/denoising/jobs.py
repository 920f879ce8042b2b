"""Which files are denoised, and where each result goes."""

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.audio.formats import NEAREST, OUTPUT_SUFFIXES
from common.audio.reading import AUDIO_SUFFIXES, audio_name, list_audio
from common.denoising.records import is_recorded
from common.errors import CallError
from common.outputs import check_outputs

log = logging.getLogger(__name__)

# Suffixes by which a name means a file that is not written here, and not a folder with a dot in its name.
OTHER_SUFFIXES = (*AUDIO_SUFFIXES, ".aifc", ".alac", ".amr", ".ape", ".au", ".caf", ".dsf", ".mka", ".mkv", ".mov",
                  ".mp2", ".oga", ".snd", ".w64", ".webm", ".wma", ".wv")


@dataclass(frozen=True)
class Job:
    """One file to denoise and where it goes, and what was removed from it; `named`: into a file, not into a folder."""

    source: Path
    target: Path
    residual: Path | None = None
    named: bool = False

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that it writes."""
        return tuple(path for path in (self.target, self.residual) if path)


def find_inputs(inputs: Sequence[str], output: Path | None = None) -> list[tuple[Path, Path]]:
    """Audio files with their places in the output tree, without suffix, for files, folders and patterns.

    A folder's files keep their places in it, a pattern's theirs below its part without wildcards. Of these, but not of
    files that are named, results in the folder `output` are left out: whatever lies below it when it lies in the folder
    that is searched, else what its records know. Raises CallError for what does not exist and where nothing is left.
    """
    found, left_out = [], []
    for name in inputs:
        path = Path(name)
        if path.is_file():
            found.append((path, Path(path.name)))
            continue
        base, files = (path, list_audio(path)) if path.is_dir() else _matches(name)
        results = {file for file in files if output and _is_result(file, base, output)}
        found += [(file, file.relative_to(base)) for file in files if file not in results]
        left_out += results
    strangers = sum(not is_recorded(path) for path in left_out)
    if strangers:
        log.warning("%d audio files in the output folder %s are left out: name them to denoise them", strangers, output)
    if not found:
        raise CallError(f"expected files to denoise, but all {len(left_out)} are results in the output folder "
                        f"{output}: name files or choose another output folder")
    return [(file, place.with_name(audio_name(place))) for file, place in found]


def _matches(pattern):
    """The folder that a pattern begins in, and the audio files that it matches."""
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))
               if Path(match).is_file() and Path(match).suffix.lower() in AUDIO_SUFFIXES]
    if not matches:
        raise CallError("expected an audio file, a folder or a pattern that matches audio files, got "
                        f"{pattern}: check the path")
    fixed = Path(pattern).parts[:-1]
    wild = next((i for i, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
    return Path(*fixed[:wild]), matches


def _is_result(file, base, output):
    folder, output = file.parent.resolve(), output.resolve()
    below = output in (folder, *folder.parents)
    return below and (base.resolve() in output.parents or is_recorded(file))


def names_a_file(inputs: Sequence[str], output: str) -> bool:
    """Whether `output` is the name of a file; else it is a folder's.

    A folder is what is one already, ends in a slash or has no suffix; and for a folder, a pattern or several files
    also any name whose suffix is no audio format's ("vol.2"). Raises CallError where it can be neither.
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


def plan(inputs: Sequence[str], output: str, suffix: str | None = None, like_input: bool = False,
         residual: bool = False) -> list[Job]:
    """Which file goes where, into a file or a folder (see names_a_file).

    `suffix` is the format of files in a folder, or with `like_input` each input's own. `residual`: what is removed is
    written too, as NAME.removed. Raises CallError when a file that would be written is an input or another output.
    """
    if "" in (*inputs, output):
        raise CallError("expected names of files or folders, got an empty one: check the call")
    out, found, named = Path(output), find_inputs(inputs, Path(output)), names_a_file(inputs, output)
    if named and (suffix or like_input):
        raise CallError(f"expected --format and --like-input with an output folder, but {output} names its format: "
                        "leave them out")
    jobs = {}
    for source, place in found:
        own = source.suffix.lower()
        nearest = NEAREST.get(own, own if own in OUTPUT_SUFFIXES else ".wav")
        target = out if named else out / place.with_name(place.name + (nearest if like_input else suffix or ".wav"))
        removed = target.with_name(f"{target.stem}.removed{target.suffix}") if residual else None
        jobs[os.path.realpath(source), target] = Job(source, target, removed, named)  # some are found twice
    jobs = list(jobs.values())
    check_outputs([(path, job.source) for job in jobs for path in job.outputs], [job.source for job in jobs])
    return jobs


def check_strangers(jobs: Sequence[Job]) -> None:
    """Raise CallError where a result would go over what lies beside the songs and was not made by this command."""
    folders = {job.source.parent.resolve() for job in jobs}
    for job in jobs:
        if not job.named and job.target.parent.resolve() in folders:
            for path in job.outputs:
                if os.path.exists(path) and not is_recorded(path):
                    raise CallError(f"expected no {path} beside the input {job.source}, but this command did not make "
                                    "it: choose another output folder, or write over it with --force")
