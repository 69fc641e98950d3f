"""What the calls.py of the examples have in common: something is announced, done, and what came of it is judged."""

import json
import os
import pathlib
import sys
import time


class Screen:
    """What the reader sees. Colours only where they are not in the way of another program."""

    def __init__(self):
        sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
        self.coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.failed = 0

    def paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.coloured else text

    def scene(self, title):
        print(f"\n{self.paint('1', title)}")

    def line(self, text):
        print(f"    {text}")

    def judge(self, good, text):
        mark = self.paint("32", "✓") if good else self.paint("31", "✗")
        print(f"  {mark} {text}")
        self.failed += not good

    def end(self, text="All as announced."):
        """The last line, and the exit status."""
        print()
        if self.failed:
            print(self.paint("31", f"{self.failed} line(s) were not as announced"))
            return 1
        print(self.paint("32", text))
        return 0


class Records:
    """doorward's own records."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def all(self):
        """Every record so far, in order."""
        lines = self.path.read_text().splitlines(keepends=True)
        # The last line may still be under way, and the log may go to the same file.
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def decisions(self):
        """Every decision record so far, by id, in order."""
        return {record["id"]: record for record in self.all() if record["kind"] == "decision"}

    def of(self, decision_id):
        return wait_for(lambda: self.decisions().get(decision_id), 2)


def wait_for(condition, timeout_s):
    """The first true value of `condition()`, asked each 10 ms until then, or a false one."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.01)


def run(main):
    """`main(folder, numbers)` with the arguments `FOLDER name=number ...`, and its exit status."""
    numbers = {name: int(number) for name, number in (pair.split("=") for pair in sys.argv[2:])}
    try:
        sys.exit(main(pathlib.Path(sys.argv[1]), numbers))
    except KeyboardInterrupt:
        sys.exit(130)
