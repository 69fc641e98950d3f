"""Two agents, each through its own Envoy: tells what they try and what comes of it, and judges that.

    agents.py FOLDER name=port ...

$DOORWARD is the program, to be asked for the path. Exits 0 only if every line was as announced.
"""

import asyncio
import contextlib
import json
import os
import subprocess

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from story import Records, Screen, run

ABROAD = {"url": "https://hooks.example/in", "text": "Ada Example, +43 1 234 567"}


# Versions up to 2025-11-25 have sessions, whose ids the server hands out. Those since then have none.
WITH_SESSIONS = "legacy"


class Story:
    def __init__(self, folder, ports):
        self.folder, self.ports = folder, ports
        self.screen = Screen()
        self.scene, self.judge = self.screen.scene, self.screen.judge
        self.sessions = []

    @contextlib.asynccontextmanager
    async def agent(self, name, version="auto"):
        """A new client, by default of the latest version of MCP."""

        async def note(response):
            self.sessions += [response.headers["mcp-session-id"]] if "mcp-session-id" in response.headers else []
            # In a status other than 200 not every client would look for an error of the call.
            if response.status_code not in (200, 202):
                self.judge(False, f"HTTP {response.status_code}")

        url = f"http://127.0.0.1:{self.ports[name]}/mcp"
        async with httpx2.AsyncClient(trust_env=False, timeout=10, event_hooks={"response": [note]}) as http:
            async with Client(streamable_http_client(url, http_client=http), mode=version) as client:
                yield client

    async def calls(self, session, tool, arguments):
        result = await session.call_tool(tool, arguments)
        self.judge(not result.is_error, f"{tool}: {result.content[0].text}")

    async def is_refused(self, agent, session, tool, arguments, reason, rule=None):
        try:
            result = await session.call_tool(tool, arguments)
            self.judge(False, f"{tool} was let through: {result}")
            return
        except MCPError as error:
            code, data = error.error.code, error.error.data or {}
        body = (Records(self.folder / f"{agent}.jsonl").of(data.get("decision_id")) or {}).get("body", {})
        said = body.get("policy_reason") or body.get("detail")
        good = (code, body.get("reason"), body.get("rule")) == (-32001, reason, rule)
        self.judge(good, f"{tool}: JSON-RPC error {code}; {body.get('reason')}: {said}")

    async def run(self):
        self.scene("The support agent reads a customer")
        async with self.agent("support") as session:
            await self.calls(session, "read_customer", {"customer_id": "7"})
            self.scene("It posts outside; announced: refused, with the same credential in the same session")
            await self.is_refused("support", session, "post_external", ABROAD, "path_forbidden")
            self.scene("The client has seen a proper error and goes on")
            tools = await session.list_tools()
            self.judge(len(tools.tools) == 2, f"tools/list: {', '.join(tool.name for tool in tools.tools)}")
            await self.calls(session, "read_customer", {"customer_id": "8"})
        self.scene("It tries again in a fresh MCP session; announced: refused, for the session is the agent's and not the client's")
        async with self.agent("support", WITH_SESSIONS) as session:
            self.screen.line(f"Mcp-Session-Id: {self.sessions[-1]}")
            await self.is_refused("support", session, "post_external", ABROAD, "path_forbidden")
        self.scene("Another agent, which has read nothing; announced: it may post")
        async with self.agent("notifier", WITH_SESSIONS) as session:
            await self.calls(session, "post_external", {"url": ABROAD["url"], "text": "a new release"})
            self.scene("But it may not read customers: the registry does not say so")
            await self.is_refused("notifier", session, "read_customer", {"customer_id": "7"}, "policy", "not-allowed")
            self.scene("It has learned nothing by that; announced: it may still post")
            await self.calls(session, "post_external", {"url": ABROAD["url"], "text": "a newer release"})
        self.scene("What doorward knows of the support agent")
        self.path()
        return self.screen.end()

    def path(self):
        control = ["--control", f"unix://{self.folder}/support.control"]
        doorward = os.environ["DOORWARD"]
        listed = subprocess.run([doorward, "session", "list", "--output", "json", *control], capture_output=True, check=True)
        sessions = json.loads(listed.stdout)["sessions"]
        self.judge(len(sessions) == 1, f"{len(sessions)} session, whatever its clients opened")
        shown = subprocess.run([doorward, "session", "show", sessions[0]["id"], *control], capture_output=True, check=True)
        text = shown.stdout.decode()
        for line in text.splitlines():
            self.screen.line(line)
        self.judge("data:customer" in text, "its session has the label data:customer")


if __name__ == "__main__":
    run(lambda folder, ports: asyncio.run(Story(folder, ports).run()))
