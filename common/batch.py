"""The command line of denoising: files, folders and patterns in, a tree of the same shape out."""

import argparse
import glob
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.audio import AUDIO_SUFFIXES, CLIP_POLICIES, OUTPUT_SUFFIXES, audio_name, list_audio
from common.auto import AUTO, model_for
from common.checkpoints import pretrained_names
from common.denoising import denoise_file, effective_strength, log_progress
from common.errors import CallError, UserError
from common.inference import DEVICES, PRECISIONS
from common.sinks import FORMATS, NEAREST

log = logging.getLogger(__name__)

SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}


@dataclass(frozen=True)
class Job:
    """One file to denoise and where it goes."""

    source: Path
    target: Path


def find_inputs(inputs: Sequence[str], exclude: Path | None = None) -> list[tuple[Path, Path]]:
    """Audio files with their places in the output tree, without suffix, for files, folders and patterns.

    A folder's files keep their places in it, a pattern's theirs below its part without wildcards. Files below
    `exclude`, the output folder, are left out. Raises CallError for what does not exist.
    """
    found = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found += [(file, file.relative_to(path)) for file in list_audio(path)]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))
                       if Path(match).is_file() and Path(match).suffix.lower() in AUDIO_SUFFIXES]
            if not matches:
                raise CallError("expected an audio file, a folder or a pattern that matches audio files, got "
                                f"{name}: check the path")
            fixed = path.parts[:-1]
            wild = next((i for i, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
            found += [(match, match.relative_to(Path(*fixed[:wild]))) for match in matches]
    return [(file, place.with_name(audio_name(place))) for file, place in found
            if not (exclude and exclude.resolve() in file.resolve().parents)]


def plan(inputs: Sequence[str], output: str, suffix: str | None = None, like_input: bool = False) -> list[Job]:
    """Which file goes where: `output` is a file for a single input file and a name with a suffix, else a folder.

    `suffix` is the format of files in a folder, or with `like_input` each input's own. Raises CallError when two
    inputs would go to one place.
    """
    out = Path(output)
    single = len(inputs) == 1 and Path(inputs[0]).is_file() and out.suffix.lower() in OUTPUT_SUFFIXES
    if single and not out.is_dir():
        if suffix or like_input:
            raise CallError(f"expected --format and --like-input with an output folder, but {output} names its format: "
                            "leave them out")
        return [Job(Path(inputs[0]), out)]
    jobs, sources = [], {}
    for source, place in find_inputs(inputs, exclude=out):
        own = source.suffix.lower()
        ending = NEAREST.get(own, own) if like_input else suffix or ".wav"
        job = Job(source, out / place.with_name(place.name + ending))
        if job.target in sources:
            raise CallError(f"expected one input per output, but {sources[job.target]} and {source} would both become "
                            f"{job.target}: rename one, or run them into two folders")
        sources[job.target] = source
        jobs.append(job)
    return jobs


def run_jobs(jobs: Sequence[Job], force: bool, residual: bool, denoise) -> None:
    """Denoise every job that is not finished; a file that fails does not stop the others.

    `denoise(source, target, residual path)` returns the report of denoise_file. Raises UserError at the end when
    files failed, naming them.
    """
    failed, skipped = [], 0
    for number, job in enumerate(jobs, 1):
        if job.target.exists() and not force:
            skipped += 1
            continue
        log.info("[%d/%d] %s", number, len(jobs), job.source)
        started = time.monotonic()
        removed = job.target.with_name(f"{job.target.stem}.removed{job.target.suffix}") if residual else None
        try:
            _report(job, denoise(job.source, job.target, removed), time.monotonic() - started)
        except (UserError, OSError) as error:
            log.error("failed: %s", error)
            failed.append(job.source)
    if skipped:
        log.info("%d of %d were finished before and stay as they are; --force makes them again", skipped, len(jobs))
    if failed:
        raise UserError(f"expected to denoise {len(jobs)} files, but {len(failed)} failed ("
                        f"{', '.join(str(path) for path in failed)}): see the messages above")


def _report(job, report, seconds):
    log.info("%s: %.1f s of audio in %.1f s, removed %.1f dB against the input", job.target, report["seconds"], seconds,
             report["removed_db"])
    if report["gain"] < 1:
        outcome = f"the whole file is lowered by {-20 * math.log10(report['gain']):.2f} dB"
    elif report["limited_samples"]:
        outcome = f"{report['limited_samples']} samples are limited to full scale"
    else:
        outcome = "the format holds it"
    if report["peak"] > 1:
        log.warning("its peak is %.2f dB above full scale: %s", 20 * math.log10(report["peak"]), outcome)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m common.denoising", description="Denoise songs.",
                                     allow_abbrev=False)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="audio files, folders or quoted patterns, as 'songs/**/*.flac'")
    add("-o", "--output", required=True, metavar="OUT", help="a file for one input file, else a folder that mirrors "
        "the inputs' tree; finished files in it are skipped")
    add("--model", required=True, help="a .pth file, a name from pretrained_weights "
        f"({', '.join(pretrained_names())}), or {AUTO}: for each file the weights that fit its noise")
    add("--strength", type=float, default=1.0, help="share of the noise that is removed, 0 to 1 (default: 1)")
    add("--attenuation-limit-db", type=float, help="make nothing quieter by more than this")
    add("--no-confidence", dest="confidence", action="store_false", help="take away all that the network takes for "
        "noise, where it is unsure too")
    add("--residual", action="store_true", help="write what was removed beside the output, as NAME.removed")
    add("--format", choices=[suffix[1:] for suffix in OUTPUT_SUFFIXES], help="format of files in an output folder "
        "(wav if not given)")
    add("--like-input", action="store_true", help="format and sample format of each input instead")
    add("--bits", choices=SUBTYPES, help="sample format of wav, flac and aiff (the input's if not given)")
    add("--clip", choices=CLIP_POLICIES, default="rescale", help="for a result above full scale: lower the whole file, "
        "limit the samples, or leave them to a format that can hold them (default: rescale)")
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    add("--precision", choices=PRECISIONS, default="auto", help="of the network; auto is the fastest")
    add("--force", action="store_true", help="denoise again what is finished")
    return parser


def _check_bits(bits, jobs):
    able = [suffix for suffix, codecs in FORMATS.items() if SUBTYPES[bits] in codecs[0].subtypes]
    for job in jobs:
        if job.target.suffix.lower() not in able:
            raise CallError(f"expected --bits {bits} with {' or '.join(able)}, but {job.target} is to be written: "
                            "leave --bits out or choose another format")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(argv)
    if args.like_input and (args.format or args.bits):
        raise CallError("expected either --like-input or --format and --bits, got both: leave one out")
    effective_strength(args.strength, args.attenuation_limit_db)
    jobs = plan(args.inputs, args.output, args.format and f".{args.format}", args.like_input)
    if args.bits:
        _check_bits(args.bits, jobs)
    model_of = model_for(args.model, args.device, args.precision, args.confidence)

    def denoise(source, target, residual_path):
        return denoise_file(model_of(source), source, target, args.strength, args.attenuation_limit_db, residual_path,
                            args.clip, SUBTYPES.get(args.bits), log_progress(source))

    run_jobs(jobs, args.force, args.residual, denoise)
