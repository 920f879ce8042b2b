"""The command line of denoising: files, folders and patterns in, a tree of the same shape out."""

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from common.audio.formats import FORMATS, OUTPUT_SUFFIXES
from common.audio.writing import CLIP_POLICIES
from common.cli import Parser, run
from common.denoising.auto import AUTO, model_for
from common.denoising.files import denoise_file, effective_strength, log_progress, removed_words
from common.denoising.jobs import Job, check_strangers, plan
from common.denoising.print_sources import FIND, check_print, print_source
from common.denoising.records import NAME, read_records, record
from common.errors import CallError, UserError
from common.network.checkpoints import find_weights, pretrained_names
from common.network.inference import DEVICES, PRECISIONS
from common.outputs import check_outputs

log = logging.getLogger(__name__)

# Files that are named when some fail.
N_NAMED = 5
SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}


def _finished(job, settings):
    known = read_records(job.target.parent)
    return all(path.exists() and known.get(path.name) == settings for path in job.outputs)


def _with_source(settings, source):
    state = source.stat()
    return settings | {"source": source.name, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}


def _run_job(job, settings, denoise):
    """Denoise one file and record how it was made."""
    # What is named leaves no records behind, but must not make wrong those that are there.
    known = (job.target.parent / NAME).is_file() if job.named else job.target.parent.is_dir()
    if known:
        record(job.outputs, None)
    started = time.monotonic()
    report = denoise(job.source, job.target, job.residual)
    if known or not job.named:
        record(job.outputs, settings)
    _report(job, report, time.monotonic() - started)


def run_jobs(jobs: Sequence[Job], settings: dict, force: bool, denoise) -> None:
    """Denoise every job that is not finished; a file that fails does not stop the others.

    Finished is what lies in a folder that remembers the same source and the same `settings`, plain values.
    `denoise(source, target, residual path)` returns the report of denoise_file. Raises UserError at the end when
    files failed, naming them.
    """
    failed, skipped = [], 0
    for number, job in enumerate(jobs, 1):
        try:
            current = _with_source(settings, job.source)
            if not (force or job.named) and _finished(job, current):
                skipped += 1
                continue
            log.info("[%d/%d] %s", number, len(jobs), job.source)
            _run_job(job, current, denoise)
        except MemoryError:
            raise
        except Exception as error:  # one bad file must not stop the others
            reason = str(error) if isinstance(error, UserError) else (
                f"expected to denoise {job.source}, but {type(error).__name__}: {error}: --verbose says where")
            log.error("failed: %s", " ".join(reason.split()))
            log.debug("%s", job.source, exc_info=True)
            failed.append(job.source)
    if skipped:
        log.info("%d of %d were finished before with these settings and stay as they are; --force makes them again",
                 skipped, len(jobs))
    if failed:
        names = ", ".join(map(str, failed[:N_NAMED])) + (" ..." if len(failed) > N_NAMED else "")
        raise UserError(f"expected to denoise {len(jobs)} files, but {len(failed)} failed ({names}): see the messages "
                        "above")


def _report(job, report, seconds):
    log.info("%s: %.1f s of audio in %.1f s; %s", job.target, report["seconds"], seconds,
             removed_words(report["removed_db"]))
    if report["gain"] < 1:
        outcome = f"the whole file is lowered by {-20 * math.log10(report['gain']):.2f} dB"
    elif report["limited_samples"]:
        outcome = f"{report['limited_samples']} samples are limited to full scale"
    else:
        outcome = "the format holds it"
    if report["peak"] > 1:
        log.warning("the result peaks %.2f dB above full scale: %s", 20 * math.log10(report["peak"]), outcome)


def _parser():
    parser = Parser("Denoise songs.", prog="python -m common.denoising")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="audio files, folders or quoted patterns, as 'songs/**/*.flac'")
    add("-o", "--output", required=True, metavar="OUT", help="for one input file a file, by its suffix "
        f"({', '.join(OUTPUT_SUFFIXES)}); else a folder that mirrors the inputs' tree, where files that were finished "
        "with the same settings are skipped. NAME/ is always a folder")
    add("--model", required=True, help="a .pth file, a name from pretrained_weights "
        f"({', '.join(pretrained_names())}), or {AUTO}: for each file the weights that fit its noise")
    add("--strength", type=float, default=1.0, help="share of the noise that is removed, 0 to 1")
    add("--attenuation-limit-db", type=float, help="mix so much of the input back in that noise which would go "
        "altogether is this many dB quieter; 12 keeps a quarter of the input")
    add("--no-confidence", dest="confidence", action="store_false", help="take away all that the network takes for "
        "noise, where it is unsure too")
    add("--noise-print", action="append", metavar="FROM-TO", help="a moment in which the noise is heard alone, as "
        f"0:00-0:02.5 or 62-65.5 (seconds); again for more moments; {FIND}: for each file what is found in it")
    add("--noise-print-file", metavar="FILE", help="the noise alone, at the recording's level, in a file of its own")
    add("--residual", action="store_true", help="write what was removed beside the output, as NAME.removed")
    add("--format", choices=[suffix[1:] for suffix in OUTPUT_SUFFIXES], help="format of files in an output folder "
        "(wav if not given)")
    add("--like-input", action="store_true", help="format and sample format of each input instead")
    add("--bits", choices=SUBTYPES, help="sample format of wav, flac and aiff (the input's if not given)")
    add("--clip", choices=CLIP_POLICIES, default="rescale", help="for a result above full scale: lower the whole file, "
        "limit the samples, or leave them to a format that can hold them")
    add("--device", choices=DEVICES, default="auto", help="where to compute")
    add("--precision", choices=PRECISIONS, default="auto", help="of the network; auto is the fastest")
    add("--force", action="store_true", help="denoise again what is finished, and write over files beside the "
        "inputs")
    add("--verbose", action="store_true", help="say where in the program a file failed")
    return parser


def _check_bits(bits, jobs):
    able = [suffix for suffix, codecs in FORMATS.items() if SUBTYPES[bits] in codecs[0].subtypes]
    for job in jobs:
        if job.target.suffix.lower() not in able:
            raise CallError(f"expected --bits {bits} with {' or '.join(able)}, but {job.target} is to be written: "
                            "leave --bits out or choose another format")


def _settings(args):
    """What decides a result beside its source, as plain values."""
    weights = hashlib.sha256()
    for name in pretrained_names() if args.model == AUTO else [args.model]:
        weights.update(find_weights(name).read_bytes())
    names = "strength", "attenuation_limit_db", "confidence", "noise_print", "bits", "like_input", "clip", "precision"
    printed = args.noise_print_file and hashlib.sha256(Path(args.noise_print_file).read_bytes()).hexdigest()
    return {"weights_sha256": weights.hexdigest(), "noise_print_sha256": printed} | {
        name: getattr(args, name) for name in names}


def _noise_print(args, jobs, model_of):
    """What denoise_file is given for the flags of noise prints; mistakes that no file is needed for are told here."""
    if args.noise_print and args.noise_print_file is not None:
        raise CallError("expected either --noise-print or --noise-print-file, got both: leave one out")
    source = print_source(args.noise_print if args.noise_print_file is None else args.noise_print_file)
    if isinstance(source, Path):
        check_outputs([(path, job.source) for job in jobs for path in job.outputs], [source])
    if args.model != AUTO:
        check_print(model_of(None), source)
    return source


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(argv)
    if args.verbose:
        log.setLevel(logging.DEBUG)
    if args.like_input and (args.format or args.bits):
        raise CallError("expected either --like-input or --format and --bits, got both: leave one out")
    effective_strength(args.strength, args.attenuation_limit_db)
    jobs = plan(args.inputs, args.output, args.format and f".{args.format}", args.like_input, args.residual)
    if not args.force:
        check_strangers(jobs)
    if args.bits:
        _check_bits(args.bits, jobs)
    model_of = model_for(args.model, args.device, args.precision, args.confidence)

    noise_print = _noise_print(args, jobs, model_of)

    def denoise(source, target, residual_path):
        return denoise_file(model_of(source), source, target, args.strength, args.attenuation_limit_db, residual_path,
                            args.clip, SUBTYPES.get(args.bits), log_progress(source), noise_print)

    run_jobs(jobs, _settings(args), args.force, denoise)


if __name__ == "__main__":
    run(main)
