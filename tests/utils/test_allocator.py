"""Freed memory is used again by the next large block, in a process that asks for it."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
from sonolume.utils.allocator import keep_freed_memory
print(keep_freed_memory())

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def test_a_large_block_is_allocated_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    works, faults = done.stdout.split()
    if works == "False":
        pytest.skip("the C library is not glibc")
    assert int(faults) < 2**26 // 4096 // 10  # each page of a newly mapped block is one, or one of 512 huge ones
