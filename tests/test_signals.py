"""Signals that ask a run to stop: noted between two steps, left alone where they were ignored."""

import os
import signal
import threading

import pytest

from tinygan.signals import ASK_TO_STOP, StopSignal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


@pytest.fixture(autouse=True)
def as_they_were():
    before = {number: signal.getsignal(number) for number in ASK_TO_STOP}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_asks_to_stop_and_has_its_meaning_back_afterwards(number):
    number = getattr(signal, number)
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_was_ignored_stays_ignored(number):
    number = getattr(signal, number)
    signal.signal(number, signal.SIG_IGN)
    with StopSignal() as stop:
        signal.raise_signal(number)
        assert not stop.requested
    assert signal.getsignal(number) == signal.SIG_IGN


def test_only_another_ctrl_c_breaks_in():
    with StopSignal() as stop:
        for number in ("SIGHUP", "SIGHUP", "SIGTERM", "SIGTERM"):  # a lost terminal often says so twice
            signal.raise_signal(getattr(signal, number))
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
