"""Train from a shell.

    python -m common.training pack SONGS NOISES -o pool         decode songs and noises once, to mix them in training
    python -m common.training unpack pool.zip -o pool           the pool from its small file
    python -m common.training run pool -o trained               train on a pool, or on a folder of merged pairs
    python -m common.training recipe pool -o weights --minutes 28    a universal network and one for each noise
    python -m common.training average a.pth b.pth -o c.pth      the mean of weights fine-tuned from one network
    python -m common.training publish w.pth pool -o small.pth   weights to share, with their confidence
    python -m common.training classify mixed.pth pool           add the classifier that --model auto uses

Several GPUs, machines or processes: accelerate launch --multi_gpu --num_processes N -m common.training run ...
"""

import argparse
import json
import logging
from dataclasses import fields
from pathlib import Path

from common.cli import Parser, add_settings, count, given, natural, run
from common.data.pool import INDEX, SAMPLES, Pool
from common.errors import CallError, UserError
from common.locks import locked
from common.network.checkpoints import feature_tensors, load_safely, load_weights, save_atomically, save_weights
from common.network.inference import choose_device
from common.network.noise_model import DEVICES
from common.network.weights_files import find_weights
from common.path_checks import check_outputs
from common.training.confidence_fit import calibrate
from common.training.loop import BEST, IMPROVEMENT, IMPROVEMENT_WITH_PRINT, train, validate
from common.training.mixture_validation import calibration_pairs, pool_sources, pool_validation
from common.training.mixtures import AS_MEASURED, MixtureSettings
from common.training.processes import Processes
from common.training.recipe import format_table, run_recipe
from common.training.settings import Execution, TrainSettings
from common.training.weight_averaging import average

log = logging.getLogger(__name__)


def _pack(args):
    from common.audio.reading import list_audio
    from common.data.pool_packing import compact, pack

    songs, noises = [args.songs, *args.also_songs], [args.noises, *args.also_noises]
    outputs = [(Path(args.output) / SAMPLES, "the pool"), (Path(args.output) / INDEX, "its index")]
    if args.compact:
        outputs.append((args.compact, "--compact"))
    check_outputs(outputs, [path for folder in songs + noises for path in list_audio(folder)])
    pool = pack(songs, noises, args.output, args.jobs, args.strict)
    if args.compact:
        compact(pool, args.compact, args.megabytes, args.jobs)


def _unpack(args):
    from common.data.pool_packing import unpack

    check_outputs([(Path(args.output) / SAMPLES, "the pool")], [args.file])
    unpack(args.file, args.output)


def _run(args):
    _check_weights(Path(args.output) / BEST, [args.start])
    # Processes chooses the GPU of this process, which keeps its own pool there.
    device = Processes(choose_device(args.device)).device
    source, validation = _sources(args, device)
    execution = Execution(device, args.compile, args.tensorboard)
    try:
        train(TrainSettings(**given(args, TrainSettings)), source, validation, args.output, execution,
              {"data": str(args.data)})
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("gloo", "nccl", "connection closed", "peer")):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"expected all processes to stay alive, but one of them is gone ({reason}): run the same "
                        "command again, which goes on from the last checkpoint") from error


def _sources(args, device):
    """Return training batches and validation from a pool, or from merged pairs."""
    data, mixture = Path(args.data), given(args, MixtureSettings)
    if (data / INDEX).is_file():
        return pool_sources(data, MixtureSettings(**mixture), args.n_validation, device)
    if mixture:
        raise CallError(f"expected a pool for {', '.join('--' + m.replace('_', '-') for m in mixture)}, but {data} is "
                        "none: what pairs are made of was decided by the merger")
    from common.training.pair_batches import pair_sources

    return pair_sources(data / "train", data / "validation", workers=0 if device == "cpu" else 4)


def _recipe(args):
    device = choose_device(args.device)
    with locked(args.output):
        rows = run_recipe(Pool.load(args.data, device), args.output, TrainSettings(**given(args, TrainSettings)),
                          args.noises, args.n_validation, Execution(device, args.compile), args.info)
    print(format_table(rows))


def _check_weights(output, read):
    """Refuse to write weights over those that they come from."""
    check_outputs([(output, "the weights")], [find_weights(name) for name in read if name])


def _average(args):
    _check_weights(args.output, args.models)
    model, info = average(args.models)
    save_weights(model, args.output, info)
    log.info("%s: the mean of %d weights files", args.output, len(args.models))


def _trained_mixture(info, changes):
    """Return how the pairs that weights learned from were mixed, but for `changes`, with songs as they are."""
    settings = {name.removeprefix("data."): value for name, value in info.get("settings", {}).items()}
    known = {item.name: settings[item.name] for item in fields(MixtureSettings)
             if item.name in settings and item.name not in NOT_PUBLISHED}
    return MixtureSettings(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
                           | changes)


def _publish(args):
    _check_weights(args.output, [args.model, args.prior])
    device = choose_device(args.device)
    model, info = load_weights(args.model, device)
    pool, mixture = Pool.load(args.data, device), _trained_mixture(info, given(args, MixtureSettings))
    validation = pool_validation(pool, mixture, args.n_validation)
    scores = (IMPROVEMENT, IMPROVEMENT_WITH_PRINT)[: 1 + model.takes_print]
    if args.calibration_pairs:
        pairs = calibration_pairs(pool, mixture)
        prior = load_weights(args.prior)[0] if args.prior else None
        found = calibrate(model, pairs, validation.source, args.calibration_pairs, args.n_validation, prior)
        gains = [(values["plain_db"], values["improvement_db"]) for values in found.values()]
    else:
        model.confidence = model.print_confidence = None
        found = dict.fromkeys(("confidence", "print_confidence")[: len(scores)])
        gains = [(validate(model, validation, with_print=name == IMPROVEMENT_WITH_PRINT),) * 2 for name in scores]
    info |= found | {"noise": mixture.noise} | args.info
    info |= {name: kept for name, (_, kept) in zip(scores, gains, strict=True)}
    settings = info.get("settings", {})
    if settings.get("data.pool_sha256", pool.sha256()) != pool.sha256():
        log.warning("the weights learned from another pool than %s; if they know its validation songs, their "
                    "confidence is too bold: publish them on the pool of their training", args.data)
    for values, key in ((info, "data"), (settings, "start"), (settings, "branch")):
        if values.get(key):
            values[key] = Path(values[key]).name  # its folder on this machine does not go to others
    save_weights(model, args.output, info, half=True)
    log.info("SNR improvement on %d validation mixtures: %s; %s written, %.1f MB", args.n_validation,
             ", ".join(f"{a:+.2f} dB plain and {b:+.2f} dB as published{' with noise prints' * n}"
                       for n, (a, b) in enumerate(gains)), args.output, Path(args.output).stat().st_size / 1e6)


def _classify(args):
    from common.training.noise_classifier import fit_classifier

    device = choose_device(args.device)
    classifier = fit_classifier(load_weights(args.model, device)[0], Pool.load(args.data, device), args.n_per_label)
    path = find_weights(args.model)
    save_atomically(load_safely(path) | {"classifier": feature_tensors(classifier)}, path)
    log.info("%s: a classifier of noises added", path)


def json_object(text):
    """Parse a flag's JSON object; argparse names this function when the text is something else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return value


# How pairs are mixed in training only.
NOT_PUBLISHED = ("clean_target", *AS_MEASURED)
# Arguments that several commands have.
SHARED = {
    "model": {"help": "a .pth file, or a name from pretrained_weights"},
    "data": {"help": "a pool"},
    "-o --output": {"required": True, "help": "file or folder to write"},
    "--n-validation": {"type": count, "default": 48, "help": "number of validation mixtures of 3.74 s"},
    "--info": {"type": json_object, "default": {}, "help": "JSON object to store with the weights, for example "
               """'{"licence": "CC BY-NC"}'"""},
    "--device": {"choices": DEVICES, "default": "auto", "help": "device to compute on"},
    "--compile": {"action": "store_true", "help": "run the network through torch.compile"},
}


def _parser():
    parser = Parser(__doc__, prog="python -m common.training")
    commands = parser.add_subparsers(required=True, parser_class=Parser)

    def command(name, function, text, *shared):
        """Add a command with its example from the module's docstring; shared: its arguments of SHARED."""
        example = next(line for line in __doc__.splitlines() if f"common.training {name} " in line)
        made = commands.add_parser(name, description=text, help=text, epilog="example:\n" + example)
        made.set_defaults(function=function)
        for flags in shared:
            made.add_argument(*flags.split(), **SHARED[flags])
        return made

    pack = command("pack", _pack, "decode songs and noises into a pool (half a gigabyte holds 1.6 hours of mono)")
    pack.add_argument("songs", help="folder of songs, split like the mergers' folder")
    pack.add_argument("noises", help="folder with fold1 ... or with train/ and validation/")
    pack.add_argument("-o", "--output", required=True, help="folder of the pool")
    pack.add_argument("--also-songs", nargs="+", default=[], help="more folders of songs")
    pack.add_argument("--also-noises", nargs="+", default=[], help="more folders of noises")
    pack.add_argument("--compact", metavar="FILE", help="also write the pool as a small file for another machine")
    pack.add_argument("--megabytes", type=float, default=50, help="size of that file")
    pack.add_argument("--jobs", type=int, default=-1, help="worker processes, -1 for all cores")
    pack.add_argument("--strict", action="store_true", help="stop at a file that cannot be used")
    unpack = command("unpack", _unpack, "write a pool from its small file (needs soundfile)", "-o --output")
    unpack.add_argument("file", help="file that pack --compact wrote")
    run = command("run", _run, "train one network, or resume its training", "-o --output", "--n-validation", "--device",
                  "--compile")
    run.add_argument("data", help="a pool, or a folder with train/ and validation/ of merged pairs")
    run.add_argument("--start", metavar="WEIGHTS", help="weights to fine-tune, or to widen by a larger --width: a "
                     ".pth file, or a name from pretrained_weights")
    run.add_argument("--branch", metavar="FOLDER", help="run to continue in another folder, from its last checkpoint, "
                     "as with --schedule linear after --schedule constant")
    run.add_argument("--tensorboard", action="store_true", help="also write curves for TensorBoard")
    add_settings(run, TrainSettings, ("start", "branch"))
    add_settings(run, MixtureSettings)
    recipe = command("recipe", _recipe, "train weights for all noises within a budget of time", "data", "-o --output",
                     "--n-validation", "--info", "--device", "--compile")
    recipe.add_argument("--minutes", type=float, required=True, help="the budget; a second call resumes the training")
    recipe.add_argument("--noises", nargs="*", help="noises to fine-tune for (default: white and the pool's classes)")
    add_settings(recipe, TrainSettings, ("minutes", "epochs", "steps_per_epoch", "start", "branch"))
    average = command("average", _average, "write the mean of weights fine-tuned from one network", "-o --output")
    average.add_argument("models", nargs="+", help="weights, each a .pth file or a name from pretrained_weights; one "
                         "given twice counts twice")
    publish = command("publish", _publish, "write weights to share: in 16 bits, with their confidence and score",
                      "model", "data", "-o --output", "--n-validation", "--info", "--device")
    publish.add_argument("--calibration-pairs", type=natural, default=400, help="noisy pairs of validation songs "
                         "that decide how much of the noise estimate is removed; 0: all of it, always")
    publish.add_argument("--prior", metavar="WEIGHTS", help="published weights whose confidence is the starting point: "
                         "those for all noises, where one noise has few pairs")
    add_settings(publish, MixtureSettings, NOT_PUBLISHED, "as in the training of the weights")
    classify = command("classify", _classify, "add a classifier of noises to universal weights, for --model auto",
                       "model", "data", "--device")
    classify.add_argument("--n-per-label", type=count, default=100, help="windows of each noise to learn from")
    return parser


def main():
    """Run the command line."""
    args = _parser().parse_args()
    args.function(args)


if __name__ == "__main__":
    run(main)
