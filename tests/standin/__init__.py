"""Stand-ins on host memory for CuPy and cuBLAS, so that the GPU path is tested where there is no GPU."""
