"""Makes calls through Envoy, says what was announced and what came back, and asks the real OPA ($OPA) about the same inputs.

    calls.py FOLDER name=port ...

Exits 0 only if every line was as announced.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import time
import typing

from story import Records, Screen, run, wait_for

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
    reached = json.loads(text)["headers"] if status == 200 else {}
    for name, value in call.upstream.items():
        if reached.get(name) != value:
            found.append(f"the workload got {name}: {reached.get(name)}, not {value}")
    if call.text is not None and text != call.text:
        found.append(f"the body is {text!r}")
    return found


def ask_opa(opa, folder, document):
    """What the real OPA answers to the same input."""
    command = [opa, "eval", "--format", "json", "--stdin-input", "--data", folder / "policy", "data.envoy.authz.result"]
    answer = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)["result"][0]["expressions"][0]["value"]


def main(folder, ports):
    opa = os.environ.get("OPA")
    screen = Screen()
    # doorward writes its records where OPA wrote its decisions: among what it logs.
    records = Records(folder / "doorward.log")
    for number, call in enumerate(CALLS, 1):
        screen.scene(call.title)
        who = f"as a {call.role}" if call.role else "without a token"
        screen.line(f"{call.method} {call.path} {who}; announced: HTTP {call.status}")
        status, headers, text = send(ports["inbound"], call)
        found = differences(call, status, headers, text)
        screen.judge(not found, "; ".join(found) or f"HTTP {status}, headers and body as announced")
        if not wait_for(lambda: len(records.decisions()) >= number, 5):
            screen.judge(False, "there is no record of it")
            continue
        body = list(records.decisions().values())[number - 1]["body"]
        if opa:
            theirs = ask_opa(opa, folder, body["input"])
            same = theirs == body["result"]
            screen.judge(same, f"the real OPA answers the same: {json.dumps(theirs)}" if same else f"OPA answers {theirs}")
    if not opa:
        screen.scene("OPA is not installed, so it was not asked: bash tests/peers.sh opa")
    return screen.end("All as announced, and not a line of the policy was changed.")


if __name__ == "__main__":
    run(main)
