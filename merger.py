"""Pairs with real noises: INPUT is a song with one noise, TARGET the same song with another (or clean)."""

from common.cli import run
from common.data.merger_cli import merge, merger_parser
from common.data.noises import RealNoises


def main():
    merge("merger", merger_parser(__doc__).parse_args(), RealNoises)


if __name__ == "__main__":
    run(main)
