#!/usr/bin/env python3
"""ostler-img beside qemu-img: img_test.py --bin BUILD/bin [TestCase[.test_name]…]"""

import argparse
import sys
import unittest
from pathlib import Path

import judge
from describe_tests import Describe
from make_tests import Make
from content_tests import Content
from fault_tests import Fault
from history_tests import History
from map_tests import Map
from open_tests import Open


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="the folder of the programs")
    parser.add_argument("tests", nargs="*", help="TestCase or TestCase.test_name; all without")
    options = parser.parse_args()
    judge.BIN = options.bin.resolve()
    names = options.tests or [each.__name__ for each in (Describe, Make, Content, Fault, History, Map, Open)]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names, sys.modules[__name__])
    sys.exit(not unittest.TextTestRunner(verbosity=1).run(suite).wasSuccessful())


if __name__ == "__main__":
    main()
