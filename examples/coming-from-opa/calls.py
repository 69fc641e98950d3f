"""Makes calls through Envoy, says what was announced and what came back, and asks the real OPA about the same inputs.

    calls.py FOLDER PORT [OPA]

Exits 0 only if every line was as announced.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import subprocess
import sys
import time
import typing

SECRET = b"not-a-secret-in-an-example"


class Call(typing.NamedTuple):
    """A call, and what is announced of it."""

    title: str
    method: str
    path: str
    role: str | None
    status: int
    body: dict | None = None
    expires_in_s: int = 600
    # Headers of the answer, and of the request as it reached the workload; None for one that must not be there.
    answer: dict = {}
    upstream: dict = {}
    text: str | None = None


CALLS = [
    Call("Anybody may ask for the service's health", "GET", "/health", None, 200, answer={"x-policy": "orders"}),
    Call("Orders without a token", "GET", "/orders", None, 401, answer={"www-authenticate": "Bearer"}),
    Call(
        "A reader reads an order; the policy replaces the token by who it is",
        "GET",
        "/orders/42?verbose=1",
        "reader",
        200,
        upstream={"x-user": "ann", "x-role": "reader", "authorization": None},
    ),
    Call("The same with a token that has expired", "GET", "/orders/42", "reader", 401, expires_in_s=-60),
    Call("A reader places an order", "POST", "/orders", "reader", 403, body={"amount": 50}, text="ann may not POST this\n"),
    Call("A clerk places an order", "POST", "/orders", "clerk", 200, body={"amount": 50}, upstream={"x-role": "clerk"}),
    Call("A clerk places one that is too large", "POST", "/orders", "clerk", 403, body={"amount": 5000}),
]


class Screen:
    """What the reader sees. Colours only where they are not in the way of another program."""

    def __init__(self):
        sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
        self.coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.failed = 0

    def paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.coloured else text

    def judge(self, good, text):
        mark = self.paint("32", "✓") if good else self.paint("31", "✗")
        print(f"  {mark} {text}")
        self.failed += not good


def token(role, expires_in_s):
    """A JSON Web Token as the policy wants it."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": "ann", "role": role, "exp": int(time.time()) + expires_in_s}
    signed = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
    return (signed + b"." + part(hmac.digest(SECRET, signed, hashlib.sha256))).decode()


def send(port, call):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {}
    if call.role:
        headers["authorization"] = f"Bearer {token(call.role, call.expires_in_s)}"
    if call.body is not None:
        headers["content-type"] = "application/json"
    try:
        connection.request(call.method, call.path, body=json.dumps(call.body) if call.body else None, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def differences(call, status, headers, text):
    """What is otherwise than announced."""
    found = [] if status == call.status else [f"status {status}, not {call.status}"]
    for name, value in call.answer.items():
        if headers.get(name) != value:
            found.append(f"the answer has {name}: {headers.get(name)}, not {value}")
    reached = json.loads(text) if status == 200 else {}
    for name, value in call.upstream.items():
        if reached.get(name) != value:
            found.append(f"the workload got {name}: {reached.get(name)}, not {value}")
    if call.text is not None and text != call.text:
        found.append(f"the body is {text!r}")
    return found


def records(folder):
    """The decisions so far, in order."""
    lines = (folder / "records.log").read_text().splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["body"] for record in found if record["kind"] == "decision"]


def wait_for(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.01)


def ask_opa(opa, folder, document):
    """What the real OPA answers to the same input."""
    command = [opa, "eval", "--format", "json", "--stdin-input", "--data", folder / "policy", "data.envoy.authz.result"]
    answer = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)["result"][0]["expressions"][0]["value"]


def main(folder, port, opa):
    screen = Screen()
    for number, call in enumerate(CALLS, 1):
        print(f"\n{screen.paint('1', call.title)}")
        who = f"as a {call.role}" if call.role else "without a token"
        print(f"    {call.method} {call.path} {who}; announced: HTTP {call.status}")
        status, headers, text = send(port, call)
        found = differences(call, status, headers, text)
        screen.judge(not found, "; ".join(found) or f"HTTP {status}, headers and body as announced")
        if not wait_for(lambda: len(records(folder)) >= number, 5):
            screen.judge(False, "there is no record of it")
            continue
        record = records(folder)[number - 1]
        if opa:
            theirs = ask_opa(opa, folder, record["input"])
            same = theirs == record["result"]
            screen.judge(same, f"the real OPA answers the same: {json.dumps(theirs)}" if same else f"OPA answers {theirs}")
    print()
    if not opa:
        print("OPA is not installed, so it was not asked: bash tests/peers.sh opa")
    if screen.failed:
        print(screen.paint("31", f"{screen.failed} line(s) were not as announced"))
        return 1
    print(screen.paint("32", "All as announced, and not a line of the policy was changed."))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
    except KeyboardInterrupt:
        sys.exit(130)
