"""Makes the demo's calls through Envoy, tells what comes back, and judges it against what was announced.

    calls.py FOLDER name=port ...

Each decision is read from doorward's own record, found by the id that the call carried. Exits 0 only if every line was
as announced.
"""

import collections
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import ssl
import sys
import time
import typing

ORDERS = "spiffe://shop.example/ns/shop/sa/orders"
HERE = pathlib.Path(__file__).resolve().parent
# A policy on disk is in force within this, the demo promises.
RELOAD_GOAL_S = 1.0


class Expected(typing.NamedTuple):
    """What is announced of a call."""

    status: int
    decision: str
    reason: str
    rule: str | None = None


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


class Doorward:
    """What doorward shows of its own: its records, its metrics, its readiness."""

    def __init__(self, folder, port):
        self.records_path = folder / "records.jsonl"
        self.port = port

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def decisions(self):
        """Every decision record so far, by id."""
        found = {}
        for line in self.records_path.read_text().splitlines(keepends=True):
            # The last line may still be under way.
            if line.endswith("\n"):
                record = json.loads(line)
                if record["kind"] == "decision":
                    found[record["id"]] = record
        return found

    def record(self, decision_id):
        return wait_for(lambda: self.decisions().get(decision_id), 2)

    def counters(self):
        """The decision counters of /metrics, as {(decision, reason): count}."""
        _, text = self.get("/metrics")
        counts = collections.Counter()
        for labels, value in re.findall(r"^doorward_decisions_total\{(.*)\} (\S+)$", text, re.MULTILINE):
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            counts[pairs["decision"], pairs["reason"]] += int(float(value))
        return counts


class Answer:
    """One HTTP answer, and how long it took on a connection that was already open."""

    def __init__(self, response, elapsed_s):
        self.status = response.status
        self.elapsed_ms = elapsed_s * 1000
        body = response.read()
        self.decision_id = response.headers.get("x-doorward-decision-id")
        if self.decision_id is None and self.status == 200:
            # An allowed call carries the id upstream, and the workload tells it.
            self.decision_id = json.loads(body)["decision_id"]


def call(folder, port, who, method, path, trace_id=None):
    """One call over mTLS as `who`, a name in certs/, or without a certificate as None."""
    certs = folder / "certs"
    context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
    # A SPIFFE peer is known by its URI SAN, compared below, and has no host name.
    context.check_hostname = False
    if who:
        context.load_cert_chain(certs / f"{who}.crt", certs / f"{who}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=5)
    try:
        connection.connect()
        names = [value for kind, value in connection.sock.getpeercert()["subjectAltName"] if kind == "URI"]
        if names != [ORDERS]:
            raise ssl.SSLError(f"the server is {names}, not {ORDERS}")
        headers = {}
        if trace_id:
            headers["traceparent"] = f"00-{trace_id}-{secrets.token_hex(8)}-01"
        start = time.perf_counter()
        connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers)
        return Answer(connection.getresponse(), time.perf_counter() - start)
    finally:
        connection.close()


class Demo:
    def __init__(self, folder, ports):
        self.folder = folder
        self.inbound = ports["inbound"]
        self.doorward = Doorward(folder, ports["operations"])
        self.screen = Screen()
        self.decision_ids = set()

    def ask(self, who, method, path, trace_id=None):
        answer = call(self.folder, self.inbound, who, method, path, trace_id)
        if answer.decision_id:
            self.decision_ids.add(answer.decision_id)
        return answer

    def announce_and_call(self, title, who, method, path, expected, trace_id=None):
        """Says what is going to be asked and what must come back, asks, and judges."""
        self.screen.scene(title)
        caller = f"as {who}" if who else "without a certificate"
        self.screen.line(
            f"{method} {path} {caller}; announced: {expected.decision} ({wording(expected.reason, expected.rule)})"
        )
        try:
            answer = self.ask(who, method, path, trace_id)
        except (OSError, http.client.HTTPException) as error:
            self.screen.judge(False, f"no answer: {error}")
            return
        record = self.doorward.record(answer.decision_id) if answer.decision_id else None
        if record is None:
            self.screen.judge(False, f"HTTP {answer.status}, and no record of a decision")
            return
        body = record["body"]
        found = Expected(answer.status, body["decision"], body["reason"], body.get("rule"))
        self.screen.judge(
            found == expected,
            f"HTTP {found.status} in {answer.elapsed_ms:.1f} ms, of which doorward {body['latency_us']} µs: "
            f"{found.decision} ({wording(found.reason, found.rule)})",
        )
        if body.get("policy_reason"):
            self.screen.line(f"because {body['policy_reason']}")
        peer = body.get("peer", {}).get("spiffe_id", "not proved")
        self.screen.line(f"peer {peer}, decision {record['id']}")

    def await_change(self, what, status):
        """Repeats the write until it gets `status`, and judges how long that took."""
        start = time.perf_counter()
        reached = wait_for(lambda: self.ask("frontend", "POST", "/orders").status == status, 5)
        elapsed = time.perf_counter() - start
        if reached:
            self.screen.judge(elapsed < RELOAD_GOAL_S, f"{what} after {elapsed * 1000:.0f} ms, nothing restarted")
        else:
            self.screen.judge(False, f"{what}: not within 5 s")

    def change_policy(self):
        self.screen.scene("The policy changes on disk")
        self.screen.line("change/writers.rego goes into the policy folder; announced: the write is allowed within 1 s")
        target = self.folder / "policy" / "writers.rego"
        # Moved in whole: half a file would be a policy that does not parse, refused with a line in the log.
        shutil.copy(HERE / "change" / "writers.rego", self.folder / "writers.rego")
        os.replace(self.folder / "writers.rego", target)
        self.await_change("the write is allowed", 200)
        expected = Expected(200, "allow", "policy", "write-orders")
        self.announce_and_call("The write again", "frontend", "POST", "/orders", expected)
        self.screen.scene("The policy changes back")
        self.screen.line("the file is taken out again; announced: the write is refused within 1 s")
        target.unlink()
        self.await_change("the write is refused", 403)

    def telemetry(self, trace_id):
        self.screen.scene("The same decisions in the telemetry")
        self.screen.line("announced: a record for each call, the same counts in /metrics, the trace at the collector")
        wait_for(lambda: self.doorward.decisions().keys() == self.decision_ids, 2)
        records = self.doorward.decisions()
        self.screen.judge(
            records.keys() == self.decision_ids,
            f"{len(self.decision_ids)} calls and {len(records)} records, the same ids",
        )
        in_records = collections.Counter((r["body"]["decision"], r["body"]["reason"]) for r in records.values())
        wait_for(lambda: self.doorward.counters() == in_records, 2)
        counted = self.doorward.counters()
        counts = ", ".join(f"{count} × {decision} {reason}" for (decision, reason), count in sorted(counted.items()))
        self.screen.judge(counted == in_records, f"/metrics: {counts}")
        traced = [r["id"] for r in records.values() if r["body"].get("trace_id") == trace_id]
        self.screen.judge(len(traced) == 1, f"the first call's record has its caller's trace {trace_id}")
        collector_log = self.folder / "collector.log"
        arrived = wait_for(lambda: trace_id in collector_log.read_text(), 10)
        self.screen.judge(arrived, "the collector has that trace")

    def memory(self, pid):
        self.screen.scene("What it takes")
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        resident_mib = int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024
        text = f"doorward's resident memory: {resident_mib:.1f} MiB"
        if "DOORWARD_BIN" in os.environ:
            # It may be an unoptimised build, whose code alone takes more.
            self.screen.line(text)
        else:
            self.screen.judge(resident_mib < 40, f"{text} (goal: under 40)")

    def run(self, pid):
        """The whole demo; how many lines were not as announced."""
        trace_id = secrets.token_hex(16)
        allowed = Expected(200, "allow", "policy", "read-orders")
        refused = Expected(403, "deny", "policy", "default")
        unknown = Expected(403, "deny", "policy", "unknown-caller")
        two_names = Expected(403, "deny", "multiple_uri_sans")
        self.announce_and_call("A read", "frontend", "GET", "/orders/42", allowed, trace_id)
        self.announce_and_call("A write", "frontend", "POST", "/orders", refused)
        self.announce_and_call("The same read by another workload", "reports", "GET", "/orders/42", refused)
        self.announce_and_call("A caller without a certificate", None, "GET", "/orders/42", unknown)
        self.announce_and_call("A certificate with two URI SANs", "two-names", "GET", "/orders/42", two_names)
        self.change_policy()
        self.telemetry(trace_id)
        self.memory(pid)
        return self.screen.failed


def wording(reason, rule):
    return f"{reason}, rule `{rule}`" if rule else reason


def wait_for(condition, timeout_s):
    """The first true value of `condition()`, asked each 10 ms until then, or a false one."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.01)


def main(folder, ports, pid):
    demo = Demo(folder, ports)
    failed = demo.run(pid)
    print()
    if failed:
        print(demo.screen.paint("31", f"{failed} line(s) were not as announced"))
        return 1
    print(demo.screen.paint("32", "All as announced."))
    return 0


if __name__ == "__main__":
    numbers = {name: int(number) for name, number in (pair.split("=") for pair in sys.argv[2:])}
    try:
        sys.exit(main(pathlib.Path(sys.argv[1]), numbers, numbers["doorward_pid"]))
    except KeyboardInterrupt:
        sys.exit(130)
