"""A Ctrl-C at any moment of a controller's verbs: no record is lost, nobody waits for ever, nothing is left behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

STORM = """
import random, signal, sys, threading, time
from crew_executor.controller import Controller, ControllerGroup

signal.signal(signal.SIGALRM, signal.default_int_handler)
dice = random.Random(int(sys.argv[1]))
strikes = 0


def nap(_item=0):
    time.sleep(0.001)


def strike(verb, *arguments, within, **options):
    '''Call a verb, and raise a KeyboardInterrupt somewhere in it.'''
    global strikes
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + dice.random() * within)
        verb(*arguments, **options)
        time.sleep(within)
    except KeyboardInterrupt:
        strikes += 1
    finally:
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                break
            except KeyboardInterrupt:
                pass


def is_free(controller):
    '''Answer whether another thread can still use the controller.'''
    thread = threading.Thread(target=controller.size, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


controller, other = Controller(workers=2), Controller()
group = ControllerGroup(controller, other)
for number in range(200):
    for _ in range(dice.randrange(8)):
        controller.push(nap)
    verb, *arguments = dice.choice([
        (controller.cancel, (), 2e-3), (controller.wait, (), 5e-4), (controller.map, (nap, range(5)), 4e-3),
        (controller.push, (nap,), 5e-4), (controller.collect, (), 5e-4), (controller.pop, (), 5e-4),
        (group.wait, (), 5e-4), (controller.terminate, (), 5e-3) if number % 20 == 0 else (group.pop, (), 5e-4),
    ])
    options = {"all": True} if verb == controller.cancel else {}
    strike(verb, *arguments[0], within=arguments[1], **options)
    assert is_free(controller), f"{verb} has left a lock locked"
    assert controller.wait(seconds_timeout=20), f"{verb} has left {controller}"
    controller.collect()
    until = time.monotonic() + 20
    while controller.nonempty() and time.monotonic() < until:  # what an interrupted map() has killed
        time.sleep(0.001)
    assert controller.empty(), f"{verb} has left {controller}"
group.terminate()
left = [thread.name for thread in threading.enumerate() if "crew-supervisor" != thread.name]
assert left == ["MainThread"], left
print("strikes", strikes)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_ctrl_c_in_a_verb_loses_nothing(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORM, str(seed)], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 50, "most of them have struck"
