// A GPU of host memory: the calls of CUDA's runtime, driver and cuBLAS that CuPy makes, with CUDA's own rules.
//
// Device memory is host memory, poisoned with 0xff, and each allocation lies between pages that nobody may touch. A
// "cubin" is the path of a library that g++ made of a kernel's source (build.py). A product is NumPy's OpenBLAS.
// Stricter than a GPU: a pointer that leads nowhere is refused before the kernel starts, and says which one it is.
//
// Work runs at once, or, after fake_set_late(1), as late as CUDA's rules allow: each stream has a queue of its own,
// which runs when the host waits for it or another stream does. So results that are read too early, buffers that are
// overwritten too early and streams that do not wait for each other come out wrong here as they may on a GPU.
//
// Launching is under one lock, because the emulator's threadIdx is one per library. See runtime.cpp for the Python
// side.

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

// cudaError_t and CUresult, which have the same numbers where both have a name.
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_HANDLE = 400,
    NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILURE = 719, NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903, CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907,
};
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3 };
enum { PINNED = 1, DEVICE = 2 };  // cudaMemoryType
enum { GLOBAL = 0, RELAXED = 2 };  // modes of capturing
const size_t STAGED = 64 * 1024;  // CUDA copies so much pageable memory aside; for more the host waits

pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
struct Lock {
    Lock() { pthread_mutex_lock(&mutex); }
    ~Lock() { pthread_mutex_unlock(&mutex); }
};

}  // namespace

// What a GPU was asked to do; cpucupy/__init__.py reads the names from this text. What is captured is not counted.
API struct Count {
    long long launches, gemms, gemms_tf32, up, up_bytes, down, device_copies, memsets, syncs, event_creates,
        event_records, event_queries, pointer_queries, mallocs, frees, pinned_mallocs, graph_launches,
        captured_without_workspace;
} fake_count;
Count fake_count;

namespace {

size_t limit = 8ull << 30;  // bytes of device memory
bool null_mode, reverse, late;
int context_error;  // after an illegal address a CUDA context answers nothing else
char problem[512];  // what went wrong last, in more words than an error's number has

int fail(int code, const char* form, ...) {
    va_list words;
    va_start(words, form);
    vsnprintf(problem, sizeof problem, form, words);
    va_end(words);
    return code;
}

// ---- memory -----------------------------------------------------------------------------------------------------

struct Block { size_t size; int kind; char* pages; size_t page_bytes; };
std::map<char*, Block> blocks;  // by their first byte
std::map<char*, Block> freed;   // whose addresses are still kept from new ones
std::deque<char*> freed_order;
size_t in_use;
const size_t KEPT_FREED = 8192;

const char* find(std::map<char*, Block>& in, const void* p, Block** found) {
    auto after = in.upper_bound((char*)p);
    if (after == in.begin()) return nullptr;
    --after;
    if ((char*)p >= after->first + after->second.size) return nullptr;
    *found = &after->second;
    return after->first;
}

bool inside(const void* p, size_t n, int kind) {
    Block* block;
    const char* start = find(blocks, p, &block);
    return start && block->kind == kind && (char*)p + n <= start + block->size;
}

const char* what_is_at(const void* p) {
    Block* block;
    if (find(freed, p, &block)) return block->kind == DEVICE ? "freed device memory" : "freed pinned memory";
    if (!find(blocks, p, &block)) return "memory of the host";
    return block->kind == DEVICE ? "device memory, and too little of it" : "pinned memory of the host";
}

int allocate(void** p, size_t n, int kind) {
    *p = nullptr;
    if (kind == DEVICE && in_use + n > limit) return fail(OUT_OF_MEMORY, "the limit of %zu bytes is reached", limit);
    size_t page = sysconf(_SC_PAGESIZE), size = ((n ? n : 1) + 511) / 512 * 512, body = (size + page - 1) / page * page;
    char* pages = (char*)mmap(nullptr, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, body, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
    char* start = pages + page + (body - size);  // its last byte is the last one of a page
    if (!null_mode) memset(start, 0xff, size);
    blocks[start] = {size, kind, pages, body + 2 * page};
    if (kind == DEVICE) in_use += size;
    *p = start;
    return OK;
}

int release(void* p, int kind) {
    if (!p) return OK;
    auto at = blocks.find((char*)p);
    if (at == blocks.end() || at->second.kind != kind)
        return fail(INVALID_VALUE, "%p to be freed is %s", p, what_is_at(p));
    Block block = at->second;
    if (kind == DEVICE) in_use -= block.size;
    blocks.erase(at);
    mmap(block.pages, block.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    freed[(char*)p] = block;
    freed_order.push_back((char*)p);
    if (freed_order.size() > KEPT_FREED) {
        block = freed[freed_order.front()];
        munmap(block.pages, block.page_bytes);
        freed.erase(freed_order.front());
        freed_order.pop_front();
    }
    return OK;
}

// ---- streams, events, graphs ------------------------------------------------------------------------------------

struct Function {
    int (*run)(const unsigned*, void**, int*);
    std::vector<std::array<int, 4>> parameters;  // bytes, pointer?, bytes of the number it points to, floating-point?
    std::vector<size_t> places;  // of the parameters among the bytes of a launch, and how many bytes that are
    unsigned synchronizes, uses_shared;
    std::string name;
};

struct Gemm { bool turn_a, turn_b, wide; long m, n, k, lda, ldb, ldc; double alpha, beta; const void *a, *b; void* c; };

enum What { LAUNCH, COPY, SET, PRODUCT, RECORD, WAIT, GRAPH };
struct Graph;
struct Event;
struct Work {
    What what;
    Function* function = nullptr;
    unsigned dims[6] = {};
    std::vector<char> bytes_kept;  // a launch's arguments, or what a copy of pageable memory has set aside
    void* to = nullptr;
    const void* from = nullptr;
    size_t bytes = 0;
    int value = 0;  // of a memset; of a copy: its kind
    bool staged = false;
    Gemm gemm = {};
    Event* event = nullptr;
    long ticket = 0;
    Graph* graph = nullptr;
};
struct Graph { std::vector<Work> nodes; };

struct Stream;
struct Capture { Stream* origin; int mode; bool invalid; Graph* graph; std::vector<Stream*> joined; };
struct Stream {
    bool blocking;  // waits for the null stream, and the null stream for it
    Capture* capture = nullptr;
    std::deque<Work> queue;
    bool running = false;
};
struct Event {
    bool timing;
    long recorded = 0, done = 0;  // tickets
    Stream* stream = nullptr;
    Capture* capture = nullptr;
    double at = 0;
};

Stream null_stream{true};
std::map<Stream*, std::unique_ptr<Stream>> streams;
std::map<Event*, std::unique_ptr<Event>> events;
std::map<Graph*, std::unique_ptr<Graph>> graphs;
std::vector<Capture*> captures;
Graph* last_graph;
long tickets;

int stream_of(void* handle, Stream** found) {
    *found = (intptr_t)handle <= 2 ? &null_stream : (Stream*)handle;
    if (*found != &null_stream && !streams.count(*found)) return fail(INVALID_HANDLE, "%p is no stream", handle);
    return OK;
}

int capture_state(Stream* s) { return !s->capture ? 0 : s->capture->invalid ? 2 : 1; }

int invalidate(Capture* capture, int code, const char* why) {
    capture->invalid = true;
    return fail(code, "%s while a stream is captured", why);
}

// A call that may wait for the device or changes what it works with; a relaxed capture lets it pass.
int unsafe(const char* what) {
    for (Capture* capture : captures)
        if (capture->mode != RELAXED) return invalidate(capture, CAPTURE_UNSUPPORTED, what);
    return OK;
}

int waits_for_all(const char* what) {
    for (Capture* capture : captures) return invalidate(capture, CAPTURE_UNSUPPORTED, what);
    return OK;
}

// The null stream waits for every blocking stream, which a captured one cannot have.
int implicit(Stream* s, const char* what) {
    if (s != &null_stream) return OK;
    for (Capture* capture : captures)
        for (Stream* joined : capture->joined)
            if (joined->blocking) return invalidate(capture, CAPTURE_IMPLICIT, what);
    return OK;
}

int check(const Work&);
int run(const Work&);

int run_queue(Stream* s, Event* until = nullptr, long ticket = 0) {
    if (s->running) return OK;  // it waits for a stream that waits for it
    s->running = true;
    while (!s->queue.empty() && !(until && until->done >= ticket)) {
        Work work = std::move(s->queue.front());
        s->queue.pop_front();
        int e = run(work);
        if (e && !context_error) context_error = e;
    }
    s->running = false;
    return context_error;
}

int run_all() {
    for (auto& [s, _] : streams) run_queue(s);
    return run_queue(&null_stream);
}

int wait(Stream* s) {
    if (s == &null_stream) for (auto& [other, _] : streams) if (other->blocking) run_queue(other);
    return run_queue(s);
}

int submit(Stream* s, Work&& work, const char* what) {
    if (context_error) return context_error;
    if (s->capture) {
        if (s->capture->invalid) return fail(CAPTURE_INVALIDATED, "the capture failed before: %s", what);
        if (int e = check(work)) return e;
        auto& nodes = s->capture->graph->nodes;
        if (work.what == GRAPH) nodes.insert(nodes.end(), work.graph->nodes.begin(), work.graph->nodes.end());
        else nodes.push_back(std::move(work));
        return OK;
    }
    if (int e = implicit(s, what)) return e;
    if (int e = check(work)) return e;
    if (!late) return run(work);
    if (s == &null_stream) { for (auto& [other, _] : streams) if (other->blocking) run_queue(other); }
    else if (s->blocking) run_queue(&null_stream);
    if (work.what == COPY && work.value == HOST_TO_DEVICE && !inside(work.from, work.bytes, PINNED)) {
        if (work.bytes > STAGED) { run_queue(s); return run(work); }
        work.bytes_kept.assign((const char*)work.from, (const char*)work.from + work.bytes);
        work.staged = true;
    }
    s->queue.push_back(std::move(work));
    return OK;
}

// ---- work -------------------------------------------------------------------------------------------------------

int check_launch(const Work& w) {
    for (size_t i = 0; i < w.function->parameters.size(); ++i) {
        if (!w.function->parameters[i][1]) continue;
        void* p;
        memcpy(&p, &w.bytes_kept[w.function->places[i]], sizeof p);
        if (p && !inside(p, 1, DEVICE))
            return fail(ILLEGAL_ADDRESS, "%s: argument %zu (%p) is %s", w.function->name.c_str(), i, p, what_is_at(p));
    }
    return OK;
}

int check_copy(const Work& w) {
    if (!w.bytes) return OK;
    if (w.value != DEVICE_TO_HOST && !inside(w.to, w.bytes, DEVICE))
        return fail(INVALID_VALUE, "a copy of %zu bytes goes to %p, which is %s", w.bytes, w.to, what_is_at(w.to));
    if (w.value != HOST_TO_DEVICE && !inside(w.from, w.bytes, DEVICE))
        return fail(INVALID_VALUE, "a copy of %zu bytes comes from %p, which is %s", w.bytes, w.from,
                    what_is_at(w.from));
    const void* host = w.value == HOST_TO_DEVICE ? w.from : w.to;
    Block* block;
    if (w.value != DEVICE_TO_DEVICE && !w.staged && find(freed, host, &block))
        return fail(ILLEGAL_ADDRESS, "a copy of %zu bytes uses %p, which is %s", w.bytes, host, what_is_at(host));
    return OK;
}

int check_matrix(const char* name, const void* p, long rows, long columns, long leading, size_t size) {
    if (!rows || !columns || inside(p, size * (leading * (columns - 1) + rows), DEVICE)) return OK;
    return fail(ILLEGAL_ADDRESS, "cuBLAS: %s (%p; rows %ld, columns %ld, leading dimension %ld) is %s", name, p, rows,
                columns, leading, what_is_at(p));
}

int check_gemm(const Gemm& g) {
    size_t size = g.wide ? 8 : 4;
    int e = check_matrix("C", g.c, g.m, g.n, g.ldc, size);
    if (!e && g.m && g.n) e = check_matrix("A", g.a, g.turn_a ? g.k : g.m, g.turn_a ? g.m : g.k, g.lda, size);
    if (!e && g.m && g.n) e = check_matrix("B", g.b, g.turn_b ? g.n : g.k, g.turn_b ? g.k : g.n, g.ldb, size);
    return e;
}

int check(const Work& w) {
    switch (w.what) {
        case LAUNCH: return check_launch(w);
        case COPY: return check_copy(w);
        case SET: return !w.bytes || inside(w.to, w.bytes, DEVICE) ? OK
            : fail(INVALID_VALUE, "%zu bytes to be set at %p are %s", w.bytes, w.to, what_is_at(w.to));
        case PRODUCT: return check_gemm(w.gemm);
        default: return OK;
    }
}

// A kernel that touches memory outside all allocations: a segmentation fault here, an illegal address on a GPU.
sigjmp_buf out_of_kernel;
void on_fault(int) { siglongjmp(out_of_kernel, 1); }

int run_kernel(const Work& w) {
    Function* f = w.function;
    std::vector<void*> pointers;
    for (size_t place : f->places) pointers.push_back((void*)(w.bytes_kept.data() + place));
    unsigned dims[9] = {0, 0, 0, 0, 0, 0, reverse, f->synchronizes, f->uses_shared};
    memcpy(dims, w.dims, sizeof w.dims);
    struct sigaction now = {}, before[2];
    now.sa_handler = on_fault;
    now.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &now, &before[0]);
    sigaction(SIGBUS, &now, &before[1]);
    volatile int outcome = 0;
    int lines[2] = {};
    bool fault = sigsetjmp(out_of_kernel, 0);
    if (!fault) outcome = f->run(dims, pointers.data(), lines);
    sigaction(SIGSEGV, &before[0], nullptr);
    sigaction(SIGBUS, &before[1], nullptr);
    if (fault)
        return context_error = fail(ILLEGAL_ADDRESS, "%s reads or writes where no memory is", f->name.c_str());
    if (!outcome) return OK;
    const char* words[] = {"", "threads wait at different barriers", "threads wait at a barrier that not all reach",
                           "a barrier in a kernel without the word sync", "too many local variables", "an exception"};
    return context_error =
               fail(LAUNCH_FAILURE, "%s: %s (lines %d and %d)", f->name.c_str(), words[outcome], lines[0], lines[1]);
}

using Sgemm = void (*)(int, int, int, long, long, long, float, const float*, long, const float*, long, float, float*,
                       long);
using Dgemm = void (*)(int, int, int, long, long, long, double, const double*, long, const double*, long, double,
                       double*, long);
Sgemm sgemm;
Dgemm dgemm;

int run_gemm(const Gemm& g) {
    if (!g.m || !g.n) return OK;
    int a = g.turn_a ? 112 : 111, b = g.turn_b ? 112 : 111;
    if (g.wide)
        dgemm(102, a, b, g.m, g.n, g.k, g.alpha, (double*)g.a, g.lda, (double*)g.b, g.ldb, g.beta, (double*)g.c, g.ldc);
    else sgemm(102, a, b, g.m, g.n, g.k, g.alpha, (float*)g.a, g.lda, (float*)g.b, g.ldb, g.beta, (float*)g.c, g.ldc);
    return OK;
}

double now_ms() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * t.tv_sec + 1e-6 * t.tv_nsec;
}

int run(const Work& w) {
    if (w.what == RECORD) {
        w.event->at = now_ms();
        w.event->done = w.ticket;
        return OK;
    }
    if (w.what == WAIT)
        return events.count(w.event) && w.event->done < w.ticket ? run_queue(w.event->stream, w.event, w.ticket) : OK;
    if (null_mode) return OK;
    if (int e = check(w)) return e;
    switch (w.what) {
        case LAUNCH: return run_kernel(w);
        case COPY: if (w.bytes) memmove(w.to, w.staged ? w.bytes_kept.data() : w.from, w.bytes); return OK;
        case SET: memset(w.to, w.value, w.bytes); return OK;
        case PRODUCT: return run_gemm(w.gemm);
        case GRAPH:
            for (const Work& node : w.graph->nodes) if (int e = run(node)) return e;
            return OK;
        default: return OK;
    }
}

int copy(void* to, const void* from, size_t n, int kind, Stream* s) {
    Work w{COPY};
    w.to = to; w.from = from; w.bytes = n;
    w.value = kind == 4 ? (inside(to, 1, DEVICE) ? inside(from, 1, DEVICE) ? DEVICE_TO_DEVICE : HOST_TO_DEVICE
                           : inside(from, 1, DEVICE) ? DEVICE_TO_HOST : 0) : kind;
    if (!w.value) return fail(NOT_SUPPORTED, "a copy from host to host");
    bool pinned = w.value == DEVICE_TO_DEVICE || inside(w.value == HOST_TO_DEVICE ? from : to, n ? n : 1, PINNED);
    kind = w.value;
    if (int e = submit(s, std::move(w), "a copy")) return e;
    if (s->capture) return OK;
    if (kind == HOST_TO_DEVICE) ++fake_count.up, fake_count.up_bytes += n;
    else ++(kind == DEVICE_TO_HOST ? fake_count.down : fake_count.device_copies);
    if (!pinned && kind == HOST_TO_DEVICE && n > STAGED) ++fake_count.syncs;
    return !pinned && kind == DEVICE_TO_HOST ? wait(s) : OK;  // pageable memory: it returns when the bytes are there
}

}  // namespace

// ---- the runtime ------------------------------------------------------------------------------------------------

API int fake_malloc(void** p, size_t n) {
    Lock lock;
    if (int e = unsafe("cudaMalloc")) return e;
    ++fake_count.mallocs;
    return allocate(p, n, DEVICE);
}
API int fake_free(void* p) {
    Lock lock;
    if (int e = unsafe("cudaFree")) return e;
    run_all();
    ++fake_count.frees;
    return release(p, DEVICE);
}
API int fake_host_alloc(void** p, size_t n) {
    Lock lock;
    if (int e = unsafe("cudaHostAlloc")) return e;
    ++fake_count.pinned_mallocs;
    return allocate(p, n, PINNED);
}
API int fake_free_host(void* p) {
    Lock lock;
    if (int e = unsafe("cudaFreeHost")) return e;
    run_all();
    return release(p, PINNED);
}
API void fake_memory(size_t* free_bytes, size_t* total) {
    *total = limit;
    *free_bytes = limit > in_use ? limit - in_use : 0;
}
API int fake_kind_of(void* p) {
    Lock lock;
    ++fake_count.pointer_queries;
    Block* block;
    return find(blocks, p, &block) ? block->kind : 0;
}

API int fake_copy(void* to, const void* from, size_t n, int kind) {
    Lock lock;
    if (int e = implicit(&null_stream, "cudaMemcpy")) return e;
    ++fake_count.syncs;
    if (int e = copy(to, from, n, kind, &null_stream)) return e;
    return wait(&null_stream);
}
API int fake_copy_async(void* to, const void* from, size_t n, int kind, void* stream) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    return copy(to, from, n, kind, s);
}
API int fake_set_async(void* to, int value, size_t n, void* stream) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    Work w{SET};
    w.to = to; w.value = value; w.bytes = n;
    if (int e = submit(s, std::move(w), "a memset")) return e;
    fake_count.memsets += !s->capture;
    return OK;
}

API int fake_device_synchronize() {
    Lock lock;
    if (int e = waits_for_all("cudaDeviceSynchronize")) return e;
    ++fake_count.syncs;
    return run_all();
}
API void* fake_stream_create(unsigned flags) {
    Lock lock;
    auto made = std::make_unique<Stream>(Stream{!(flags & 1)});
    Stream* s = made.get();
    streams[s] = std::move(made);
    return s;
}
API int fake_stream_destroy(void* stream) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    if (s->capture) return invalidate(s->capture, CAPTURE_UNSUPPORTED, "cudaStreamDestroy");
    run_queue(s);
    for (auto& [event, _] : events) if (event->stream == s) event->stream = nullptr;
    streams.erase(s);
    return OK;
}
API int fake_stream_flags(void* stream) {
    Lock lock;
    Stream* s;
    if (stream_of(stream, &s)) return -1;
    return s->blocking ? 0 : 1;
}
API int fake_stream_synchronize(void* stream) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    if (s->capture) return invalidate(s->capture, CAPTURE_UNSUPPORTED, "cudaStreamSynchronize");
    if (int e = implicit(s, "cudaStreamSynchronize")) return e;
    ++fake_count.syncs;
    return wait(s);
}
API int fake_stream_query(void* stream) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    if (s->capture) return invalidate(s->capture, CAPTURE_UNSUPPORTED, "cudaStreamQuery");
    return s->queue.empty() ? context_error : NOT_READY;
}

API void* fake_event_create(unsigned flags) {
    Lock lock;
    ++fake_count.event_creates;
    auto made = std::make_unique<Event>(Event{!(flags & 2)});
    Event* event = made.get();
    events[event] = std::move(made);
    return event;
}
static int event_of(void* handle, Event** found) {
    *found = (Event*)handle;
    return events.count(*found) ? OK : fail(INVALID_HANDLE, "%p is no event", handle);
}
API int fake_event_destroy(void* handle) {
    Lock lock;
    Event* event;
    if (int e = event_of(handle, &event)) return e;
    while (event->stream && event->done < event->recorded && !event->stream->queue.empty()) run_queue(event->stream);
    events.erase(event);
    return OK;
}
API int fake_event_record(void* handle, void* stream) {
    Lock lock;
    Event* event;
    Stream* s;
    if (int e = event_of(handle, &event)) return e;
    if (int e = stream_of(stream, &s)) return e;
    event->capture = s->capture;
    if (s->capture) return s->capture->invalid ? CAPTURE_INVALIDATED : OK;
    ++fake_count.event_records;
    Work w{RECORD};
    w.event = event;
    w.ticket = event->recorded = ++tickets;
    event->stream = s;
    return submit(s, std::move(w), "cudaEventRecord");
}
API int fake_event_query(void* handle) {
    Lock lock;
    Event* event;
    if (int e = event_of(handle, &event)) return e;
    if (event->capture) return invalidate(event->capture, CAPTURED_EVENT, "cudaEventQuery of an event recorded there");
    if (int e = unsafe("cudaEventQuery")) return e;
    ++fake_count.event_queries;
    return event->done < event->recorded ? NOT_READY : context_error;
}
API int fake_event_synchronize(void* handle) {
    Lock lock;
    Event* event;
    if (int e = event_of(handle, &event)) return e;
    if (event->capture)
        return invalidate(event->capture, CAPTURED_EVENT, "cudaEventSynchronize of an event recorded there");
    if (int e = unsafe("cudaEventSynchronize")) return e;
    ++fake_count.syncs;
    if (event->stream && event->done < event->recorded) run_queue(event->stream, event, event->recorded);
    return context_error;
}
API int fake_event_elapsed(float* ms, void* first, void* second) {
    Lock lock;
    Event *a, *b;
    if (int e = event_of(first, &a)) return e;
    if (int e = event_of(second, &b)) return e;
    if (!a->timing || !b->timing || !a->recorded || !b->recorded)
        return fail(INVALID_HANDLE, "an event that was never recorded, or that keeps no time");
    if (a->done < a->recorded || b->done < b->recorded) return NOT_READY;
    *ms = float(b->at - a->at);
    return OK;
}
API int fake_stream_wait_event(void* stream, void* handle) {
    Lock lock;
    Stream* s;
    Event* event;
    if (int e = stream_of(stream, &s)) return e;
    if (int e = event_of(handle, &event)) return e;
    if (event->capture) {  // the other stream is captured from here on
        if (s->capture && s->capture != event->capture)
            return invalidate(s->capture, CAPTURE_ISOLATION, "an event of another capture");
        if (!s->capture) {
            if (s == &null_stream) return invalidate(event->capture, CAPTURE_IMPLICIT, "the null stream waits");
            s->capture = event->capture;
            s->capture->joined.push_back(s);
        }
        return OK;
    }
    if (s->capture) return invalidate(s->capture, CAPTURE_ISOLATION, "cudaStreamWaitEvent for an event from outside");
    if (event->done >= event->recorded) return OK;
    Work w{WAIT};
    w.event = event;
    w.ticket = event->recorded;
    return submit(s, std::move(w), "cudaStreamWaitEvent");
}

// ---- graphs -----------------------------------------------------------------------------------------------------

API int fake_begin_capture(void* stream, int mode) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    if (s == &null_stream) return fail(CAPTURE_UNSUPPORTED, "the null stream cannot be captured");
    if (s->capture) return fail(INVALID_VALUE, "the stream is captured already");
    Graph* graph = new Graph;
    graphs[graph].reset(graph);
    s->capture = new Capture{s, mode, false, graph, {s}};
    captures.push_back(s->capture);
    return OK;
}
API int fake_end_capture(void* stream, void** graph) {
    Lock lock;
    Stream* s;
    *graph = nullptr;
    if (int e = stream_of(stream, &s)) return e;
    Capture* capture = s->capture;
    if (!capture) return fail(INVALID_VALUE, "the stream is not captured");
    if (capture->origin != s) return invalidate(capture, CAPTURE_UNMATCHED, "its end at a stream that joined it");
    int e = capture->invalid ? CAPTURE_INVALIDATED : OK;
    for (Stream* joined : capture->joined) joined->capture = nullptr;
    for (auto& [event, _] : events) if (event->capture == capture) event->capture = nullptr;
    for (size_t i = 0; i < captures.size(); ++i) if (captures[i] == capture) captures.erase(captures.begin() + i--);
    if (e) graphs.erase(capture->graph);
    else *graph = last_graph = capture->graph;
    delete capture;
    return e;
}
API int fake_is_capturing(void* stream, int* state) {
    Lock lock;
    Stream* s;
    *state = 0;
    if (int e = stream_of(stream, &s)) return e;
    if (int e = implicit(s, "cudaStreamIsCapturing of the null stream")) return e;
    *state = capture_state(s);
    return OK;
}
API int fake_graph_instantiate(void* graph, void** made) {
    Lock lock;
    if (!graphs.count((Graph*)graph)) return fail(INVALID_VALUE, "%p is no graph", graph);
    Graph* copy = new Graph(*(Graph*)graph);
    graphs[copy].reset(copy);
    *made = copy;
    return OK;
}
API int fake_graph_destroy(void* graph) {
    Lock lock;
    run_all();
    if (last_graph == graph) last_graph = nullptr;
    return graphs.erase((Graph*)graph) ? OK : fail(INVALID_VALUE, "%p is no graph", graph);
}
API int fake_graph_launch(void* graph, void* stream) {
    Lock lock;
    Stream* s;
    if (int e = stream_of(stream, &s)) return e;
    if (!graphs.count((Graph*)graph)) return fail(INVALID_VALUE, "%p is no graph", graph);
    Work w{GRAPH};
    w.graph = (Graph*)graph;
    if (int e = submit(s, std::move(w), "cudaGraphLaunch")) return e;
    fake_count.graph_launches += !s->capture;
    return OK;
}
// The name of node i of a graph (null: the one captured last), or null behind the last.
API const char* fake_node(void* graph, size_t i) {
    Lock lock;
    Graph* g = graph ? (Graph*)graph : last_graph;
    if (!g || !graphs.count(g) || i >= g->nodes.size()) return nullptr;
    const Work& node = g->nodes[i];
    if (node.what == LAUNCH) return node.function->name.c_str();
    return node.what == COPY ? "copy" : node.what == SET ? "memset" : "gemm";
}

// ---- the driver -------------------------------------------------------------------------------------------------

API int cuInit(unsigned) { return OK; }
API int cuDriverGetVersion(int* v) { *v = 13000; return OK; }
API int cuDeviceGet(int* device, int number) { *device = 0; return number ? INVALID_DEVICE : OK; }
API int cuDeviceGetAttribute(int* v, int attribute, int device) {
    switch (attribute) {
        case 1: case 2: case 3: *v = attribute == 3 ? 64 : 1024; break;  // a block's sides
        case 5: *v = 2147483647; break;                                  // a grid's
        case 6: case 7: *v = 65535; break;
        case 8: *v = 49152; break;    // bytes of shared memory per block
        case 10: *v = 32; break;      // threads of a warp
        case 16: *v = 132; break;     // multiprocessors
        case 39: *v = 2048; break;    // threads of one
        case 75: *v = 9; break;       // compute capability 9.0
        case 97: *v = 232448; break;  // bytes of shared memory if asked for
        default: *v = 0;
    }
    return device ? INVALID_DEVICE : OK;
}
API int cuGetErrorName(int e, const char** name) {
    switch (e) {
        case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
        case INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
        case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
        case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case LAUNCH_FAILURE: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
        case NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
        case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
        case CAPTURE_INVALIDATED: *name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; break;
        case CAPTURE_IMPLICIT: *name = "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"; break;
        default: *name = "CUDA_ERROR_UNKNOWN";
    }
    return OK;
}
API int cuGetErrorString(int, const char** text) { *text = problem; return OK; }
API int cuCtxGetCurrent(void** context) { *context = (void*)1; return OK; }
API int cuCtxSetCurrent(void*) { return OK; }
API int cuCtxGetDevice(int* device) { *device = 0; return OK; }
API int cuStreamGetCtx(void*, void** context) { *context = (void*)1; return OK; }

API int cuModuleLoadData(void** module, const void* path) {
    Lock lock;
    if (int e = unsafe("cuModuleLoadData")) return e;
    *module = dlopen((const char*)path, RTLD_NOW | RTLD_LOCAL);
    return *module ? OK : fail(INVALID_IMAGE, "%s", dlerror());
}
API int cuModuleUnload(void*) { return OK; }
API int cuModuleGetGlobal_v2(void**, size_t*, void*, const char* name) {
    return fail(NOT_FOUND, "no global variable %s here", name);
}
API int cuModuleGetFunction(void** function, void* module, const char* name) {
    Lock lock;
    static std::map<std::pair<void*, std::string>, std::unique_ptr<Function>> known;
    auto& made = known[{module, name}];
    if (!made) {
        auto symbol = [&](const char* kind) {
            return dlsym(module, ("host_" + std::string(kind) + "_" + name).c_str());
        };
        auto describe = (int (*)(int*))symbol("describe");
        if (!describe) return fail(NOT_FOUND, "no kernel %s here", name);
        made = std::make_unique<Function>();
        made->parameters.resize(256);
        made->parameters.resize(describe(made->parameters[0].data()));
        made->places = {0};
        for (auto& parameter : made->parameters)
            made->places.push_back(made->places.back() + (parameter[0] + 15) / 16 * 16);
        made->run = (int (*)(const unsigned*, void**, int*))symbol("run");
        auto flags = (unsigned*)symbol("flags");
        made->synchronizes = flags[0];
        made->uses_shared = flags[1];
        made->name = name;
    }
    *function = made.get();
    return OK;
}
API int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void* stream, void** arguments, void**) {
    Lock lock;
    Stream* s;
    Work w{LAUNCH};
    w.function = (Function*)function;
    const char* name = w.function->name.c_str();
    if (!gx || !gy || !gz || !bx || !by || !bz || gx > 2147483647u || gy > 65535 || gz > 65535 ||
        1ull * bx * by * bz > 1024 || bz > 64)
        return fail(INVALID_VALUE, "%s: a grid of %u, %u, %u blocks of %u, %u, %u threads", name, gx, gy, gz, bx, by,
                    bz);
    if (shared > 232448) return fail(INVALID_VALUE, "%s: %u bytes of shared memory", name, shared);
    if (int e = stream_of(stream, &s)) return e;
    unsigned dims[6] = {gx, gy, gz, bx, by, bz};
    memcpy(w.dims, dims, sizeof dims);
    w.bytes_kept.resize(w.function->places.back());
    for (size_t i = 0; i < w.function->parameters.size(); ++i)
        memcpy(&w.bytes_kept[w.function->places[i]], arguments[i], w.function->parameters[i][0]);
    if (int e = submit(s, std::move(w), "a launch")) return e;
    fake_count.launches += !s->capture;
    return OK;
}
API int cuFuncGetAttribute(int* v, int attribute, void*) { *v = attribute == 0 ? 1024 : 0; return OK; }
API int cuFuncSetAttribute(void*, int, int) { return OK; }
API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int, size_t) { *n = 2; return OK; }
API int cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void*, void*, size_t, int) {
    *grid = 264;
    *block = 256;
    return OK;
}

// ---- cuBLAS, as libcublas.so.13 passes it on (blas.cpp) -----------------------------------------------------------

// Returns a cublasStatus_t: 7 invalid value, 13 execution failed.
API int fake_gemm(void* stream, bool wide, int turn_a, int turn_b, int m, int n, int k, const void* alpha,
                  const void* a, int lda, const void* b, int ldb, const void* beta, void* c, int ldc, bool tf32,
                  bool workspace) {
    Lock lock;
    Stream* s;
    if (stream_of(stream, &s)) return 13;
    auto bad = [&](const char* name, long rows, long leading) {
        return fail(7, "cuBLAS: the leading dimension of %s is %ld, with %ld rows in memory", name, leading, rows);
    };
    if (m < 0 || n < 0 || k < 0 || turn_a < 0 || turn_a > 2 || turn_b < 0 || turn_b > 2)
        return fail(7, "cuBLAS: a product with m %d, n %d, k %d, operations %d and %d", m, n, k, turn_a, turn_b);
    long rows_a = turn_a ? k : m, rows_b = turn_b ? n : k;
    if (lda < (rows_a > 1 ? rows_a : 1)) return bad("A", rows_a, lda);
    if (ldb < (rows_b > 1 ? rows_b : 1)) return bad("B", rows_b, ldb);
    if (ldc < (m > 1 ? m : 1)) return bad("C", m, ldc);
    if (!alpha || !beta || inside(alpha, 1, DEVICE) || inside(beta, 1, DEVICE))
        return fail(7, "cuBLAS: alpha and beta must lie on the host");
    Work w{PRODUCT};
    auto number = [&](const void* p) { return wide ? *(const double*)p : double(*(const float*)p); };
    w.gemm = {bool(turn_a), bool(turn_b), wide, m, n, k, lda, ldb, ldc, number(alpha), number(beta), a, b, c};
    int e = submit(s, std::move(w), "a product");
    if (e) return 13;
    if (s->capture) fake_count.captured_without_workspace += !workspace;
    else ++fake_count.gemms, fake_count.gemms_tf32 += tf32;
    return OK;
}
API int fake_unsafe(const char* what) { Lock lock; return unsafe(what); }

// ---- for cpucupy/__init__.py ------------------------------------------------------------------------------------

API void fake_set_limit(size_t bytes) { limit = bytes; }
API void fake_set_null(int on) { Lock lock; run_all(); null_mode = on; }
API void fake_set_reverse(int on) { Lock lock; run_all(); reverse = on; }
API void fake_set_late(int on) { Lock lock; run_all(); late = on; }
API const char* fake_problem() { return problem; }
API void fake_forget_problem() { problem[0] = 0; }
API void fake_blas(void* s, void* d) { sgemm = (Sgemm)s; dgemm = (Dgemm)d; }
