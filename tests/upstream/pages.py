"""Pages of the fake upstream, as the query asks: `/page?body=hello&type=text/plain`.

`body` (latin-1) `times` N, of `type`, with `status`, a redirect `to`, an `encoding`; `fault` is
`hang`, `reset`, or `drip` for a byte a second.
"""

import asyncio
from urllib.parse import parse_qsl

from tests.upstream.faults import Out

PATH = b"/page"
FIELDS = (("type", "Content-Type"), ("to", "Location"), ("encoding", "Content-Encoding"))


async def answer(out: Out, query: str) -> None:
    """Give the page."""
    asked = dict(parse_qsl(query))
    body = asked.get("body", "hello").encode("latin-1") * int(asked.get("times", "1"))
    fields = [b"Set-Cookie: a=b"]
    for option, name in (
        ("type", "Content-Type"),
        ("to", "Location"),
        ("encoding", "Content-Encoding"),
    ):
        if option in asked:
            fields.append(f"{name}: {asked[option]}".encode("latin-1"))
    fault = asked.get("fault")
    if fault == "reset":
        out.reset()
        return
    if fault == "hang":
        await asyncio.Event().wait()
    out.head(int(asked.get("status", "200")), *fields, length=len(body))
    for at in range(0, len(body), 65_536) if fault is None else range(len(body)):
        out.body(body[at : at + (65_536 if fault is None else 1)])
        await (out.taken() if fault is None else asyncio.sleep(1))
    out.end()
