"""Correlation between the audio files of two folders: are the two noises of each pair independent?

Files are matched by pair id, else by name. For every couple: Pearson correlation, covariance, powers, the peak of
the cross-correlation within 50 ms and its lag; and with a merger's manifest in the first folder the correlation
of the two noises alone, without one the bounds that two signals allow.
"""

from pathlib import Path

from common.cli import Parser, run
from common.data.correlation import SUFFIXES, check_output_name, correlate_folders, report, write_results
from common.data.manifest import DATASET, MANIFEST
from common.outputs import check_outputs

# Read beside the audio files.
TABLES = MANIFEST, DATASET


def main():
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("audio_dir1", help="first folder of audio files (INPUT, with the manifest)")
    parser.add_argument("audio_dir2", help="second folder of audio files (TARGET)")
    parser.add_argument("output_file", help=f"results, by suffix {', '.join(SUFFIXES)}; a histogram .png beside it")
    parser.add_argument("--path-noises", help="where the noises are now (default: as dataset.json says)")
    parser.add_argument("--jobs", type=int, default=-1, help="worker processes, -1 for all cores")
    args = parser.parse_args()
    output = check_output_name(args.output_file)
    check_outputs([(output, "the results"), (output.with_suffix(".png"), "the histogram")],
                  [Path(folder) / name for folder in (args.audio_dir1, args.audio_dir2) for name in TABLES])
    rows, alone = correlate_folders(args.audio_dir1, args.audio_dir2, args.jobs, args.path_noises)
    write_results(rows, alone, output)
    from common.notebook.plots import (
        correlation_histograms,  # takes seconds to load, which a wrong call need not wait for
    )

    correlation_histograms(rows).savefig(output.with_suffix(".png"), dpi=120)
    print(report(rows, alone))
    print(f"written: {output} and {output.with_suffix('.png')}")


if __name__ == "__main__":
    run(main)
