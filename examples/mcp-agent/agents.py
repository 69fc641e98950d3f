"""Two agents, each through its own Envoy: tells what they try and what comes of it, and judges that.

    agents.py FOLDER DOORWARD name=port ...

Exits 0 only if every line was as announced.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import sys

from mcp import ClientSession, MCPError
from mcp.client.streamable_http import streamable_http_client

ABROAD = {"url": "https://hooks.example/in", "text": "Ada Example, +43 1 234 567"}


class Story:
    def __init__(self, folder, doorward, ports):
        self.folder, self.doorward, self.ports = folder, doorward, ports
        sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
        self.coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.failed = 0

    def paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.coloured else text

    def scene(self, title):
        print(f"\n{self.paint('1', title)}")

    def judge(self, good, text):
        print(f"  {self.paint('32', '✓') if good else self.paint('31', '✗')} {text}")
        self.failed += not good

    @contextlib.asynccontextmanager
    async def agent(self, name):
        """A new client, and so a new MCP session."""
        async with streamable_http_client(f"http://127.0.0.1:{self.ports[name]}/mcp") as (reads, writes, *_):
            async with ClientSession(reads, writes) as session:
                await session.initialize()
                yield session

    async def decision(self, agent, decision_id):
        """The body of a decision's record, once it is written."""
        for _ in range(200):
            for line in (self.folder / f"{agent}.jsonl").read_text().splitlines(keepends=True):
                if line.endswith("\n") and (record := json.loads(line))["id"] == decision_id:
                    return record["body"]
            await asyncio.sleep(0.01)
        return {}

    async def calls(self, session, tool, arguments):
        result = await session.call_tool(tool, arguments)
        self.judge(not result.is_error, f"{tool}: {result.content[0].text}")

    async def is_refused(self, agent, session, tool, arguments, reason):
        try:
            result = await session.call_tool(tool, arguments)
            self.judge(False, f"{tool} was let through: {result}")
            return
        except MCPError as error:
            code, data = error.error.code, error.error.data or {}
        body = await self.decision(agent, data.get("decision_id"))
        said = body.get("policy_reason") or body.get("detail")
        self.judge(code == -32001 and body.get("reason") == reason, f"{tool}: JSON-RPC error {code}; {body.get('reason')}: {said}")

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
        async with self.agent("support") as session:
            await self.is_refused("support", session, "post_external", ABROAD, "path_forbidden")
        self.scene("Another agent, which has read nothing; announced: it may post")
        async with self.agent("notifier") as session:
            await self.calls(session, "post_external", {"url": ABROAD["url"], "text": "a new release"})
            self.scene("But it may not read customers: the registry does not say so")
            await self.is_refused("notifier", session, "read_customer", {"customer_id": "7"}, "policy")
        self.scene("What doorward knows of the support agent")
        self.path()
        return self.failed

    def path(self):
        control = ["--control", f"unix://{self.folder}/support.control"]
        listed = subprocess.run(
            [self.doorward, "session", "list", "--output", "json", *control], capture_output=True, check=True
        )
        session = json.loads(listed.stdout)["sessions"][0]["id"]
        shown = subprocess.run([self.doorward, "session", "show", session, *control], capture_output=True, check=True)
        text = shown.stdout.decode()
        print("    " + text.replace("\n", "\n    "))
        self.judge("data:customer" in text, "its session has the label data:customer")


def main():
    ports = {name: int(port) for name, port in (pair.split("=") for pair in sys.argv[3:])}
    story = Story(pathlib.Path(sys.argv[1]), sys.argv[2], ports)
    failed = asyncio.run(story.run())
    print()
    if failed:
        print(story.paint("31", f"{failed} line(s) were not as announced"))
        return 1
    print(story.paint("32", "All as announced."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
