"""The first minute: gateway up, a tenant made, a message answered, and what to type next.

Called by `scripts/start`; arguments are handed to `openclaw gateway`. The gateway stays in the
foreground afterwards and ends with Ctrl-C or SIGTERM.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

OPENCLAW = str(Path(sys.executable).with_name("openclaw"))
TENANT = "acme"
REQUEST_SECONDS = 30.0


def main() -> int:
    """Run it all; gives the gateway's exit code."""
    command = [OPENCLAW, "gateway", *sys.argv[1:]]
    # A group of its own: a signal to ours reaches it once, passed on below.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as gateway:

        def pass_on(number: int, _: FrameType | None) -> None:
            gateway.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        assert gateway.stdout is not None
        banner = gateway.stdout.readline().strip()
        if not banner:
            return gateway.wait()
        print(banner, flush=True)
        url = next(part for part in banner.split(" · ") if part.startswith("http"))
        try:
            introduce(url)
        except (OSError, subprocess.CalledProcessError, KeyError) as error:
            print(f"the first message failed: {error}", file=sys.stderr)
            gateway.terminate()
            gateway.wait()
            return 1
        return gateway.wait()


def introduce(url: str) -> None:
    """Make the tenant, send the message and say what comes next."""
    token = tenant_token()
    envelope = {
        "channel": "webhook",
        "user": {"id": "wa:+15550100", "display_name": "Ada"},
        "session_id": "wa:+15550100:default",
        "content": {"type": "text", "text": "Hello, is anybody there?"},
        "received_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    started = time.perf_counter()
    answer = post(f"{url}/channels/webhook/default", token, envelope)
    elapsed_ms = (time.perf_counter() - started) * 1000
    print(f"→ {envelope['user']['display_name']}: {envelope['content']['text']}")  # type: ignore[index]
    print(f"← {TENANT}: {answer['reply']['text']}  ({elapsed_ms:.0f} ms, its process included)")
    print("\nThe same with curl, and what to type next:\n")
    print(f"export TOKEN={token}")
    print(curl(f"{url}/channels/webhook/default", envelope))
    create = {"jsonrpc": "2.0", "id": 1, "method": "sessions.create", "params": {}}
    print(curl(f"{url}/rpc", create))
    listing = {"jsonrpc": "2.0", "id": 2, "method": "sessions.list", "params": {}}
    print(curl(f"{url}/rpc", listing))
    print("\n.venv/bin/openclaw tenants list            # in another terminal")
    print(f".venv/bin/openclaw sandbox run --tenant {TENANT} -- python3 -c 'print(6 * 7)'")
    print("ps -eo pid,user,args | grep openclaw:      # every process, each tenant its own")
    print("\nThe gateway runs until Ctrl-C.", flush=True)


def tenant_token() -> str:
    """Create the tenant, or give it a new token when it is there from an earlier run."""
    given = os.environ.get("OPENCLAW_TOKEN")
    if given:
        return given
    listed = openclaw("tenants", "list", "--json")
    if any(tenant["tenantId"] == TENANT for tenant in listed):
        print(f"tenant {TENANT} is there already; its token is replaced (or set OPENCLAW_TOKEN)")
        token = openclaw("tenants", "token", "rotate", TENANT, "--json")["token"]
    else:
        token = openclaw("tenants", "create", TENANT, "--json")["token"]
    print(f"✓ tenant {TENANT} · token {token}")
    return str(token)


def openclaw(*arguments: str) -> Any:
    """Run a command and give what it printed as JSON."""
    done = subprocess.run([OPENCLAW, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def post(url: str, token: str, body: object) -> Any:
    """Send JSON and give the JSON that came back."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - our own
    with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:  # noqa: S310 - as above
        return json.load(response)


def curl(url: str, body: object) -> str:
    """Write the same request as a command line."""
    return (
        f'curl -sS {url} -H "Authorization: Bearer $TOKEN" \\\n'
        f"  -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
