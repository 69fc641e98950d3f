"""Calls over mTLS through an Envoy in front of a workload, each announced, made, and judged by doorward's record of it."""

import http.client
import json
import secrets
import ssl
import time
import typing

from story import Records, Screen, wait_for

# A change on disk is in force within this, doorward promises.
RELOAD_GOAL_S = 1.0


class Expected(typing.NamedTuple):
    """What is announced of a call."""

    status: int
    decision: str
    reason: str
    rule: str | None = None

    def __str__(self):
        return f"{self.decision} ({self.reason}, rule `{self.rule}`)" if self.rule else f"{self.decision} ({self.reason})"


class Answer:
    """One HTTP answer, and how long it took on a connection that was already open."""

    def __init__(self, response, elapsed_s):
        self.status = response.status
        self.headers = response.headers
        self.elapsed_ms = elapsed_s * 1000
        self.body = response.read()
        self.decision_id = response.headers.get("x-doorward-decision-id")
        if self.decision_id is None and self.status == 200:
            # An allowed call carries the id upstream, and the workload tells it.
            self.decision_id = json.loads(self.body)["headers"].get("x-doorward-decision-id")


class Inbound:
    """The workload `server` behind Envoy on `port`, and its doorward. Callers are names in certs/."""

    def __init__(self, folder, port, server):
        self.folder, self.port, self.server = folder, port, server
        self.screen = Screen()
        self.records = Records(folder / "records.jsonl")
        self.decision_ids = set()

    def connect(self, who):
        """A connection as `who`, or without a certificate as None."""
        certs = self.folder / "certs"
        context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
        # A SPIFFE peer is known by its URI SAN, compared below, and has no host name.
        context.check_hostname = False
        if who:
            context.load_cert_chain(certs / f"{who}.crt", certs / f"{who}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=5)
        connection.connect()
        names = [value for kind, value in connection.sock.getpeercert()["subjectAltName"] if kind == "URI"]
        if names != [self.server]:
            connection.close()
            raise ssl.SSLError(f"the server is {names}, not {self.server}")
        return connection

    def ask(self, who, method, path, headers=None):
        """One call as `who`, or without a certificate as None."""
        connection = self.connect(who)
        try:
            start = time.perf_counter()
            connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers or {})
            answer = Answer(connection.getresponse(), time.perf_counter() - start)
        finally:
            connection.close()
        if answer.decision_id:
            self.decision_ids.add(answer.decision_id)
        return answer

    def call(self, title, who, method, path, expected, headers=None, detail=""):
        """Says what is going to be asked and what must come back, asks, and judges. The record's body, if there is one."""
        self.screen.scene(title)
        caller = f"as {who}" if who else "without a certificate"
        self.screen.line(f"{method} {path} {caller}{detail}; announced: HTTP {expected.status}, {expected}")
        try:
            answer = self.ask(who, method, path, headers)
        except (OSError, http.client.HTTPException) as error:
            self.screen.judge(False, f"no answer: {error}")
            return None
        return self.judge(answer, expected)

    def judge(self, answer, expected):
        """Judges an answer by doorward's record of its decision. The record's body, if there is one."""
        record = self.records.of(answer.decision_id) if answer.decision_id else None
        if record is None:
            self.screen.judge(False, f"HTTP {answer.status}, and no record of a decision")
            return None
        body = record["body"]
        found = Expected(answer.status, body["decision"], body["reason"], body.get("rule"))
        self.screen.judge(
            found == expected,
            f"HTTP {found.status} in {answer.elapsed_ms:.1f} ms, of which doorward {body['latency_us']} µs: {found}",
        )
        for text in (body.get("policy_reason"), body.get("detail")):
            if text:
                self.screen.line(f"because {text}")
        peer = body.get("peer", {}).get("spiffe_id", "not proved")
        self.screen.line(f"peer {peer}, decision {record['id']}")
        return body

    def await_change(self, what, who, method, path, status):
        """Repeats a call until it gets `status`, and judges how long that took."""
        start = time.perf_counter()
        reached = wait_for(lambda: self.ask(who, method, path).status == status, 5)
        elapsed = time.perf_counter() - start
        if reached:
            self.screen.judge(elapsed < RELOAD_GOAL_S, f"{what} after {elapsed * 1000:.0f} ms, nothing restarted")
        else:
            self.screen.judge(False, f"{what}: not within 5 s")


def traceparent(trace_id):
    """The header that makes a call part of a trace."""
    return {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
