#!/usr/bin/env python3
"""Writes an image as an input of the image fuzz targets: image_pieces.py IMAGE OUTPUT.

The first byte says whether it is opened for writing; then, for each run of the file without a long hole:
offset (4 bytes, little-endian), length (2), content. A file that ends in a hole gets a last piece of one zero.
"""
import struct
import sys

HOLE = 64


def pieces(data: bytes):
    at = 0
    while at < len(data):
        if not any(data[at:at + HOLE]):
            at += HOLE
            continue
        end = at
        while end < len(data) and end - at < 65535 - HOLE and any(data[end:end + HOLE]):
            end += HOLE
        yield at, data[at:end]
        at = end
    yield len(data) - 1, data[-1:]


def main():
    image, output = sys.argv[1:]
    with open(image, "rb") as file:
        data = file.read()
    with open(output, "wb") as file:
        file.write(b"\x01")
        for offset, content in pieces(data):
            file.write(struct.pack("<IH", offset, len(content)) + content)


if __name__ == "__main__":
    main()
