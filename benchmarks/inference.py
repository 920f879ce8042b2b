"""Speed of the network's forms, compared with a textbook implementation on the same input.

    python -m benchmarks.inference [--plan folded] [--width 16] [--seconds 3.74 30] [--rounds 5] [--forms NAME ...]

All forms take turns. Prints for each form the median time, the real-time factor (time over length of mono audio), the
speed relative to the textbook, the share of the machine's matrix-product peak that the complex convolutions reach, and
the error. `--profile` shows the costliest operations of the folded convolutions.
"""

import shutil
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.textbook import textbook_copy, textbook_planes
from benchmarks.timing import interleaved, matrix_peak
from common.cli import Parser, run
from common.errors import CallError
from common.network.dcunet import FOLDED, FREQUENCY, PLANS, TIME, DCUNet20
from common.network.inference import folded_network
from common.network.model import Denoiser
from common.network.stft import STFT


def training_form(network):
    """The form that is trained."""
    return network


def convolutions(network, dtype=torch.float32):
    """The folded form that denoising uses: block-real convolutions in channels-last."""
    return folded_network(network, dtype)


def compiled(network):
    """The folded form through torch.compile."""
    return torch.compile(folded_network(network), dynamic=False)


def bfloat16(network):
    """The folded form in bfloat16, which is faster on processors that support it."""
    return convolutions(network, torch.bfloat16)


def onnx(network):
    """The exported mask through onnxruntime."""
    import onnxruntime  # only this form needs it

    from common.network.onnx_export import export_onnx

    path = Path(tempfile.mkdtemp()) / "mask.onnx"
    export_onnx(Denoiser(network, STFT()), path)
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # as in common.network.exported
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    shutil.rmtree(path.parent)
    return lambda planes: torch.from_numpy(session.run(None, {"planes": planes.numpy()})[0])


FORMS = {f.__name__: f for f in (training_form, convolutions, compiled, bfloat16, onnx)}
DEFAULT_FORMS = ("training_form", "convolutions", "bfloat16")


def network_flop(network: DCUNet20, n_bins: int, n_frames: int) -> float:
    """Return the floating-point operations of all complex convolutions, with four real products for a complex one."""
    plan, convs = network.plan, [layer.conv for layer in (*network.encoder, *network.decoder)] + [network.mask]
    bins, frames = (plan.layer_sizes(plan.valid_length(n, axis), axis)
                    for n, axis in ((n_bins, FREQUENCY), (n_frames, TIME)))
    # A convolution computes every value of its output, its transpose uses every value of its input.
    return sum(8 * conv.weight_real.numel() * bins[k + (not conv.transposed)] * frames[k + (not conv.transposed)]
               for k, conv in enumerate(convs))


def measure(args, seconds, network, forms):
    """Print the table for one length of input."""
    stft = STFT()
    n_frames = network.plan.valid_length(1 + round(seconds * stft.sample_rate) // stft.hop_length)
    planes = torch.randn(1, 2 * network.plan.inputs, stft.n_bins, n_frames)
    textbook, book_planes = textbook_copy(network), textbook_planes(planes)
    calls = {"textbook": lambda: textbook(book_planes)}
    calls |= {name: lambda form=form: form(planes) for name, form in forms.items()}
    with torch.inference_mode():
        expected = network(planes)
        errors = {name: float((forms[name](planes) - expected).norm() / expected.norm()) for name in forms}
        times = interleaved(calls, args.rounds, warm_ups=0)
    flop, peak = network_flop(network, stft.n_bins, n_frames), matrix_peak()
    print(f"\n{seconds:g} s of mono audio ({n_frames} frames), {args.plan}, width {args.width}, "
          f"{torch.get_num_threads()} threads, {flop / 1e9:.0f} GFLOP, matrix-product peak {peak / 1e9:.0f} GFLOP/s")
    print(f"{'form':<16} {'seconds':>8} {'real-time factor':>17} {'x textbook':>11} {'% of peak':>10} {'error':>9}")
    for name in calls:
        median = statistics.median(times[name])
        ratio = statistics.median(book / own for book, own in zip(times["textbook"], times[name], strict=True))
        print(f"{name:<16} {median:8.2f} {median / seconds:17.2f} {ratio:11.2f} {100 * flop / median / peak:10.0f} "
              f"{errors.get(name, float('nan')):9.1e}", flush=True)


def profile(network):
    """Print the most costly operations of the folded convolutions."""
    planes, form = torch.randn(1, 2 * network.plan.inputs, STFT().n_bins, 323), convolutions(network)
    with torch.inference_mode():
        form(planes)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            form(planes)
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=30))


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--plan", choices=PLANS, default=FOLDED, help="the network's table of layers")
    parser.add_argument("--width", type=int, default=16, help="width of the network")
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.74, 30.0], help="lengths of the inputs in s")
    parser.add_argument("--rounds", type=int, default=5, help="number of runs of each form")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=DEFAULT_FORMS, help="forms to measure")
    parser.add_argument("--profile", action="store_true", help="also show the costliest operations")
    args = parser.parse_args()
    if args.rounds < 1 or min(args.seconds) <= 0:
        raise CallError("expected --rounds of at least 1 and --seconds above 0")
    torch.manual_seed(0)
    network = DCUNet20(args.width, args.plan).eval()
    forms = {name: FORMS[name](network) for name in args.forms}
    for seconds in args.seconds:
        measure(args, seconds, network, forms)
    if args.profile:
        profile(network)


if __name__ == "__main__":
    run(main)
