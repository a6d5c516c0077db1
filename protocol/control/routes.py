"""How a route is declared, once: for the router, the OpenAPI document and the tests."""

import re
from typing import Any, Final, Literal, NamedTuple

import msgspec

from protocol.control import shapes
from protocol.errors import ErrorCode
from protocol.methods.tenants import QuotaStatus

Verb = Literal["GET", "POST", "PATCH", "DELETE"]

PATH_PARAMETERS: Final[dict[str, Any]] = {
    "tenantId": shapes.TenantId,
    "tokenId": shapes.TokenId,
}
_PARAMETER: Final = re.compile(r"\{([A-Za-z]+)\}")


class Route(NamedTuple):
    """The declaration of one route.

    Attributes:
        name: Of its handler; unique.
        verb: GET reads; the others change something, and take an `Idempotency-Key`.
        path: With the names of its parameters in braces.
        doc: One sentence.
        answer: What the body of a success holds; None for text.
        status: Of a success.
        query: What its query holds; without one it takes none.
        body: What its body holds; without one it takes none.
        body_required: Whether an empty body is refused.
        refusals: What can be refused beside what every route can.
    """

    name: str
    verb: Verb
    path: str
    doc: str
    answer: type[msgspec.Struct] | None
    status: int = 200
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    body_required: bool = False
    refusals: tuple[ErrorCode, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what its path leaves open."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def changes(self) -> bool:
        """Whether it changes something."""
        return self.verb != "GET"


_TENANTS: Final = "/v1/tenants"
_TENANT: Final = f"{_TENANTS}/{{tenantId}}"
_TOKENS: Final = f"{_TENANT}/tokens"
_NO_TENANT: Final = (ErrorCode.NOT_FOUND,)
_CONFLICT: Final = (ErrorCode.CONFLICT,)

ROUTES: Final = (
    Route(
        "list_tenants",
        "GET",
        _TENANTS,
        "List tenants by id.",
        shapes.TenantPage,
        query=shapes.TenantsQuery,
    ),
    Route(
        "create_tenant",
        "POST",
        _TENANTS,
        "Create a tenant; its token is shown this once.",
        shapes.CreatedTenant,
        201,
        body=shapes.CreateTenant,
        body_required=True,
        refusals=_CONFLICT,
    ),
    Route("get_tenant", "GET", _TENANT, "Show a tenant.", shapes.TenantView, refusals=_NO_TENANT),
    Route(
        "update_tenant",
        "PATCH",
        _TENANT,
        "Change a tenant's name, quota or limits; quota and limits are in force at once.",
        shapes.TenantView,
        body=shapes.UpdateTenant,
        body_required=True,
        refusals=_NO_TENANT,
    ),
    Route(
        "delete_tenant",
        "DELETE",
        _TENANT,
        "End a tenant's worker, wipe what it keeps and forget its tokens; the audit stays.",
        shapes.DeletedTenant,
        refusals=_NO_TENANT,
    ),
    Route(
        "tenant_status",
        "GET",
        f"{_TENANT}/status",
        "Say how a tenant's worker is.",
        shapes.StatusPage,
        refusals=_NO_TENANT,
    ),
    Route(
        "tenant_quota",
        "GET",
        f"{_TENANT}/quota",
        "Show a tenant's quota and what is used of it.",
        QuotaStatus,
        refusals=_NO_TENANT,
    ),
    Route(
        "restart_tenant",
        "POST",
        f"{_TENANT}/restart",
        "Replace a tenant's worker without a lost request.",
        shapes.TenantStatus,
        body=shapes.Nothing,
        refusals=(*_NO_TENANT, *_CONFLICT),
    ),
    Route(
        "suspend_tenant",
        "POST",
        f"{_TENANT}/suspend",
        "Refuse a tenant's tokens, cut what they opened and end its worker.",
        shapes.TenantView,
        body=shapes.Nothing,
        refusals=_NO_TENANT,
    ),
    Route(
        "resume_tenant",
        "POST",
        f"{_TENANT}/resume",
        "Take a suspended tenant back into service.",
        shapes.TenantView,
        body=shapes.Nothing,
        refusals=_NO_TENANT,
    ),
    Route(
        "list_tokens",
        "GET",
        _TOKENS,
        "List a tenant's tokens, without their secrets.",
        shapes.TokenList,
        refusals=_NO_TENANT,
    ),
    Route(
        "create_token",
        "POST",
        _TOKENS,
        "Create a token; its secret is shown this once.",
        shapes.CreatedToken,
        201,
        body=shapes.CreateToken,
        body_required=True,
        refusals=(*_NO_TENANT, *_CONFLICT),
    ),
    Route(
        "get_token",
        "GET",
        f"{_TOKENS}/{{tokenId}}",
        "Show a token, without its secret.",
        shapes.TokenView,
        refusals=_NO_TENANT,
    ),
    Route(
        "revoke_token",
        "DELETE",
        f"{_TOKENS}/{{tokenId}}",
        "Refuse a token from now on and cut what it opened.",
        shapes.RevokedToken,
        refusals=_NO_TENANT,
    ),
    Route(
        "rotate_token",
        "POST",
        f"{_TENANT}/token/rotate",
        "Replace a token; the secret of the new one is shown this once.",
        shapes.CreatedToken,
        body=shapes.RotateToken,
        refusals=_NO_TENANT,
    ),
    Route(
        "status",
        "GET",
        "/v1/status",
        "Say how the workers are.",
        shapes.StatusPage,
        query=shapes.TenantsQuery,
    ),
    Route(
        "metrics",
        "GET",
        "/metrics",
        "Give what is counted, in Prometheus' text format 0.0.4.",
        None,
    ),
    Route(
        "reload",
        "POST",
        "/v1/reload",
        "Read config.yaml and the registry again, and renew what forks the workers.",
        shapes.Reloaded,
        body=shapes.Nothing,
        refusals=_CONFLICT,
    ),
    Route(
        "audit", "GET", "/v1/audit", "Read the audit.", shapes.AuditPage, query=shapes.AuditQuery
    ),
)


class Found(NamedTuple):
    """What is served at a path: by verb, and what stands for the path's parameters."""

    routes: dict[Verb, Route]
    parameters: dict[str, str]


def _by_segments() -> dict[tuple[str, ...], dict[Verb, Route]]:
    table: dict[tuple[str, ...], dict[Verb, Route]] = {}
    for route in ROUTES:
        at_path = table.setdefault(tuple(route.path.split("/")[1:]), {})
        if route.verb in at_path:
            raise ValueError(f"declared twice: {route.verb} {route.path}")
        at_path[route.verb] = route
    return table


_TABLE: Final = _by_segments()


def find(segments: list[str]) -> Found | None:
    """Give what is served at a path, given as its decoded segments.

    A parameter can stand for anything here: who asks for it checks it.
    """
    for pattern, routes in _TABLE.items():
        if len(pattern) != len(segments):
            continue
        parameters = {}
        for expected, given in zip(pattern, segments, strict=True):
            if expected.startswith("{"):
                parameters[expected[1:-1]] = given
            elif expected != given:
                break
        else:
            return Found(routes, parameters)
    return None
