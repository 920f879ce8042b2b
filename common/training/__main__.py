"""Train from a shell.

    python -m common.training pack SONGS NOISES -o pool         decode once what is mixed during training
    python -m common.training run pool -o Weights               train on a pool, or on a folder of merged pairs
    python -m common.training recipe pool -o weights            a universal network and one for each noise, in minutes
    python -m common.training publish w.pth pool -o small.pth   weights as one shares them, with their confidence
    python -m common.training average a.pth b.pth -o c.pth      the mean of weights fine-tuned from one network
    python -m common.training classify mixed.pth pool           what --model auto listens with, into the same file

`accelerate launch --multi_gpu --num_processes N -m common.training run ...`, or torchrun, trains on several GPUs or
machines, or with as many processes on one processor.
"""

import argparse
import json
import logging
from pathlib import Path

from common.cli import Parser, add_settings, count, given, run
from common.data.pool import INDEX, SAMPLES, Pool
from common.errors import CallError, UserError
from common.locks import locked
from common.network.checkpoints import find_weights, load_safely, load_weights, save_atomically, save_weights
from common.network.inference import choose_device
from common.outputs import check_outputs
from common.training.averaging import average
from common.training.calibration import calibrate
from common.training.loop import BEST, IMPROVEMENT, IMPROVEMENT_WITH_PRINT, train, validate
from common.training.mixtures import MixtureSettings, MixtureSource, pool_sources, pool_validation
from common.training.parallel import Processes
from common.training.recipe import format_table, run_recipe
from common.training.settings import TrainSettings

log = logging.getLogger(__name__)


def _sources(args, device):
    """Source and validation from a pool, or from merged pairs."""
    data, mixture = Path(args.data), given(args, MixtureSettings)
    if (data / INDEX).is_file():
        return pool_sources(data, MixtureSettings(**mixture), args.n_validation, device)
    if mixture:
        raise CallError(f"expected a pool for {', '.join('--' + m.replace('_', '-') for m in mixture)}, but {data} is "
                        "none: what pairs are made of was decided by the merger")
    from common.training.pair_batches import pair_sources

    return pair_sources(data / "train", data / "validation", workers=0 if device == "cpu" else 4)


def _run(args):
    _check_weights(Path(args.output) / BEST, [args.start])
    # Asked for here, since every process keeps its pool on its own GPU.
    device = Processes(choose_device(args.device)).device
    source, validation = _sources(args, device)
    try:
        train(TrainSettings(**given(args, TrainSettings)), source, validation, args.output, device,
              {"data": str(args.data)}, args.start, args.branch, tensorboard=args.tensorboard, compiled=args.compile)
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("gloo", "nccl", "connection closed", "peer")):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"expected all processes to stay alive, but one of them is gone ({reason}): run the same "
                        "command again, which goes on from the last checkpoint") from error


def _pack(args):
    from common.audio.reading import list_audio
    from common.data.packing import compact, pack

    songs, noises = [args.songs, *args.also_songs], [args.noises, *args.also_noises]
    outputs = [(Path(args.output) / SAMPLES, "the pool"), (Path(args.output) / INDEX, "its index")]
    check_outputs(outputs + [(args.compact, "--compact")] * bool(args.compact),
                  [path for folder in songs + noises for path in list_audio(folder)])
    pool = pack(songs, noises, args.output, args.jobs, args.strict)
    if args.compact:
        compact(pool, args.compact, args.megabytes, args.jobs)


def _unpack(args):
    from common.data.packing import unpack

    check_outputs([(Path(args.output) / SAMPLES, "the pool")], [args.file])
    unpack(args.file, args.output)


def _recipe(args):
    device = choose_device(args.device)
    with locked(args.output):
        rows = run_recipe(Pool.load(args.data, device), args.output, args.minutes,
                          TrainSettings(**given(args, TrainSettings)), args.noises, args.n_validation, device,
                          args.info, args.compile)
    print(format_table(rows))


def _check_weights(output, read):
    """Refuse to write weights over those that they come from."""
    check_outputs([(output, "the weights")], [find_weights(name) for name in read if name])


def _average(args):
    _check_weights(args.output, args.models)
    model, info = average(args.models)
    save_weights(model, args.output, info)
    log.info("%s: the mean of %d weights files", args.output, len(args.models))


def _publish(args):
    _check_weights(args.output, [args.model, args.prior])
    device = choose_device(args.device)
    model, info = load_weights(args.model, device)
    pool, mixture = Pool.load(args.data, device), MixtureSettings(**given(args, MixtureSettings))
    validation = pool_validation(pool, mixture, args.n_validation)
    if args.calibration_pairs:
        prior = load_weights(args.prior)[0].confidence if args.prior else None
        found = calibrate(model, MixtureSource(pool, mixture), validation.source, args.calibration_pairs,
                          args.n_validation, prior)
        info["confidence"], plain, kept = found, found["plain_db"], found["improvement_db"]
    else:
        model.confidence = None
        plain = kept = validate(model, validation)
    info |= args.info | {"noise": mixture.noise, IMPROVEMENT: kept}
    told = ""
    if model.takes_print:
        info[IMPROVEMENT_WITH_PRINT] = validate(model, validation, with_print=True)
        told = f", {info[IMPROVEMENT_WITH_PRINT]:+.2f} dB with noise prints"
    save_weights(model, args.output, info, half=True)
    log.info("SNR improvement on %d validation mixtures: %+.2f dB plain, %+.2f dB as published%s; %s written, %.1f MB",
             args.n_validation, plain, kept, told, args.output, Path(args.output).stat().st_size / 1e6)


def _classify(args):
    from common.training.classifying import fit_classifier

    device = choose_device(args.device)
    classifier = fit_classifier(load_weights(args.model, device)[0], Pool.load(args.data, device), args.n_per_label)
    path = find_weights(args.model)
    save_atomically(load_safely(path) | {"classifier": vars(classifier)}, path)
    log.info("%s: a classifier of noises added", path)


def json_object(text):
    """A flag's JSON object; argparse names this function when it is none."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return value


def _parser():
    parser = Parser(__doc__, prog="python -m common.training")
    commands = parser.add_subparsers(required=True, parser_class=Parser,
                                     metavar="{pack,unpack,run,recipe,average,publish,classify}")

    def command(name, function, text):
        made = commands.add_parser(name, description=text, help=text)
        made.set_defaults(function=function)
        return made.add_argument, made

    add, _ = command("pack", _pack, "decode songs and noises into a pool (half a gigabyte holds 1.6 hours of mono)")
    add("songs", help="folder of songs, split as the mergers split it")
    add("noises", help="folder with fold1 ... or with train/ and validation/")
    add("-o", "--output", required=True, help="folder of the pool")
    add("--also-songs", nargs="+", default=[], help="more such folders")
    add("--also-noises", nargs="+", default=[], help="more such folders")
    add("--compact", metavar="FILE", help="also write the pool as a small file for another machine")
    add("--megabytes", type=float, default=50, help="size of that file")
    add("--jobs", type=int, default=-1, help="processes, -1 for all cores")
    add("--strict", action="store_true", help="a file that cannot be used ends it")
    add, _ = command("unpack", _unpack, "a pool from its small file (needs soundfile)")
    add("file", help="what pack --compact wrote")
    add("-o", "--output", required=True, help="folder of the pool")
    add, run = command("run", _run, "train one network, or go on where it stopped")
    add("data", help="a pool, or a folder with train/ and validation/ of merged pairs")
    add("-o", "--output", required=True, help="folder for the weights")
    add("--start", help="weights to begin with, not wider than --width: a .pth file, or a name from pretrained_weights")
    add("--branch", metavar="FOLDER", help="a run from whose last checkpoint to begin, as with --schedule linear after "
        "a run with --schedule constant")
    add("--tensorboard", action="store_true", help="also write curves for TensorBoard")
    add_settings(run, TrainSettings)
    add_settings(run, MixtureSettings)
    add, recipe = command("recipe", _recipe, "weights for all noises within a budget of time")
    add("data", help="a pool")
    add("-o", "--output", required=True, help="folder for the weights and the table")
    add("--minutes", type=float, required=True, help="the budget; call again to go on after a stop")
    add("--noises", nargs="*", help="which to fine-tune for (default: white and all classes of the pool)")
    add_settings(recipe, TrainSettings, ("minutes", "epochs", "steps_per_epoch"))
    add, _ = command("average", _average, "the mean of weights that were fine-tuned from one network")
    add("models", nargs="+", help=".pth files, or names from pretrained_weights; one given twice counts twice")
    add("-o", "--output", required=True, help="the .pth file to write")
    add, published = command("publish", _publish, "weights as one shares them: in 16 bits, with confidence and a score")
    add("model", help="a .pth file, or a name from pretrained_weights")
    add("data", help="a pool, of which the validation split is heard")
    add("-o", "--output", required=True, help="the .pth file to write")
    add("--calibration-pairs", type=int, default=400, help="noisy pairs that tell how far the noise estimate is to be "
        "believed; 0: always and wholly")
    add("--prior", metavar="WEIGHTS", help="published weights from whose confidence to begin: those for all "
        "noises, where one noise has few pairs")
    add_settings(published, MixtureSettings, ("clean_target", "song_speed"))
    add, classified = command("classify", _classify, "a classifier of noises for universal weights (--model auto)")
    add("model", help="a .pth file, or a name from pretrained_weights")
    add("data", help="a pool")
    add("--n-per-label", type=count, default=100, help="windows of each noise to learn from")
    for made in (recipe, published):
        made.add_argument("--info", type=json_object, default={}, help="stored with the weights, as "
                          """'{"licence": "CC BY-NC"}'""")
    for made in (run, recipe, published):
        made.add_argument("--n-validation", type=count, default=48, help="mixtures of 3.74 s that measure")
    for made in (run, recipe, published, classified):
        made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    for made in (run, recipe):
        made.add_argument("--compile", action="store_true", help="through torch.compile")
    return parser


def main():
    """The command line."""
    args = _parser().parse_args()
    args.function(args)


if __name__ == "__main__":
    run(main)
