"""An agent is granted one refund, and revoked: tells what everybody does and what comes of it, and judges that.

    calls.py FOLDER name=port ...

$DOORWARD is the program, for what agent and people do by its commands. Exits 0 only if every line was as announced.
"""

import datetime
import http.client
import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from inbound import Expected, Inbound
from story import run, wait_for

PAYMENTS = "spiffe://shop.example/ns/shop/sa/payments"
AGENT = "spiffe://shop.example/ns/ai/sa/agent"
OWNER, ESCALATION = "kim@shop.example", "payments-oncall"
REFUND, OTHER_REFUND = "/payments/4711/refund", "/payments/4712/refund"
TASK = "case-4711"

NEEDS_GRANT = Expected(403, "deny", "grant_required")
ALLOWED = Expected(200, "allow", "policy", "registry")
REVOKED = Expected(403, "deny", "revoked")
ALERTS = ["DoorwardRevocation", "DoorwardRevokedUse"]
# From the start of the command to the last byte of a stream, and to what Alertmanager says of it.
CUT_GOAL_S = 1.0
ALERT_GOAL_S = 5.0


class Stream(threading.Thread):
    """A live stream, read to its end: how much has come, and when the last of it did."""

    def __init__(self, inbound, who):
        super().__init__(daemon=True)
        connection = inbound.connect(who)
        connection.request("GET", "/events")
        self.response = connection.getresponse()
        self.pieces, self.last, self.broken = 0, None, False
        self.start()

    def run(self):
        try:
            while self.response.read1(1024):
                self.pieces, self.last = self.pieces + 1, time.time()
        except (OSError, http.client.HTTPException):
            # Without the chunk that ends an answer.
            self.broken = True

    def goes_on(self):
        before = self.pieces
        return self.is_alive() and wait_for(lambda: self.pieces >= before + 20, 2)


class Pager(http.server.BaseHTTPRequestHandler):
    """Whom Alertmanager notifies: when which alert came first, by receiver and name."""

    heard = {}

    def do_POST(self):
        notification = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in notification["alerts"]:
            self.heard.setdefault((self.path.removeprefix("/"), alert["labels"]["alertname"]), time.time())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Incident:
    def __init__(self, folder, ports):
        self.folder, self.ports = folder, ports
        self.inbound = Inbound(folder, ports["inbound"], PAYMENTS)
        self.screen, self.records = self.inbound.screen, self.inbound.records
        self.scene, self.line, self.judge = self.screen.scene, self.screen.line, self.screen.judge
        pager = http.server.ThreadingHTTPServer(("127.0.0.1", ports["pager"]), Pager)
        threading.Thread(target=pager.serve_forever, daemon=True).start()

    def command(self, who, *words):
        """A command of doorward's: of the agent with its SVID, of a person with a token, or of this user id at the socket."""
        certs = self.folder / "certs"
        if who is None:
            how = ["--control", f"unix://{self.folder}/control.sock"]
        else:
            how = ["--control", f"tcp://127.0.0.1:{self.ports['control']}", "--ca", certs / "ca.crt"]
            if who == "agent":
                how += ["--svid", certs / "agent.crt", "--svid-key", certs / "agent.key"]
            else:
                how += ["--token-file", self.folder / f"{who}.jwt"]
        start = time.perf_counter()
        done = subprocess.run([os.environ["DOORWARD"], *words, *how], capture_output=True, text=True)
        elapsed_ms = (time.perf_counter() - start) * 1000
        shown = " ".join(shortened(word) for word in words).removesuffix(" --output json")
        self.line(f"{who or 'user id ' + str(os.getuid())}$ doorward {shown}   ({elapsed_ms:.0f} ms)")
        return done

    def told(self, who, *words):
        """What a command that must succeed says, as JSON."""
        done = self.command(who, *words, "--output", "json")
        if done.returncode:
            self.judge(False, done.stderr.strip())
            raise SystemExit(self.screen.end())
        return json.loads(done.stdout)

    def is_refused(self, who, grant, because):
        """`who` may not approve, and is told why."""
        done = self.command(who, "grant", "approve", grant)
        self.judge(done.returncode == 2 and because in done.stderr, f"refused: {done.stderr.strip().removeprefix('error: ')}")

    def run(self):
        self.streams()
        grant = self.request(self.denial())
        self.separation(grant)
        self.use(grant)
        self.task_ends(grant)
        self.revocation()
        self.alert()
        self.proof(grant)
        return self.screen.end()

    def streams(self):
        self.scene("The agent and a monitor have the stream of events open")
        self.agent, self.monitor = (Stream(self.inbound, who) for who in ("agent", "monitor"))
        for who, stream in (("agent", self.agent), ("monitor", self.monitor)):
            good = stream.response.status == 200 and stream.goes_on()
            self.judge(good, f"{who}: HTTP {stream.response.status}, {stream.pieces} pieces so far")

    def denial(self):
        self.scene("The agent pays back, by the registry alone")
        self.line(f"POST {REFUND} as agent; announced: HTTP 403, {NEEDS_GRANT}, and how to ask for a grant")
        answer = self.inbound.ask("agent", "POST", REFUND)
        self.inbound.judge(answer, NEEDS_GRANT)
        offer = json.loads(answer.body).get("context", {}).get("access_request", {})
        token = offer.get("binding_token", "")
        where = f"a grant is asked for at {offer.get('endpoint')}"
        self.judge(token != "", f"its body: {where}, with a binding_token ({len(token)} bytes)")
        return token

    def request(self, token):
        self.scene("It asks for a grant, over mTLS and for itself, for the task that it is at")
        words = ["--task", TASK, "--for", "5m", "--reason", "parcel is lost", "--binding-token", token]
        grant = self.told("agent", "grant", "request", *words)["grant"]
        scope, known = grant["scope"], grant["known"]
        good = (grant["state"], scope["resources"], known["owner"]) == ("open", ["order/4711"], OWNER)
        self.judge(good, f"{grant['state']}: {scope['actions'][0]} of {scope['resources'][0]}; owner {known['owner']}")
        self.inbound.call("To ask permits nothing", "agent", "POST", REFUND, NEEDS_GRANT)
        return grant["id"]

    def separation(self, grant):
        self.scene("Who must not approve is told why")
        self.is_refused("kim", grant, "who owns")
        self.is_refused("agent", grant, "says no")
        self.is_refused(None, grant, "says no")
        self.scene("Alice asks for another refund, and cannot approve her own request")
        words = ["--subject", AGENT, "--action", "payments.refund", "--resource", "order/4712", "--reason", "same case"]
        hers = self.told("alice", "grant", "request", *words)["grant"]["id"]
        self.is_refused("alice", hers, "who has asked")
        self.told("alice", "grant", "end", hers, "--reason", "not needed")

    def use(self, grant):
        self.scene("Bob has neither asked nor owns the agent, and approves")
        state = self.told("bob", "grant", "approve", grant)["grant"]["state"]
        self.judge(state == "live", f"the grant is {state}")
        body = self.inbound.call("The same call with the same certificate", "agent", "POST", REFUND, ALLOWED)
        self.judge(bool(body) and body.get("grant") == grant, f"its record names the grant {grant}")
        self.inbound.call("Another order is not in it", "agent", "POST", OTHER_REFUND, NEEDS_GRANT)

    def task_ends(self, grant):
        self.scene("The parcel is found: the task ends, and all that was granted for it")
        ended = self.told(None, "task", "end", TASK, "--reason", "parcel found")["grants"]
        self.judge([one["id"] for one in ended] == [grant], f"{len(ended)} grant ended")
        self.inbound.call("The same call once more", "agent", "POST", REFUND, NEEDS_GRANT)
        self.judge(self.agent.goes_on(), "the agent's stream goes on: it was not part of the task")

    def revocation(self):
        self.scene("The agent goes on trying; who is on duty revokes it")
        self.started = time.time()
        told = self.told(None, "revoke", "--spiffe-id", AGENT, "--reason", "refunds without a case", "--wait")
        answered = time.time()
        receipt, self.revoked = told["receipt"], told["revocation"]["id"]
        ended = int(told.get("streams", 0))
        self.judge(ended == 1, f"answered: number {receipt['rev']} of the log, {ended} live stream ended")
        body = self.inbound.call("Its next call", "agent", "POST", REFUND, REVOKED)
        self.judge(bool(body) and body.get("revocation") == self.revoked, "its record names the revocation")
        self.scene("Its stream, which was allowed when it opened")
        # Over HTTP/1.1 Envoy closes the connection a second after the last byte.
        self.agent.join(5)
        self.judge(self.agent.broken, "broke off without its end")
        applied, last = seconds(receipt["applied"][0]["at"]), self.agent.last
        for at, what in sorted([(applied, "in force"), (last, "last byte of the stream"), (answered, "command answered")]):
            self.line(f"{self.since(at):6.1f} ms from the start of the command: {what}")
        good = last - self.started < CUT_GOAL_S
        self.judge(good, f"the last byte came {self.since(last):.1f} ms after the command was given; one comes each 5 ms")
        self.judge(bool(self.monitor.goes_on()), f"the monitor's goes on, {self.monitor.pieces} pieces so far")

    def since(self, moment):
        """Milliseconds since the command that revoked."""
        return (moment - self.started) * 1000

    def alert(self):
        self.scene("Whoever has to know is told, by what the registry says of the agent")
        for name in ALERTS:
            labels = wait_for(lambda: self.alert_labels(name), ALERT_GOAL_S) or {}
            owner, escalation = labels.get("owner"), labels.get("escalation")
            text = f"owner {owner}, escalation {escalation}, severity {labels.get('severity')}"
            self.judge((owner, escalation) == (OWNER, ESCALATION), f"{name} is at Alertmanager: {text}")
        for receiver in ("security", ESCALATION):
            for name in ALERTS:
                at = wait_for(lambda: Pager.heard.get((receiver, name)), ALERT_GOAL_S)
                when = f"{self.since(at):.0f} ms after the command was given" if at else "not yet"
                self.judge(bool(at), f"{receiver} has heard of {name}, {when}")

    def alert_labels(self, name):
        """Labels of the agent's alert of that name, as Alertmanager has it."""
        matchers = urllib.parse.urlencode([("filter", f'alertname="{name}"'), ("filter", f'principal="{AGENT}"')])
        url = f"http://127.0.0.1:{self.ports['alertmanager']}/api/v2/alerts?{matchers}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return next((alert["labels"] for alert in json.load(answer)), None)

    def proof(self, grant):
        records = wait_for(self.whole, 2) or []
        self.scene("All of it is on record")
        for record in records:
            self.line(f"{record['at'][11:23]} {told_of(record['kind'], record['body'])}")
        bodies = [record["body"] for record in records]
        refused = [body for body in bodies if body.get("outcome") == "PERMISSION_DENIED"]
        self.judge(len(refused) == 4, f"{len(refused)} refused approvals")
        used = [record["id"] for record in records if record["body"].get("grant") == grant]
        self.judge(len(used) == 1, f"{len(used)} call under the grant {grant}")
        ends = [body for body in bodies if "lasted_ms" in body]
        good = [(body["reason"], body["principal"]) for body in ends] == [("revoked", AGENT)]
        self.judge(good, f"{len(ends)} stream ended: the agent's")
        revoked = [record["id"] for record in records if record["body"].get("revocation") == self.revoked]
        self.explain("Why the refund was allowed", used, grant)
        self.explain("Why the last call was refused", revoked, self.revoked)

    def explain(self, title, decisions, why):
        """Asks doorward about the only one of `decisions`, whose reason has to name `why`."""
        self.scene(title)
        text = self.command(None, "explain", *decisions).stdout
        head, _, rest = text.partition("\nlines that were evaluated:\n")
        # Every line of the policy, and all that it has read, is more than is wanted here.
        for line in [*head.splitlines(), *(line.strip() for line in rest.splitlines() if line.startswith("  grants = "))]:
            if line:
                self.line(line)
        self.judge(why in text, f"it names {why}")

    def whole(self):
        """The records so far, in the order of their times, once the end of the stream is among them."""
        records = sorted(self.records.all(), key=lambda record: record["at"])
        return any(record["kind"] == "stream_end" for record in records) and records


def shortened(word):
    """A word of a command as it is shown."""
    if len(word) > 60:
        return f"{word[:16]}…"
    return f"'{word}'" if " " in word else word


def told_of(kind, body):
    """A record in one line."""
    if kind == "decision":
        why = body.get("grant") or body.get("revocation")
        by = f", by {why}" if why else ""
        return f"{kind:10} {name_of(body['principal'])}: {body['action']['name']}: {body['decision']}, {body['reason']}{by}"
    if kind == "control":
        caller = body["caller"]
        who = caller.get("person", {}).get("name") or caller.get("spiffe_id") or f"user id {caller.get('uid')}"
        called = body["method"].removeprefix("doorward.v1.")
        return f"{kind:10} {name_of(who)}: {called}: {body['outcome']}, {body['detail']}"
    if kind == "stream_end":
        return f"{kind:10} {name_of(body['principal'])}: {body['reason']} after {body['lasted_ms']} ms"
    return f"{kind:10} {body['outcome']}"


def name_of(principal):
    return principal.rsplit("/", 1)[-1]


def seconds(text):
    """RFC 3339 in UTC, whose nanoseconds Python does not read, to seconds since 1970."""
    return datetime.datetime.fromisoformat(text.removesuffix("Z")[:26] + "+00:00").timestamp()


if __name__ == "__main__":
    run(lambda folder, ports: Incident(folder, ports).run())
