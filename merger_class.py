"""Pairs for one noise class: INPUT has a noise of class N, TARGET one of another class (or is clean)."""

from common.cli import run
from common.data.merger_cli import merge, merger_parser
from common.data.noises import ClassNoises
from common.errors import CallError
from common.labels import CLASS_NAMES


def main():
    parser = merger_parser(__doc__)
    names = ", ".join(f"{n} {name}" for n, name in enumerate(CLASS_NAMES))
    parser.add_argument("--class-num", type=int, required=True, help=f"noise class of the input: {names}")
    args = parser.parse_args()
    if args.class_num not in range(len(CLASS_NAMES)):
        raise CallError(f"expected --class-num 0 to {len(CLASS_NAMES) - 1}, got {args.class_num}: choose {names}")
    merge("merger_class", args, lambda clips: ClassNoises(clips, args.class_num), args.class_num)


if __name__ == "__main__":
    run(main)
