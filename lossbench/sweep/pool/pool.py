"""The pool's own process: hands tasks to workers as they come free, and replaces those that die."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from shutil import rmtree
from typing import Any

from lossbench.console import say
from lossbench.stopping import Stop
from lossbench.sweep.again import Again, can_begin
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Task
from lossbench.sweep.lost import lost
from lossbench.sweep.pool.hand import Hand
from lossbench.sweep.pool.slots import Slot

POLL = 0.2  # seconds between looks at signals, time limits, and workers whose end nothing tells of
TRIES = 3  # workers in a row that may die before they are ready
FAREWELL = 5.0  # seconds for idle workers to leave
SAVING = 60.0  # seconds that jobs have to save their state when the sweep itself has failed
LOGS = ".workers"  # in the sweep's directory, while it runs


class Pool:
    """Runs the tasks of a feed in worker processes.

    Args:
        slots: each has one worker at the most.
        timeout: seconds that a job may take.
    """

    def __init__(self, feed: Feed, slots: Sequence[Slot], timeout: float | None) -> None:
        self.feed, self.timeout = feed, timeout
        self.free = list(slots)
        self.hands: list[Hand] = []
        self.pending: deque[Task] = deque()  # for workers that are starting
        self.deaths: Counter[Slot] = Counter()  # in a row, before they were ready
        self.again = Again()
        self.started = 0
        self.given_up = ""

    def run(self) -> None:
        """Run all tasks.

        Where that fails, what runs saves its state first.

        Raises:
            KeyboardInterrupt: a signal came. After one what ran has saved its state; a second one ends it at once.
        """
        stop = Stop()
        with _folder(self.feed.ledger.path / LOGS) as logs, stop.listening():
            try:
                self._run(stop, logs)
                self._dismiss()
            except Exception:
                self._save()
                raise
            finally:
                for hand in self.hands:
                    hand.close()
        if stop.asked():
            stop.leave()

    def _run(self, stop: Stop, logs: Path) -> None:
        while True:
            if stop.asked() or self.feed.stopped:
                self.pending.clear()
            else:
                self._hand_out(logs)
            if stop.asked():
                for hand in self.hands:
                    hand.ask("stop")
            if not self.pending and not any(hand.task or hand.leaving for hand in self.hands):
                return
            self._attend(stop)

    def _hand_out(self, logs: Path) -> None:
        """Give tasks to workers that are idle, and start others where there is more to do."""
        while self._room() > len(self.pending) and (task := self.feed.next()) is not None:
            self.pending.append(task)
        for hand in self.hands:
            if self.pending and hand.idle and hand.give(self.pending[0]):
                self.feed.started(self.pending.popleft(), hand.slot.name)
        while self.free and len(self.pending) > self._starting():
            self.started += 1
            log = logs / f"{self.started}.log"
            self.hands.append(Hand(self.free.pop(0), log, self.timeout))
        if not self.free and not self.hands:
            self._fail_all()

    def _room(self) -> int:
        """How many tasks could be taken now, or once workers have started."""
        return len(self.free) + self._starting() + sum(hand.idle for hand in self.hands)

    def _starting(self) -> int:
        return sum(not hand.ready for hand in self.hands)

    def _attend(self, stop: Stop) -> None:
        """Wait until something happens, and see to it."""
        signs = [sign for hand in self.hands for sign in (hand.connection, hand.process.sentinel)]
        wait(signs, timeout=POLL)
        for hand in list(self.hands):
            self._listen(hand, stop)
            hand.watch_time()
            if hand.gone:
                self._bury(hand, stop)

    def _listen(self, hand: Hand, stop: Stop) -> None:
        for task, kind, rest in hand.messages():
            if hand.leaving:  # spent, and may hang when it cleans up
                hand.end()
            self._take(hand, task, kind, rest, stop)
        if hand.ready:
            self.deaths[hand.slot] = 0

    def _take(self, hand: Hand, task: Task, kind: str, rest: list[Any], stop: Stop) -> None:
        if kind == "evaluated":
            hand.answer(self.feed.evaluated(task, *rest))
        elif kind == "ended":
            self.feed.ended(task, rest[0])
        elif kind == "failed":
            self.feed.ended(task, lost(task, rest[0]))
        elif hand.asked == "timeout":
            self.feed.ended(task, lost(task, hand.cause(), resumable=False))
        elif stop.asked():
            pass  # the next call goes on with it
        elif self.again.goes_on(task):
            self.pending.append(task)
        else:
            self.feed.ended(task, lost(task, f"stopped by {rest[0]}", resumable=can_begin(task)))

    def _bury(self, hand: Hand, stop: Stop) -> None:
        """Take leave of a worker that has died, and of what it was working on."""
        self._listen(hand, stop)  # to its last words
        cause, task = hand.cause(), hand.task
        words = hand.last_words()
        hand.close()
        self.hands.remove(hand)
        if task is not None and hand.asked != "stop":
            self.feed.ended(task, lost(task, cause))
        if not hand.ready:
            self.deaths[hand.slot] += 1
        if self.deaths[hand.slot] < TRIES:
            self.free.append(hand.slot)
            return
        why = f"{TRIES} workers in a row died before they were ready: {cause}"
        self.given_up = f"{why}; the last wrote: {words}" if words else why
        say(f"{hand.slot.name} is given up; {self.given_up}")

    def _fail_all(self) -> None:
        """No worker can be started: what is left has failed."""
        while task := self.pending.popleft() if self.pending else self.feed.next():
            self.feed.started(task)
            self.feed.ended(task, lost(task, self.given_up))

    def _save(self) -> None:
        """Have what runs save its state, and wait for that. Nobody is told: the directories hold what became of it."""
        end = time.monotonic() + SAVING
        while (working := [hand for hand in self.hands if hand.task]) and time.monotonic() < end:
            for hand in working:
                hand.ask("stop")
                deque(hand.messages(), maxlen=0)
                if hand.gone:
                    hand.task = None
            time.sleep(POLL)

    def _dismiss(self) -> None:
        """Let the workers leave."""
        for hand in self.hands:
            hand.dismiss() if hand.ready else hand.end()
        end = time.monotonic() + FAREWELL
        for hand in self.hands:
            hand.process.join(max(0.0, end - time.monotonic()))


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A folder meanwhile; what a sweep that was killed has left of it is taken over."""
    path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        rmtree(path, ignore_errors=True)
