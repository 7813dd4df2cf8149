"""The memory that a stage frees stays with it."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from seladv.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):  # seven leftovers of alignment stay in glibc's cache, each between two large blocks
    torch.zeros(2**24)
before = pages()
for _ in range(8):
    torch.zeros(2**24)
print(pages() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_large_tensor_costs_no_page_faults_after_the_first_ones() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] < 100 < faults["return"]
