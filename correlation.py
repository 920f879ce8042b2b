"""Correlation between the audio files of two folders: are the two noises of each pair independent?

Files are matched by pair id or by name. The results for every couple: Pearson correlation, covariance, powers, the peak
of the cross-correlation within 50 ms and its lag. With a merger's manifest in the first folder also the correlation of
the two noises alone; without it the bounds that two signals allow.

    python correlation.py data/train/input data/train/target correlation.csv
"""

from pathlib import Path

from common.cli import Parser, run
from common.data.correlation import SUFFIXES, correlate_folders, report, write_results
from common.data.manifest import DATASET, MANIFEST
from common.errors import CallError
from common.path_checks import check_outputs


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("audio_dir1", help="first folder of audio files (INPUT, with the manifest)")
    parser.add_argument("audio_dir2", help="second folder of audio files (TARGET)")
    parser.add_argument("output_file", help=f"file for the results, {', '.join(SUFFIXES)}; a histogram is written "
                        "beside it as .png")
    parser.add_argument("--path-noises", help="present folder of the noises (default: the one in dataset.json)")
    parser.add_argument("--jobs", type=int, default=-1, help="number of worker processes, -1 for all cores")
    args = parser.parse_args()
    output = Path(args.output_file)
    if output.suffix not in SUFFIXES or output.is_dir():
        raise CallError(f"expected an output file ending in {', '.join(SUFFIXES)}, got {output}: choose one of these")
    tables = [Path(folder) / name for folder in (args.audio_dir1, args.audio_dir2) for name in (MANIFEST, DATASET)]
    check_outputs([(output, "the results"), (output.with_suffix(".png"), "the histogram")], tables)
    rows, alone = correlate_folders(args.audio_dir1, args.audio_dir2, args.jobs, args.path_noises)
    write_results(rows, alone, output)
    from common.notebook.plots import correlation_histograms  # takes seconds, for which a wrong call need not wait

    correlation_histograms(rows).savefig(output.with_suffix(".png"), dpi=120)
    print(report(rows, alone))
    print(f"written: {output} and {output.with_suffix('.png')}")


if __name__ == "__main__":
    run(main)
