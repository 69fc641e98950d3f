"""Makes the demo's calls through Envoy, tells what comes back, and judges it against what was announced.

    calls.py FOLDER name=port ...

Each decision is read from doorward's own record, found by the id that the call carried. Exits 0 only if every line was
as announced.
"""

import collections
import http.client
import os
import pathlib
import re
import secrets
import shutil

from inbound import Expected, Inbound, traceparent
from story import run, wait_for

ORDERS = "spiffe://shop.example/ns/shop/sa/orders"
HERE = pathlib.Path(__file__).resolve().parent


class Demo:
    def __init__(self, folder, numbers):
        self.folder = folder
        self.operations, self.pid = numbers["operations"], numbers["doorward_pid"]
        self.inbound = Inbound(folder, numbers["inbound"], ORDERS)
        self.screen = self.inbound.screen

    def counters(self):
        """The decision counters of /metrics, as {(decision, reason): count}."""
        connection = http.client.HTTPConnection("127.0.0.1", self.operations, timeout=2)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        counts = collections.Counter()
        for labels, value in re.findall(r"^doorward_decisions_total\{(.*)\} (\S+)$", text, re.MULTILINE):
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            counts[pairs["decision"], pairs["reason"]] += int(float(value))
        return counts

    def change_policy(self):
        self.screen.scene("The policy changes on disk")
        self.screen.line("change/writers.rego goes into the policy folder; announced: the write is allowed within 1 s")
        target = self.folder / "policy" / "writers.rego"
        # Moved in whole: half a file would be a policy that does not parse, refused with a line in the log.
        shutil.copy(HERE / "change" / "writers.rego", self.folder / "writers.rego")
        os.replace(self.folder / "writers.rego", target)
        self.inbound.await_change("the write is allowed", "frontend", "POST", "/orders", 200)
        expected = Expected(200, "allow", "policy", "write-orders")
        self.inbound.call("The write again", "frontend", "POST", "/orders", expected)
        self.screen.scene("The policy changes back")
        self.screen.line("the file is taken out again; announced: the write is refused within 1 s")
        target.unlink()
        self.inbound.await_change("the write is refused", "frontend", "POST", "/orders", 403)

    def telemetry(self, trace_id):
        self.screen.scene("The same decisions in the telemetry")
        self.screen.line("announced: a record for each call, the same counts in /metrics, the trace at the collector")
        asked, decisions = self.inbound.decision_ids, self.inbound.records.decisions
        wait_for(lambda: decisions().keys() == asked, 2)
        records = decisions()
        self.screen.judge(records.keys() == asked, f"{len(asked)} calls and {len(records)} records, the same ids")
        in_records = collections.Counter((r["body"]["decision"], r["body"]["reason"]) for r in records.values())
        wait_for(lambda: self.counters() == in_records, 2)
        counted = self.counters()
        counts = ", ".join(f"{count} × {decision} {reason}" for (decision, reason), count in sorted(counted.items()))
        self.screen.judge(counted == in_records, f"/metrics: {counts}")
        traced = [r["id"] for r in records.values() if r["body"].get("trace_id") == trace_id]
        self.screen.judge(len(traced) == 1, f"the first call's record has its caller's trace {trace_id}")
        collector_log = self.folder / "collector.log"
        arrived = wait_for(lambda: trace_id in collector_log.read_text(), 10)
        self.screen.judge(arrived, "the collector has that trace")

    def memory(self):
        self.screen.scene("What it takes")
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        resident_mib = int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024
        text = f"doorward's resident memory: {resident_mib:.1f} MiB"
        if "DOORWARD_BIN" in os.environ:
            # It may be an unoptimised build, whose code alone takes more.
            self.screen.line(text)
        else:
            self.screen.judge(resident_mib < 40, f"{text} (goal: under 40)")

    def run(self):
        """The whole demo, and its exit status."""
        trace_id = secrets.token_hex(16)
        allowed = Expected(200, "allow", "policy", "read-orders")
        refused = Expected(403, "deny", "policy", "default")
        unknown = Expected(403, "deny", "policy", "unknown-caller")
        two_names = Expected(403, "deny", "multiple_uri_sans")
        call = self.inbound.call
        call("A read", "frontend", "GET", "/orders/42", allowed, traceparent(trace_id))
        call("A write", "frontend", "POST", "/orders", refused)
        call("The same read by another workload", "reports", "GET", "/orders/42", refused)
        call("A caller without a certificate", None, "GET", "/orders/42", unknown)
        call("A certificate with two URI SANs", "two-names", "GET", "/orders/42", two_names)
        self.change_policy()
        self.telemetry(trace_id)
        self.memory()
        return self.screen.end()


if __name__ == "__main__":
    run(lambda folder, numbers: Demo(folder, numbers).run())
