// cuBLAS, as far as CuPy's products of float32 and float64 and a caller with a handle of its own need it. See
// device.cpp.
//
// build.py adds a line for each other name that CuPy's binding wants: NOT_OFFERED(name).

#include <cstddef>

#define API extern "C" __attribute__((visibility("default")))
enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { REAL_32 = 0, REAL_64 = 1, COMPUTE_32 = 68, COMPUTE_32_PEDANTIC = 69, COMPUTE_64 = 70, COMPUTE_32_TF32 = 77 };

#define NOT_OFFERED(name) API int name() { return NOT_SUPPORTED; }

extern "C" int fake_gemm(void* stream, bool wide, int turn_a, int turn_b, int m, int n, int k, const void* alpha,
                         const void* a, int lda, const void* b, int ldb, const void* beta, void* c, int ldc, bool tf32,
                         bool workspace);
extern "C" int fake_unsafe(const char* what);

struct Handle { void* stream; int pointers, math; bool workspace; };

API int cublasCreate_v2(Handle** made) {
    *made = nullptr;
    if (fake_unsafe("cublasCreate")) return 1;  // CUBLAS_STATUS_NOT_INITIALIZED
    *made = new Handle{};
    return OK;
}
API int cublasDestroy_v2(Handle* h) { delete h; return OK; }
API int cublasSetStream_v2(Handle* h, void* stream) { h->stream = stream; h->workspace = false; return OK; }
API int cublasGetStream_v2(Handle* h, void** stream) { *stream = h->stream; return OK; }
API int cublasSetWorkspace_v2(Handle* h, void* memory, size_t bytes) { h->workspace = memory && bytes; return OK; }
API int cublasSetPointerMode_v2(Handle* h, int mode) { h->pointers = mode; return OK; }
API int cublasGetPointerMode_v2(Handle* h, int* mode) { *mode = h->pointers; return OK; }
API int cublasSetMathMode(Handle* h, int mode) { h->math = mode; return OK; }
API int cublasGetMathMode(Handle* h, int* mode) { *mode = h->math; return OK; }
API int cublasGetVersion_v2(Handle*, int* version) { *version = 130000; return OK; }

API int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type_a,
                     int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc,
                     int compute, int) {
    bool wide = type_c == REAL_64;
    if (type_a != type_c || type_b != type_c || (type_c != REAL_32 && !wide) || h->pointers) return NOT_SUPPORTED;
    if (wide ? compute != COMPUTE_64
             : compute != COMPUTE_32 && compute != COMPUTE_32_PEDANTIC && compute != COMPUTE_32_TF32)
        return NOT_SUPPORTED;
    bool tf32 = compute == COMPUTE_32_TF32 || (!wide && compute == COMPUTE_32 && h->math == 3);
    return fake_gemm(h->stream, wide, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, tf32, h->workspace);
}
API int cublasSgemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda,
                       const float* b, int ldb, const float* beta, float* c, int ldc) {
    return cublasGemmEx(h, ta, tb, m, n, k, alpha, a, REAL_32, lda, b, REAL_32, ldb, beta, c, REAL_32, ldc, COMPUTE_32,
                        -1);
}
API int cublasDgemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const double* alpha, const double* a, int lda,
                       const double* b, int ldb, const double* beta, double* c, int ldc) {
    return cublasGemmEx(h, ta, tb, m, n, k, alpha, a, REAL_64, lda, b, REAL_64, ldb, beta, c, REAL_64, ldc, COMPUTE_64,
                        -1);
}
API int cublasGemmStridedBatchedEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const char* a,
                                   int type_a, int lda, long long step_a, const char* b, int type_b, int ldb,
                                   long long step_b, const void* beta, char* c, int type_c, int ldc, long long step_c,
                                   int batch, int compute, int algorithm) {
    int size = type_c == REAL_64 ? 8 : 4;
    for (long long i = 0; i < batch; ++i)
        if (int e = cublasGemmEx(h, ta, tb, m, n, k, alpha, a + i * step_a * size, type_a, lda, b + i * step_b * size,
                                 type_b, ldb, beta, c + i * step_c * size, type_c, ldc, compute, algorithm))
            return e;
    return OK;
}
API int cublasSgemmStridedBatched(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const float* a,
                                  int lda, long long step_a, const float* b, int ldb, long long step_b,
                                  const float* beta, float* c, int ldc, long long step_c, int batch) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, (const char*)a, REAL_32, lda, step_a, (const char*)b,
                                      REAL_32, ldb, step_b, beta, (char*)c, REAL_32, ldc, step_c, batch, COMPUTE_32,
                                      -1);
}
API int cublasDgemmStridedBatched(Handle* h, int ta, int tb, int m, int n, int k, const double* alpha, const double* a,
                                  int lda, long long step_a, const double* b, int ldb, long long step_b,
                                  const double* beta, double* c, int ldc, long long step_c, int batch) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, (const char*)a, REAL_64, lda, step_a, (const char*)b,
                                      REAL_64, ldb, step_b, beta, (char*)c, REAL_64, ldc, step_c, batch, COMPUTE_64,
                                      -1);
}
