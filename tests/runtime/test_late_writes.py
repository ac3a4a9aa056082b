"""What a failed save leaves behind in other threads says nothing; tests/drills makes the real fault (`disk`)."""

import asyncio
import threading

import pytest

from diffusion_jax.runtime.late_writes import ignore_late_writes


@pytest.fixture(autouse=True)
def policy():
    """The policy of before, and after the test again."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(None)
    yield
    asyncio.set_event_loop_policy(before)


def call_from_a_thread(loop, callback):
    errors = []

    def call():
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return errors


def test_a_closed_loop_ignores_what_arrives_late():
    closed = asyncio.new_event_loop()
    closed.close()
    assert call_from_a_thread(closed, print) == ["Event loop is closed"]
    ignore_late_writes()
    closed = asyncio.new_event_loop()
    closed.close()
    assert call_from_a_thread(closed, print) == []


def test_an_open_loop_works_as_before():
    ignore_late_writes()
    loop = asyncio.new_event_loop()
    assert call_from_a_thread(loop, loop.stop) == []
    loop.run_forever()  # until stopped
    loop.close()


def test_a_policy_of_the_user_is_left_alone():
    class Own(asyncio.DefaultEventLoopPolicy):
        pass

    asyncio.set_event_loop_policy(own := Own())
    ignore_late_writes()
    assert asyncio.get_event_loop_policy() is own
