"""Time and peak memory of denoising long songs from a shell: the memory should not grow with the length.

    python -m benchmarks.long_audio [--width 16] [--minutes 10 60] [--channels 2]

The weights are random, since neither time nor memory depends on them. Each song is denoised in a fresh process.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.long_song import SAMPLE_RATE, make_song
from benchmarks.mixing import run_measured
from common.cli import Parser, run
from common.network.checkpoints import save_weights
from common.network.dcunet import DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--width", type=int, default=16, help="width of the network")
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 60], help="lengths of the songs in minutes")
    parser.add_argument("--channels", type=int, default=2, help="channels of the songs")
    args = parser.parse_args()
    print(f"{args.channels} channels at {SAMPLE_RATE} Hz, {torch.get_num_threads()} threads")
    print(f"{'width':>6} {'minutes':>8} {'seconds':>8} {'real-time factor':>17} {'peak RSS MB':>12}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_weights(Denoiser(DCUNet20(args.width), STFT()), folder / "model.pth", {})
        for minutes in args.minutes:
            make_song(folder / "song.wav", minutes, args.channels)
            seconds, rss = run_measured(["-m", "common.denoising", folder / "song.wav", "-o", folder / "out.wav",
                                         "--model", folder / "model.pth", "--device", "cpu", "--precision", "float32",
                                         "--force"], folder / "rss")
            print(f"{args.width:6d} {minutes:8d} {seconds:8.1f} {seconds / (60 * minutes):17.2f} {rss:12.0f}",
                  flush=True)


if __name__ == "__main__":
    run(main)
