#!/usr/bin/env python3
"""NBD and HTTP beside other programs: nbd_test.py --bin BUILD/bin [TestCase[.test_name]…]"""

import argparse
import sys
import unittest
from pathlib import Path

import peers
from client_tests import Client
from http_tests import Http
from serve_tests import Serve
from tls_tests import ServeTls, TlsObjects


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="the folder of the programs")
    parser.add_argument("tests", nargs="*", help="TestCase or TestCase.test_name; all without")
    options = parser.parse_args()
    peers.BIN = options.bin.resolve()
    names = options.tests or [each.__name__ for each in (Serve, ServeTls, TlsObjects, Client, Http)]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names, sys.modules[__name__])
    sys.exit(not unittest.TextTestRunner(verbosity=1).run(suite).wasSuccessful())


if __name__ == "__main__":
    main()
