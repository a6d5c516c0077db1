"""Which paths are served, and how each wants to be called."""

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from protocol import limits, openapi
from protocol.errors import ErrorCode, GatewayError
from protocol.meters import RouteName
from protocol.methods import Method, Scope
from protocol.methods.openai import MODEL
from protocol.names import is_account_id
from supervisor.front import control, openai, response, rpc, terminal, upgrade, webhook, websocket
from supervisor.front.entrance import entrance
from supervisor.front.exchange import Client, Request, Route
from supervisor.front.socket_end import Hall


class State(control.Supervisor, Hall, Protocol):
    """What the probes tell and the control plane needs."""

    @property
    def version(self) -> str:
        """The gateway's own version."""

    @property
    def condition(self) -> str:
        """`ready`, or why not."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What an operator has to know."""


class Routes:
    """All routes of one front.

    Args:
        state: What they need beside a request.
    """

    def __init__(self, state: State) -> None:
        def start_control(client: Client, request: Request) -> None:
            try:
                control.ControlCall(client, state).start(request)
            except GatewayError as error:
                client.refuse(error)

        def live(client: Client, _request: Request) -> None:
            client.answer(200, b'{"status":"ok"}')

        def ready(client: Client, _request: Request) -> None:
            body = msgspec.json.encode({"status": state.condition, "notices": state.notices})
            if state.condition == "ready":
                client.answer(200, body)
            else:
                client.answer(503, body, b"Retry-After: 1\r\n")

        # It holds no secret: whoever can reach the gateway may read how it is spoken to.
        described = msgspec.json.encode(openapi.document(state.version))

        def describe(client: Client, _request: Request) -> None:
            client.answer(200, described)

        self._exact: Final = {
            "/rpc": Route(
                "rpc",
                ("POST",),
                rpc.start,
                rpc.refusal,
                "token",
                limits.HTTP_BODY_BYTES_MAX,
                operators=Route(
                    "control",
                    ("POST",),
                    start_control,
                    rpc.refusal,
                    "secret",
                    limits.HTTP_CONTROL_BODY_BYTES_MAX,
                ),
            ),
            "/ws": Route(
                "ws",
                ("GET",),
                entrance(state, upgrade.CALLS, websocket.prepare),
                response.error_body,
                "token",
                upgrades=True,
            ),
            "/terminal": Route(
                "terminal",
                ("GET",),
                entrance(state, upgrade.TERMINAL, terminal.prepare),
                response.error_body,
                "token",
                takes_query=True,
                upgrades=True,
            ),
            "/healthz": _open("probe", live),
            "/readyz": _open("probe", ready),
            "/openapi.json": _open("openapi", describe),
            "/metrics": Route(
                "metrics", ("GET",), start_control, response.problem_body, "secret", text=True
            ),
        }
        self._exact.update({path: _openai(method) for path, method in openai.PATHS.items()})
        self._webhook: Final = Route(
            "webhook",
            ("POST",),
            webhook.start,
            response.error_body,
            "token",
            # Room for what the body is wrapped into.
            limits.HTTP_BODY_BYTES_MAX - limits.KIB,
        )
        self._model: Final = _openai(MODEL)
        self._control: Final = Route(
            "control",
            control.VERBS,
            start_control,
            response.problem_body,
            "secret",
            limits.HTTP_CONTROL_BODY_BYTES_MAX,
            takes_query=True,
        )

    def upgrades(self, path: str) -> bool:
        """Say whether a client may ask for another protocol at `path`."""
        route = self._exact.get(path)
        return route is not None and route.upgrades

    def find(self, path: str) -> Route:
        """Give what is served at `path`.

        Raises:
            GatewayError: NOT_FOUND.
        """
        route = self._exact.get(path)
        if route is not None:
            return route
        if path.startswith(webhook.PREFIX) and is_account_id(path.removeprefix(webhook.PREFIX)):
            return self._webhook
        if path.startswith(openai.MODELS_PREFIX):
            return self._model
        if path in control.PATHS or path.startswith(control.PREFIX):
            return self._control._replace(verbs=control.verbs(path))
        raise GatewayError(ErrorCode.NOT_FOUND, "nothing is served at this path")


def _openai(method: Method) -> Route:
    verb = "GET" if method.scope is Scope.READ else "POST"
    return Route(
        "openai",
        (verb,),
        openai.starter(method),
        openai.refusal,
        "token",
        # Room for what the body is wrapped into.
        limits.HTTP_BODY_BYTES_MAX - 4 * limits.KIB if verb == "POST" else 0,
    )


def _open(name: RouteName, start: Callable[[Client, Request], None]) -> Route:
    return Route(name, ("GET", "HEAD"), start, response.problem_body, "none")
