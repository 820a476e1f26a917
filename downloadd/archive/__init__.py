"""The archive as a layout: entries in; headers, offsets and byte ranges out. No I/O."""

from downloadd.archive.check import ArchiveCheck
from downloadd.archive.deflate import SAMPLE_SIZE, Deflater, compressible
from downloadd.archive.entry import Entry, Method
from downloadd.archive.layout import Layout, PayloadSlice
from downloadd.archive.manifest import MANIFEST_INDEX, MANIFEST_NAME, manifest
from downloadd.archive.parts import (
    BASE_PART_SIZE,
    MAX_PART_SIZE,
    MAX_PARTS,
    part_bounds,
    part_count,
)

__all__ = [
    "BASE_PART_SIZE",
    "MANIFEST_INDEX",
    "MANIFEST_NAME",
    "MAX_PARTS",
    "MAX_PART_SIZE",
    "SAMPLE_SIZE",
    "ArchiveCheck",
    "Deflater",
    "Entry",
    "Layout",
    "Method",
    "PayloadSlice",
    "compressible",
    "manifest",
    "part_bounds",
    "part_count",
]
