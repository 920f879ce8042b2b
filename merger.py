"""Make pairs with real noises: INPUT is a song with one noise, TARGET the same song with another noise.

    python merger.py --path-songs SONGS --path-noises NOISES --iter-songs 10 --iter-noise 5 \\
        --input-dir data/train/input --target-dir data/train/target
"""

from common.cli import run
from common.data.mergers import merge, merger_parser


def main():
    merge("merger", merger_parser(__doc__).parse_args())


if __name__ == "__main__":
    run(main)
