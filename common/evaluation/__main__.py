"""Build the frozen test set: noisy and clean segments of 3.74 s in twelve conditions, and their noise prints.

Example:
    python -m common.evaluation --songs songs --noises UrbanSound8K -o evaluation --check benchmarks/evaluation_set.csv
"""

import logging
from pathlib import Path

from common.cli import Parser, count, run
from common.data.noises import SPLITS
from common.evaluation.frozen_set import CONDITIONS, INDEX, build, check
from common.locks import locked
from common.path_checks import check_outputs

log = logging.getLogger(__name__)


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--songs", nargs="+", required=True, help=f"folders of songs with {', '.join(SPLITS)}")
    parser.add_argument("--noises", nargs="+", required=True, help="folders of noises, with fold1 ... or with test/")
    parser.add_argument("-o", "--output", required=True, help="folder of the set")
    parser.add_argument("--segments", type=count, default=100, help="number of segments of each condition")
    parser.add_argument("--noises-per-song", type=count, default=2, help="number of pairs made of each song")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, help="conditions to build (default: all)")
    parser.add_argument("--check", help="index of a published set to compare with")
    args = parser.parse_args()
    check_outputs([(Path(args.output) / INDEX, "the index")], [args.check] if args.check else [])
    with locked(args.output):
        build(args.songs, args.noises, args.output, args.segments, args.noises_per_song, args.conditions or CONDITIONS)
    if args.check:
        log.info("%d segments are those of %s", check(args.output, args.check), args.check)


if __name__ == "__main__":
    run(main)
