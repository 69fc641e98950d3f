"""A batch job calls in and outside of its hours, and what comes back is judged against what was announced.

    calls.py FOLDER name=port ...

Nobody turns the clock: the night is moved in the registry instead, to where now lies in it and to where it does not. What
the entry as it is written would decide at other times, `doorward eval --at` tells ($DOORWARD is the program). Exits 0
only if every line was as announced.
"""

import datetime
import json
import os
import pathlib
import subprocess

from inbound import Expected, Inbound
from layout import derive
from story import run

LEDGER = "spiffe://shop.example/ns/finance/sa/ledger"
CLOSING = "spiffe://shop.example/ns/batch/sa/closing"
REGISTRY = pathlib.Path(__file__).resolve().parent / "documents" / "doorward" / "workloads.yaml"
NIGHT = ("01:00", "04:00", "Europe/Berlin")

ALLOWED = Expected(200, "allow", "policy", "registry")
REFUSED = Expected(403, "deny", "policy", "schedule")


def around_now(*hours):
    """Clock times of UTC, so many hours from now."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return [(now + datetime.timedelta(hours=hour)).strftime("%H:%M") for hour in hours]


def asked_at(folder, moment):
    """What would be decided about the job's call at another time, by the registry in force."""
    command = [os.environ["DOORWARD"], "eval", "--config", folder / "doorward.yaml", "--output", "json", "--at", moment]
    command += ["--method", "POST", "--path", "/ledger/close", "--peer", CLOSING]
    return json.loads(subprocess.run(command, capture_output=True, text=True).stdout)


def main(folder, ports):
    inbound = Inbound(folder, ports["inbound"], LEDGER)
    screen = inbound.screen

    def move_night(title, hours, outcome, status):
        now, start, end = around_now(0, *hours)
        screen.scene(title)
        screen.line(f"it is {now} UTC, and the schedule from {start} to {end} UTC; announced: {outcome} within 1 s")
        # Moved in whole: half a file would be a registry that cannot be read, refused with a line in the log.
        derive(REGISTRY, folder / "workloads.yaml", dict(zip(NIGHT, (start, end, "UTC"))))
        os.replace(folder / "workloads.yaml", folder / "documents" / "doorward" / "workloads.yaml")
        inbound.await_change(outcome, "closing", "POST", "/ledger/close", status)

    for moment, allowed in (("2026-11-24T01:30:00+01:00", True), ("2026-11-24T12:00:00+01:00", False)):
        decision = "allow" if allowed else "deny"
        screen.scene(f"The registry as it is written, asked about {moment}")
        screen.line(f"POST /ledger/close as closing; announced: {decision}")
        answer = asked_at(folder, moment)
        screen.judge(answer["decision"] == decision, f"doorward eval --at: {answer['decision']}")
    move_night("The night is now", (-1, 1), "the call is allowed", 200)
    inbound.call("The job closes the books", "closing", "POST", "/ledger/close", ALLOWED)
    move_night("The night is elsewhere", (2, 5), "the call is refused", 403)
    inbound.call("The same job, the same certificate, the same call", "closing", "POST", "/ledger/close", REFUSED)
    inbound.call("Reading is no exception: the hours are the caller's", "closing", "GET", "/ledger/today", REFUSED)
    inbound.call("Whoever has no schedule may call at any time", "auditor", "GET", "/ledger/today", ALLOWED)
    return screen.end()


if __name__ == "__main__":
    run(main)
