// In the place of CuPy's header of this name: see the end of ../../kernels.h.
#pragma once
