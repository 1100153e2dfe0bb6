"""Play one scenario on both backends and print both traces:

python -m tests.sockets.parity.compare test_y05_nagle_cork test_patterns --case cork --v6
"""

from __future__ import annotations

import argparse
import importlib

from tests.sockets.parity.trace import first_difference, listing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("test")
    parser.add_argument("--case", default=None)
    parser.add_argument("--v6", action="store_true")
    parser.add_argument("--all", action="store_true", help="the whole traces")
    parser.add_argument("--virtual", action="store_true", help="ustack in virtual time")
    args = parser.parse_args()
    test = getattr(importlib.import_module(f"tests.sockets.parity.{args.module}"), args.test)
    case = next((c for c in test.cases if str(c) == args.case), None)
    job = test.job("ipv6" if args.v6 else "ipv4", case)
    kernel, ustack = job.run("kernel"), job.run("virtual" if args.virtual else "ustack")
    at = first_difference(kernel, ustack)
    if at is not None or args.all:
        everything = len(kernel.events)
        around = everything if at is None else at
        print(listing(kernel, ustack, around, everything if args.all else 30, 12))
    for trace in (kernel, ustack):
        if trace.error:
            print(trace.backend, trace.error)
    print("differ" if at is not None else "agree")
    return 0 if at is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
