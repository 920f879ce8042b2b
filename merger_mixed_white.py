"""Make pairs with real and white noises: each noise of a pair is white with a probability of one half.

    python merger_mixed_white.py --path-songs SONGS --path-noises NOISES --iter-songs 10 --iter-noise 5 \\
        --input-dir data/train/input --target-dir data/train/target
"""

from common.cli import run
from common.data.mergers import merge, merger_parser
from common.data.noises import WHITE_SHARE


def main():
    merge("merger_mixed_white", merger_parser(__doc__).parse_args(), WHITE_SHARE)


if __name__ == "__main__":
    run(main)
