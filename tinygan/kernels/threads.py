"""Threads, scratch memory and the heap: what the fast CPU kernels need from the machine.

NumPy's element-wise work runs on one core, and its matrix product brings its own threads. A kernel here cuts
its work into jobs that fit a core's cache and passes them to `run`; NumPy releases the interpreter lock inside
each job, so plain threads use all the cores for the copies and sums as well as for the products. The BLAS is
then held to one thread: two layers of threads on the same cores cost more than either (measured on two cores:
up to ten times).

How the work is cut depends on the shapes alone, never on the number of threads, and no two jobs write the
same number, so the results have the same bits for any number of threads.
"""

import contextlib
import ctypes
import math
import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BLOCK = 1 << 17  # numbers per job of a pass: few enough to stay in cache, enough (20 us) to share out
MANY = 1 << 19  # numbers of an array from which passes over it are worth sharing among threads

_threads = 1
_executor: ThreadPoolExecutor | None = None
_blas_limit = None  # keeps threadpoolctl's limit in force
_local = threading.local()  # per thread: .buffers (scratch memory), .busy (inside a job)


def set_threads(count: int) -> int:
    """Use `count` threads in the kernels and one in the BLAS, process-wide; returns the count now in force.

    Before the first call the kernels run on the calling thread and the BLAS on as many as it starts. Without
    threadpoolctl the BLAS cannot be held back: a warning says so and the kernels stay on one thread.
    ValueError: count < 1. TypeError: not a whole number.
    """
    global _threads, _executor, _blas_limit
    count = operator.index(count)
    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, not {count}")
    try:
        import threadpoolctl
    except ImportError:
        message = "threadpoolctl is not installed: the kernels stay on one thread (pip install threadpoolctl)"
        warnings.warn(message, stacklevel=2)
        count = 1
    else:
        if _blas_limit is None:
            _blas_limit = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
    if _executor is not None:
        _executor.shutdown(wait=True)
    _executor = ThreadPoolExecutor(count - 1, thread_name_prefix="tinygan") if count > 1 else None
    _threads = count
    return count


def get_threads() -> int:
    """Return the number of threads that `run` uses now."""
    return _threads


def run(jobs: Sequence[Callable[[], None]], *, worth_it: bool = True) -> None:
    """Call every job once and return when all are done; the first exception of a job is raised here.

    The caller works too. Jobs are taken one by one in list order, so long ones belong at the front. A job
    that calls `run` itself runs its jobs inline; so do all jobs when they are too short to be divided (worth_it
    False): waking a thread costs about 50 us, and two threads that make calls of a few microseconds each
    spend them on passing the interpreter's lock to and fro.
    """
    executor = _executor  # another thread may set the number of threads meanwhile
    if executor is None or len(jobs) < 2 or not worth_it or getattr(_local, "busy", False):
        for job in jobs:
            job()
        return
    todo = iter(jobs)  # next() on a list iterator is atomic: this is the whole work queue

    def work() -> None:
        _local.busy = True
        try:
            for job in todo:
                job()
        finally:
            _local.busy = False

    helpers = []
    with contextlib.suppress(RuntimeError):  # it was shut down this moment: the caller does the jobs alone
        for _ in range(min(_threads, len(jobs)) - 1):
            helpers.append(executor.submit(work))
    try:
        work()
    finally:
        for helper in helpers:  # also after an exception: no job may outlive this call
            helper.exception()
    for helper in helpers:
        helper.result()


def scratch(key: str, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Return this thread's buffer named `key`, at least as large as `shape`, contents undefined.

    Two live buffers in one job need two keys, and a buffer must never outlive the kernel that took it.
    """
    try:
        buffers = _local.buffers
    except AttributeError:
        buffers = _local.buffers = {}
    size = math.prod(shape)
    buffer = buffers.get((key, dtype))
    if buffer is None or buffer.size < size:
        buffer = buffers[key, dtype] = np.empty(size, dtype)
    return buffer[:size].reshape(shape)


def reuse_heap() -> bool:
    """Make the C library keep freed memory rather than give it back; True if it does, False where it cannot.

    glibc returns the pages of a large array on free, so the next temporary pays again for mapping and
    clearing fresh ones on first touch. Measured on a bank of 16 filter sets (weight gradient, normalisation
    and back, 33 MB an array, one core): 24,600 page faults and 99 ms before, none and 50 ms after; where the
    system gives large pages, 1,600 and 55 ms before, 48 ms after.
    The price: memory once used stays with the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    never_trim = mallopt(m_trim_threshold, 2**31 - 1)
    on_the_heap = mallopt(m_mmap_threshold, 2**30) or mallopt(m_mmap_threshold, 2**25)  # 2**25: older glibc
    return bool(never_trim and on_the_heap)


def _after_fork() -> None:
    """Start new threads in a forked child: threads do not survive a fork, and the parent's state may be half done."""
    global _executor, _local
    _local = threading.local()
    if _executor is not None:
        _executor = ThreadPoolExecutor(_threads - 1, thread_name_prefix="tinygan")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
