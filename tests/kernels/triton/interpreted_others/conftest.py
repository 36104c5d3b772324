"""The kernels of the convolution, the norms and the selective scan: need TRITON_INTERPRET=1 before Triton is imported.

`../test_interpreted_others.py` runs them so, in a process of their own; collected with other tests they are left out.
Fresh buffers hold NaN here as in all tests of the kernels (`tests/kernels/conftest.py`).
"""

import os

import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    torch.set_num_threads(1)
