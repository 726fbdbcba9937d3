"""One BLAS thread for every test: the results and the time then do not depend on what else the machine does."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # read by NumPy's BLAS when it is first imported
