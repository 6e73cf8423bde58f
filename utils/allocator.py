"""Allocation of large blocks of memory: a command keeps what it frees for the next block, instead of returning it.

glibc maps every block of more than 32 MiB anew, and the system fills its pages with zeros at their first use. On a CPU
this is a third of a U-Net call of the published size, whose convolutions take 38 to 75 MiB each for weights in the
order of their kernels. Results stay bit-equal.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, see `man mallopt`
LARGEST = 2**30  # bytes: larger blocks are mapped as before, and more free memory than this is returned


def keep_freed_memory() -> bool:
    """Keep up to `LARGEST` bytes of freed memory for the next blocks; False where the C library is not glibc.

    It has an effect on the main thread only, since other threads allocate from small arenas.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and Windows have no mallopt
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
