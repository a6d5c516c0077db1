"""The OpenAPI document and the router are made from one table; here they are held side by side."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.control.routes import PATH_PARAMETERS, ROUTES, Route, find
from protocol.openapi import document, refusals

DOCUMENT = document("1.2.3")
routes = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)


def operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][route.path][route.verb.lower()]
    return found


def references(node: Any) -> Iterator[str]:
    match node:
        case dict():
            if "$ref" in node:
                yield node["$ref"]
            for inner in node.values():
                yield from references(inner)
        case list():
            for inner in node:
                yield from references(inner)


def test_it_describes_every_route_and_nothing_else() -> None:
    described = {(path, verb.upper()) for path, at in DOCUMENT["paths"].items() for verb in at}
    assert described == {(route.path, route.verb) for route in ROUTES}
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = set(references(json.loads(json.dumps(DOCUMENT))))
    schemas = DOCUMENT["components"]["schemas"]
    assert used == {f"#/components/schemas/{name}" for name in schemas}


@routes
def test_an_operation_is_its_route(route: Route) -> None:
    described = operation(route)
    assert described["operationId"] == route.name
    assert described["summary"].endswith(".")
    statuses = {code.http_status for code in refusals(route)} | {route.status}
    assert {int(status) for status in described["responses"]} == statuses
    for status, response in described["responses"].items():
        (media,) = response["content"]
        success = "application/json" if route.answer else "text/plain"
        assert media == (success if int(status) < 400 else "application/problem+json")
    assert ("requestBody" in described) == (route.body is not None)
    places: dict[str, set[str]] = {}
    for parameter in described["parameters"]:
        places.setdefault(parameter["in"], set()).add(parameter["name"])
        assert parameter.get("required", False) == (parameter["in"] == "path")
    assert places.pop("path", set()) == set(route.parameters)
    assert places.pop("header", set()) == ({"Idempotency-Key"} if route.changes else set())
    fields = route.query.__struct_encode_fields__ if route.query else ()
    assert places.pop("query", set()) == set(fields)
    assert not places


@routes
def test_the_router_finds_it(route: Route) -> None:
    given = dict.fromkeys(route.parameters, "x")
    found = find(route.path.format(**given).split("/")[1:])
    assert found is not None
    assert found.routes[route.verb] is route
    assert found.parameters == given
    assert set(route.parameters) <= PATH_PARAMETERS.keys()


def test_a_creation_says_where_its_ids_go() -> None:
    for name, id_name in (("create_tenant", "tenantId"), ("create_token", "tokenId")):
        (route,) = (route for route in ROUTES if route.name == name)
        links = operation(route)["responses"]["201"]["links"]
        assert links["delete_tenant" if id_name == "tenantId" else "revoke_token"]["parameters"][
            id_name
        ] == (f"$response.body#/{id_name}")
