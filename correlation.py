"""Correlation between the audio files of two folders: are the two noises of a pair independent?

Files are matched as INPUT and TARGET of a pair, else by name. For every couple the table has the Pearson
correlation, the largest cross-correlation within a second and its lag, and the correlation of the log spectra;
for a merger's folders also the correlation of the two noises alone, found by subtracting the song.
"""

import argparse

from common.cli import run
from common.correlation import correlate_folders, write_table


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("audio_dir1", help="first folder of audio files")
    parser.add_argument("audio_dir2", help="second folder of audio files")
    parser.add_argument("output_file", help="CSV file to write")
    args = parser.parse_args()
    rows = correlate_folders(args.audio_dir1, args.audio_dir2)
    print(write_table(rows, args.output_file))


if __name__ == "__main__":
    run(main)
