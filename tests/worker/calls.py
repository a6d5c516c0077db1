"""A call of every method that a worker answers, in an order in which each succeeds.

`agent.wait` takes the turn of the call before it; some ask the launcher or egress.
"""

from typing import Final

from protocol.methods import METHODS

KEY: Final = "agent:main:main"
_ENVELOPE: Final = {"user": {"id": "u"}, "content": {"type": "text", "text": "hi"}}
_ASKED: Final = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
# With terminals: tests/e2e/test_terminals.py.
OF_TERMINALS: Final = {name for name in METHODS if name.startswith("terminal.")}
OF_WEBSOCKETS: Final = {"events.subscribe", "events.unsubscribe"}
EVERY_METHOD: Final[list[tuple[str, object]]] = [
    ("health", {}),
    ("openai.chat", {"body": _ASKED}),
    ("openai.responses", {"body": _ASKED}),
    ("openai.embeddings", {"body": _ASKED}),
    ("openai.models", {}),
    ("openai.model", {"model": "gpt"}),
    ("models.list", {}),
    ("models.keys.set", {"provider": "openai", "apiKey": "sk-of-my-own-1234567890"}),
    ("models.keys.list", {}),
    ("models.keys.delete", {"provider": "openai"}),
    ("tenants.usage", {}),
    ("tenants.usage.history", {}),
    ("usage.status", {}),
    ("usage.cost", {}),
    ("usage.report", {"period": "current-month"}),
    ("sessions.usage", {}),
    ("rpc.discover", {}),
    ("sessions.create", {"key": KEY, "label": "x", "displayName": "y"}),
    ("sessions.send", {"key": KEY, "message": "/time", "idempotencyKey": "k"}),
    ("channels.inbound", {"account": "a", "envelope": _ENVELOPE}),
    ("sessions.list", {"includeLastMessage": True}),
    ("sessions.get", {"key": KEY}),
    ("chat.history", {"sessionKey": KEY}),
    ("agent.wait", {"runId": ""}),
    ("chat.abort", {"sessionKey": KEY}),
    ("chat.send", {"sessionKey": KEY, "message": "hi", "idempotencyKey": "chat"}),
    ("agent", {"message": "hi"}),
    ("chat.inject", {"sessionKey": KEY, "message": "a note", "label": "from outside"}),
    ("sessions.resolve", {"label": "x"}),
    ("sessions.preview", {"keys": [KEY]}),
    ("sessions.search", {"query": "note"}),
    ("sessions.abort", {"key": KEY}),
    ("sessions.patch", {"key": KEY, "label": None}),
    ("sessions.compact", {"key": KEY, "maxLines": 2}),
    ("sessions.reset", {"key": KEY}),
    ("sessions.get", {"key": KEY}),
    ("sessions.delete", {"key": KEY}),
    ("config.set", {"raw": "{}"}),
    ("config.patch", {"raw": "agent: {systemPrompt: be kind}"}),
    ("config.get", {}),
    ("config.schema", {}),
    ("events.poll", {}),
    ("sandbox.run", {"argv": ["true"]}),
    ("sandbox.list", {}),
    ("sandbox.kill", {"sandboxId": "5a"}),
    ("sandbox.status", {}),
    ("sandbox.explain", {}),
    ("sandbox.files.put", {"path": "a/b", "data": "x"}),
    ("sandbox.files.list", {"path": "a"}),
    ("sandbox.files.get", {"path": "a/b"}),
    ("sandbox.files.delete", {"path": "a", "recursive": True}),
]
