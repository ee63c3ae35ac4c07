"""The page's cookie: what a browser is told of it, and what it opens."""

from typing import Any

import httpx
import pytest

COOKIE = "__Host-upkeep_token"


def sign_in(server: Any, token: str) -> httpx.Response:
    answer: httpx.Response = server.client("").post("/login", data={"token": token, "back": "/"})
    return answer


def test_the_cookie_is_for_this_host_over_tls_and_no_script(server: Any) -> None:
    answer = sign_in(server, server.admin)
    (line,) = answer.headers.get_list("set-cookie")
    first, *rest = [part.strip() for part in line.split(";")]
    assert first == f"{COOKIE}={server.admin}"
    attributes = {part.lower() for part in rest}
    # What the prefix asks for, or the browser drops it: Secure, Path=/, no Domain.
    assert {"secure", "path=/", "httponly", "samesite=strict"} <= attributes
    assert not any(part.startswith("domain") for part in attributes)


def test_a_wrong_token_gets_no_cookie(server: Any) -> None:
    answer = sign_in(server, "upk_1.not-a-secret-of-this-server")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_signing_out_ends_it(server: Any) -> None:
    client = server.client("")
    headers = {"Cookie": f"{COOKIE}={server.admin}", "Sec-Fetch-Site": "same-origin"}
    answer = client.post("/sign-out", headers=headers)
    assert answer.status_code == 303
    assert f'{COOKIE}=""' in answer.headers["set-cookie"]
    assert "max-age=0" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "none"])
def test_a_cookie_writes_nothing_for_another_site(server: Any, site: str | None) -> None:
    client = server.client("")
    cookie = {"Cookie": f"{COOKIE}={server.admin}"}
    assert client.get("/v1/groups", headers=cookie).status_code == 200
    headers = {**cookie, **({"Sec-Fetch-Site": site} if site else {})}
    assert client.post("/v1/images", json={"name": "web"}, headers=headers).status_code == 401
    assert server.client().get("/v1/images").json()["items"] == []


def test_a_cookie_of_the_name_without_the_prefix_opens_nothing(server: Any) -> None:
    """Who can set a cookie for the whole domain must not sign anybody in."""
    cookie = {"Cookie": f"upkeep_token={server.admin}"}
    assert server.client("").get("/v1/groups", headers=cookie).status_code == 401
