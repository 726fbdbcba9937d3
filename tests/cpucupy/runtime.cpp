// What CuPy's binary modules call as `cupy_backends.cuda.api.runtime`, on the device of device.cpp.
//
// A function must have exactly the C signature that the name of its capsule in `__pyx_capi__` says; hence the last
// parameter `int`, which means nothing here. build.py adds a line for each function of that table that is not offered.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>

#define API extern "C" __attribute__((visibility("default")))
extern "C" {
int fake_malloc(void**, size_t), fake_free(void*), fake_host_alloc(void**, size_t), fake_free_host(void*),
    fake_kind_of(void*);
void fake_memory(size_t*, size_t*);
int fake_copy(void*, const void*, size_t, int), fake_copy_async(void*, const void*, size_t, int, void*);
int fake_set_async(void*, int, size_t, void*), fake_device_synchronize();
void *fake_stream_create(unsigned), *fake_event_create(unsigned);
int fake_stream_destroy(void*), fake_stream_flags(void*), fake_stream_synchronize(void*), fake_stream_query(void*);
int fake_event_destroy(void*), fake_event_record(void*, void*), fake_event_query(void*), fake_event_synchronize(void*);
int fake_event_elapsed(float*, void*, void*), fake_stream_wait_event(void*, void*);
int fake_begin_capture(void*, int), fake_end_capture(void*, void**), fake_is_capturing(void*, int*);
int fake_graph_instantiate(void*, void**), fake_graph_destroy(void*), fake_graph_launch(void*, void*);
int cuDeviceGetAttribute(int*, int, int);
const char* fake_problem();
void fake_forget_problem();
}

// Set from Python: CuPy's own check_status, which raises its CUDARuntimeError, its class PointerAttributes, and a dict.
API PyObject* (*real_check_status)(int, int) = nullptr;
API PyObject *rt_pointer_attributes = nullptr, *rt_properties = nullptr;

static bool failed(int status) {
    if (!status) return false;
    PyObject* none = real_check_status(status, 0);
    Py_XDECREF(none);
    if (*fake_problem()) {  // said in the notes of the exception: CUDA's own message is the number's and no more
        PyObject *type, *error, *trace;
        PyErr_Fetch(&type, &error, &trace);
        PyErr_NormalizeException(&type, &error, &trace);
        PyObject* notes = Py_BuildValue("[s]", fake_problem());
        PyObject_SetAttrString(error, "__notes__", notes);
        Py_XDECREF(notes);
        PyErr_Restore(type, error, trace);
        fake_forget_problem();
    }
    return true;
}
static PyObject* none(int status) {
    if (failed(status)) return nullptr;
    Py_RETURN_NONE;
}
static void* p(intptr_t number) { return (void*)number; }

API PyObject* rt__ensure_context() { Py_RETURN_NONE; }
API int rt__getCUDAMajorVersion(int) { return 13; }
API int rt_driverGetVersion(int) { return 13000; }
API int rt_getDeviceCount(int) { return 1; }
API int rt_getDevice(int) { return 0; }
API PyObject* rt_setDevice(int device, int) { return none(device ? 101 : 0); }
API int rt_deviceGetAttribute(int attribute, int device, int) {
    int value;
    return failed(cuDeviceGetAttribute(&value, attribute, device)) ? -1 : value;
}
API PyObject* rt_getDeviceProperties(int device, int) { return device ? none(101) : PyDict_Copy(rt_properties); }
API PyObject* rt_deviceGetPCIBusId(int device, int) {
    return device ? none(101) : PyUnicode_FromString("0000:00:00.0");
}
API int rt_deviceCanAccessPeer(int, int, int) { return 0; }
API PyObject* rt_deviceSynchronize(int) { return none(fake_device_synchronize()); }

API intptr_t rt_malloc(size_t n, int) { void* q; return failed(fake_malloc(&q, n)) ? 0 : (intptr_t)q; }
API PyObject* rt_free(intptr_t q, int) { return none(fake_free(p(q))); }
API intptr_t rt_hostAlloc(size_t n, unsigned, int) { void* q; return failed(fake_host_alloc(&q, n)) ? 0 : (intptr_t)q; }
API PyObject* rt_freeHost(intptr_t q, int) { return none(fake_free_host(p(q))); }
API PyObject* rt_memGetInfo(int) {
    size_t f, t;
    fake_memory(&f, &t);
    return Py_BuildValue("nn", (Py_ssize_t)f, (Py_ssize_t)t);
}
API PyObject* rt_pointerGetAttributes(intptr_t q, int) {
    int kind = fake_kind_of(p(q));
    return PyObject_CallFunction(rt_pointer_attributes, "inni", 0, (Py_ssize_t)(kind == 2 ? q : 0),
                                 (Py_ssize_t)(kind == 1 ? q : 0), kind);
}
API int rt_pointerGetMemoryType(intptr_t q, int) { return fake_kind_of(p(q)); }
API PyObject* rt_memcpy(intptr_t to, intptr_t from, size_t n, int kind, int) {
    return none(fake_copy(p(to), p(from), n, kind));
}
API PyObject* rt_memcpyAsync(intptr_t to, intptr_t from, size_t n, int kind, intptr_t stream, int) {
    return none(fake_copy_async(p(to), p(from), n, kind, p(stream)));
}
API PyObject* rt_memset(intptr_t to, int value, size_t n, int) {
    return none(fake_set_async(p(to), value, n, nullptr));
}
API PyObject* rt_memsetAsync(intptr_t to, int value, size_t n, intptr_t stream, int) {
    return none(fake_set_async(p(to), value, n, p(stream)));
}

API intptr_t rt_streamCreate(int) { return (intptr_t)fake_stream_create(0); }
API intptr_t rt_streamCreateWithFlags(unsigned flags, int) { return (intptr_t)fake_stream_create(flags); }
API intptr_t rt_streamCreateWithPriority(unsigned flags, int, int) { return (intptr_t)fake_stream_create(flags); }
API unsigned rt_streamGetFlags(intptr_t stream, int) { return fake_stream_flags(p(stream)); }
API int rt_streamGetPriority(intptr_t, int) { return 0; }
API PyObject* rt_streamDestroy(intptr_t stream, int) { return none(fake_stream_destroy(p(stream))); }
API PyObject* rt_streamSynchronize(intptr_t stream, int) { return none(fake_stream_synchronize(p(stream))); }
API PyObject* rt_streamQuery(intptr_t stream, int) {
    int status = fake_stream_query(p(stream));
    return status && status != 600 ? none(status) : PyLong_FromLong(status);
}
struct Optional { int count, value; };
API PyObject* rt_streamWaitEvent(intptr_t stream, intptr_t event, int, Optional*) {
    return none(fake_stream_wait_event(p(stream), p(event)));
}
API PyObject* rt_streamBeginCapture(intptr_t stream, int, Optional* mode) {
    return none(fake_begin_capture(p(stream), mode && mode->count ? mode->value : 2));
}
API intptr_t rt_streamEndCapture(intptr_t stream, int) {
    void* g;
    return failed(fake_end_capture(p(stream), &g)) ? 0 : (intptr_t)g;
}
API int rt_streamIsCapturing(intptr_t stream, int) {
    int state;
    return failed(fake_is_capturing(p(stream), &state)) ? -1 : state;
}

API intptr_t rt_eventCreate(int) { return (intptr_t)fake_event_create(0); }
API intptr_t rt_eventCreateWithFlags(unsigned flags, int) { return (intptr_t)fake_event_create(flags); }
API PyObject* rt_eventDestroy(intptr_t event, int) { return none(fake_event_destroy(p(event))); }
API PyObject* rt_eventRecord(intptr_t event, intptr_t stream, int) {
    return none(fake_event_record(p(event), p(stream)));
}
API PyObject* rt_eventQuery(intptr_t event, int) {
    int status = fake_event_query(p(event));
    return status && status != 600 ? none(status) : PyLong_FromLong(status);
}
API PyObject* rt_eventSynchronize(intptr_t event, int) { return none(fake_event_synchronize(p(event))); }
API float rt_eventElapsedTime(intptr_t a, intptr_t b, int) {
    float ms;
    return failed(fake_event_elapsed(&ms, p(a), p(b))) ? -1 : ms;
}

API intptr_t rt_graphInstantiate(intptr_t graph, int) {
    void* made;
    return failed(fake_graph_instantiate(p(graph), &made)) ? 0 : (intptr_t)made;
}
API PyObject* rt_graphDestroy(intptr_t graph, int) { return none(fake_graph_destroy(p(graph))); }
API PyObject* rt_graphExecDestroy(intptr_t graph, int) { return none(fake_graph_destroy(p(graph))); }
API PyObject* rt_graphLaunch(intptr_t graph, intptr_t stream, int) {
    return none(fake_graph_launch(p(graph), p(stream)));
}
API PyObject* rt_graphUpload(intptr_t, intptr_t, int) { Py_RETURN_NONE; }

#define NOT_OFFERED(name, type, failed)                                                                          \
    API type rt_##name() {                                                                                       \
        PyErr_SetString(PyExc_NotImplementedError, "cupy.cuda.runtime." #name " is not offered by tests/cpucupy"); \
        return failed;                                                                                           \
    }
