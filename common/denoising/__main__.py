"""The command line: denoise files, folders and patterns into a file or a folder tree of the same shape."""

import hashlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from common.audio.formats import FORMATS, OUTPUT_SUFFIXES
from common.cli import Parser, add_settings, given, run
from common.denoising.auto import AUTO, model_for
from common.denoising.files import DenoiseSettings, denoise_file, log_progress
from common.denoising.jobs import check_foreign_files, plan, run_jobs
from common.denoising.print_sources import FIND, check_print, print_source
from common.errors import CallError
from common.labels import MIXED, WHITE
from common.network.noise_model import DEVICES, PRECISIONS
from common.network.weights_files import find_weights, pretrained_names
from common.path_checks import check_outputs

log = logging.getLogger("common.denoising")

SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}


def _parser():
    program = Path(sys.argv[0]).name  # denoise.py, or song-denoise where the package is installed
    program = "python -m common.denoising" if program == "__main__.py" else program
    parser = Parser("Denoise songs.", prog=program, epilog="examples:\n"
                    "  python denoise.py song.mp3\n"
                    "  python denoise.py noisy.flac -o clean.flac --model white\n"
                    "  python denoise.py songs/ 'tapes/**/*.mp3' -o denoised/ --like-input")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="audio files, folders, or patterns in quotes such as "
        "'songs/**/*.flac'")
    add("-o", "--output", metavar="OUT", help="for one input file the output file; its suffix "
        f"({', '.join(OUTPUT_SUFFIXES)}) chooses the format. For other inputs, and if it exists, ends in / or has no "
        "suffix, a folder that repeats the tree of the inputs. Without this flag each result lies beside its input, as "
        "NAME.denoised, in the input's format, and replaces the one before. Of several files those that were finished "
        "with the same settings are skipped")
    add("--model", default=AUTO, help="a .pth or .onnx file, a name from pretrained_weights "
        f"({', '.join(pretrained_names())}), or {AUTO}: for each file {WHITE} if its noise is white, otherwise {MIXED}")
    add_settings(parser, DenoiseSettings, leave_out=("subtype", "noise_print"))
    add("--no-confidence", dest="confidence", action="store_false", help="subtract the whole noise estimate, also "
        "where the network is unsure")
    add("--noise-print", action="append", metavar="FROM-TO", help="a moment with noise and no music, such as "
        f"0:00-0:02.5 or 62-65.5 (seconds). Repeat the flag for several moments. {FIND} finds a moment in each file")
    add("--noise-print-file", metavar="FILE", help="an audio file with the noise alone, at the recording's level")
    add("--residual", action="store_true", help="write the removed sound beside the output, as NAME.removed")
    add("--format", choices=[suffix[1:] for suffix in OUTPUT_SUFFIXES], help="format of the results (if not given, "
        "wav in an output folder and the input's beside the inputs)")
    add("--like-input", action="store_true", help="write each file in an output folder in its input's format")
    add("--bits", choices=SUBTYPES, help="bits per sample of wav, flac and aiff files (the input's if not given)")
    add("--device", choices=DEVICES, default="auto", help="device that computes; auto uses a GPU if there is one")
    add("--precision", choices=PRECISIONS, default="auto", help="number format of the network; auto is the fastest")
    add("--force", action="store_true", help="of several files, denoise finished ones again; in an output folder, "
        "write over other files that lie beside the inputs")
    add("--verbose", action="store_true", help="show where in the program a file failed")
    return parser


def _check_bits(bits, jobs):
    able = [suffix for suffix, codecs in FORMATS.items() if SUBTYPES[bits] in codecs[0].subtypes]
    for job in jobs:
        if job.target.suffix.lower() not in able:
            raise CallError(f"expected --bits {bits} with {' or '.join(able)}, but {job.target} is to be written: "
                            "leave --bits out or choose another format")


def _recorded_settings(args, settings):
    """The settings that decide a result beside its source, as plain values."""
    weights = hashlib.sha256()
    for name in (WHITE, MIXED) if args.model == AUTO else [args.model]:
        weights.update(find_weights(name).read_bytes())
    printed = args.noise_print_file and hashlib.sha256(Path(args.noise_print_file).read_bytes()).hexdigest()
    names = "confidence", "noise_print", "bits", "like_input", "precision"
    return {"weights_sha256": weights.hexdigest(), "noise_print_sha256": printed, "strength": settings.strength,
            "attenuation_limit_db": settings.attenuation_limit_db, "clip": settings.clip,
            **{name: getattr(args, name) for name in names}}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(argv)
    if args.verbose:
        log.setLevel(logging.DEBUG)
    if args.like_input and (args.format or args.bits):
        raise CallError("expected either --like-input or --format and --bits, got both: leave one out")
    if args.noise_print and args.noise_print_file is not None:
        raise CallError("expected either --noise-print or --noise-print-file, got both: leave one out")
    noise_print = print_source(args.noise_print if args.noise_print_file is None else args.noise_print_file)
    settings = DenoiseSettings(**given(args, DenoiseSettings) | {"subtype": SUBTYPES.get(args.bits),
                                                                 "noise_print": noise_print})
    jobs = plan(args.inputs, args.output, args.format and f".{args.format}", args.like_input, args.residual)
    if args.output is not None and not args.force:
        check_foreign_files(jobs)
    if args.bits:
        _check_bits(args.bits, jobs)
    if isinstance(noise_print, Path):
        check_outputs([(path, job.source) for job in jobs for path in job.outputs], [noise_print])
    model_of = model_for(args.model, args.device, args.precision, args.confidence)
    if args.model != AUTO:
        check_print(model_of(None), noise_print)

    def denoise(job):
        return denoise_file(model_of(job.source), job.source, job.target, settings, job.residual,
                            log_progress(job.source))

    run_jobs(jobs, _recorded_settings(args, settings), args.force, denoise)


def command() -> None:
    """Run the command line as the program `song-denoise`. The end of its terminal stops it as Ctrl-C does."""
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup lets the program ignore it
            signal.signal(number, signal.default_int_handler)
    run(main)


if __name__ == "__main__":
    command()
