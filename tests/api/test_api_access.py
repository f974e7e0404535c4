"""Who may call: passwords, logins, other pages, other names, other machines."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_blocktrain.api.access import Access, webui_access
from lib_blocktrain.api.routes import PREFIX, mount

FLAGS = {
    "api_auth": None,
    "gradio_auth": None,
    "gradio_auth_path": None,
    "listen": False,
    "share": False,
    "ngrok": None,
    "server_name": None,
    "nowebui": False,
    "cors_allow_origins": None,
    "cors_allow_origins_regex": None,
}
READING = (
    "/presets/parse",
    "/prompt/write-weights",
    "/prompt/fix-random",
    "/prompt/tag",
    "/preview",
    "/analyse",
    "/solve",
    "/collide",
    "/sets/{name}/find-mask",
    "/sets/{name}/probe",
)  # by POST
PUBLIC = {  # text in, text out; the WebUI's own page calls them, and with --api-auth alone it has no password
    "/prompt/write-weights": {"prompt": "<lora:a:1>", "weights": "OUTD"},
    "/prompt/fix-random": {"prompt": "<lora:a:1:bw=R>", "parameters": "Block weights: a: 0.5"},
}
TAG = ("/prompt/tag", {"prompt": "<lora:robot:1>", "position": 3})  # for whoever may open the WebUI's page
SAVE = {"name": "MINE", "weights": "OUTALL", "architecture": "sd1"}


def flags(**changes) -> SimpleNamespace:
    return SimpleNamespace(**{**FLAGS, **changes})


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def every_route(client: TestClient) -> list[tuple[str, str]]:
    routes = [route for route in client.app.routes if route.path.startswith(PREFIX)]
    return [(method, route.path.removeprefix(PREFIX)) for route in routes for method in route.methods]


def test_without_passwords_this_machine_may_do_all(client):
    assert client.get("/presets").status_code == 200
    assert client.post("/presets", json=SAVE).status_code == 200


@pytest.mark.parametrize("flag", ["api_auth", "gradio_auth"])
def test_every_route_asks_for_the_password(serve, flag, refused):
    access = webui_access(flags(**{flag: "anna:secret:with colon,bob:ß"}), SimpleNamespace())
    client = serve(access)
    open_to_all = {*PUBLIC, *([TAG[0]] if flag == "api_auth" else [])}
    routes = [(method, path) for method, path in every_route(client) if path not in open_to_all]
    assert len(routes) > 15
    for method, path in routes:
        answer = client.request(method, path)
        refused(answer, 401, "password")
        assert answer.headers["www-authenticate"].lower().startswith("basic")
    for user, password, status in [
        ("anna", "secret:with colon", 200),
        ("bob", "ß", 200),
        ("anna", "secret", 401),
        ("anna", "ß", 401),
        ("", "", 401),
        ("nobody", "secret:with colon", 401),
    ]:
        assert client.get("/presets", headers=basic(user, password)).status_code == status, user


def test_the_tag_at_the_cursor_is_for_whoever_may_open_the_page(serve, refused):
    for options, status in (({}, 200), ({"gradio_auth": "bob:x"}, 401), ({"nowebui": True}, 401)):
        client = serve(webui_access(flags(api_auth="anna:secret", **options), SimpleNamespace()))
        answer = client.post(TAG[0], json=TAG[1])
        assert answer.status_code == status, options
        refused(client.post(TAG[0], json=TAG[1], headers={"Origin": "https://elsewhere.example"}), 403, "elsewhere")


@pytest.mark.parametrize("path", PUBLIC)
def test_prompts_are_changed_without_a_password_but_for_no_other_page(serve, path, refused):
    client = serve(webui_access(flags(api_auth="anna:secret", listen=True), SimpleNamespace()))
    assert client.post(path, json=PUBLIC[path]).json().keys() == {"prompt"}
    refused(client.post(path, json=PUBLIC[path], headers={"Origin": "https://elsewhere.example"}), 403, "elsewhere")


def test_strange_headers_are_no_password(serve):
    client = serve(Access(credentials=(("a", "b"),)))
    for value in ("Basic", "Basic ???", "Basic YQ==", "Bearer YTpi", "Basic \x00", "basic YTpi junk", "YTpi"):
        assert client.get("/presets", headers={"Authorization": value}).status_code == 401, value
    assert client.get("/presets", headers={"Authorization": "bAsIc YTpi"}).status_code == 200


def test_passwords_in_a_file(tmp_path):
    path = tmp_path / "auth.txt"
    path.write_text("anna:1, bob:2\n\ncarl:3\n", "utf-8")
    access = webui_access(flags(gradio_auth_path=str(path)), SimpleNamespace())
    assert access.credentials == (("anna", "1"), ("bob", "2"), ("carl", "3"))


@pytest.mark.parametrize("changes", [{"api_auth": "anna"}, {"gradio_auth": "anna:1,bob"}, {"api_auth": " , "}])
def test_flags_that_cannot_be_read_open_nothing(changes):
    with pytest.raises(ValueError, match=r"auth: .*expected user:password") as raised:
        webui_access(flags(**changes), SimpleNamespace())
    assert "anna" not in str(raised.value)  # half a password


@pytest.mark.parametrize(
    ("cookie_id", "cookies", "status"),
    [
        (None, {"access-token": "t"}, 200),
        (None, {"access-token-unsecure": "t"}, 200),
        (None, {"access-token": "x"}, 401),
        ("id", {"access-token-id": "t"}, 200),
        ("id", {"access-token": "t"}, 401),
    ],
)
def test_gradios_login_counts(host, cookie_id, cookies, status):
    app = FastAPI()
    app.tokens = {"t": "anna"}
    if cookie_id:
        app.cookie_id = cookie_id
    header = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    for flag, expected in (("gradio_auth", status), ("api_auth", 401)):
        mount(app, host, webui_access(flags(**{flag: "anna:1"}), SimpleNamespace()))
        client = TestClient(app, base_url="http://127.0.0.1")
        assert client.get(PREFIX + "/presets", headers=header).status_code == expected, flag


@pytest.mark.parametrize(
    ("changes", "exposed"),
    [
        ({}, False),
        ({"listen": True}, True),
        ({"share": True}, True),
        ({"ngrok": "x"}, True),
        ({"server_name": "0.0.0.0"}, True),
        ({"server_name": "::"}, True),
        ({"server_name": "gpu.example"}, True),
        ({"server_name": "127.0.0.1"}, False),
        ({"server_name": "localhost"}, False),
        ({"nowebui": True}, True),
        ({"nowebui": True, "server_name": "127.0.0.1"}, False),
    ],
)
def test_exposed_without_a_password_nothing_can_be_changed(serve, changes, exposed, refused, host):
    opts = SimpleNamespace()
    client = serve(webui_access(flags(**changes), opts))
    assert client.get("/presets").status_code == 200
    answer = client.post("/presets", json=SAVE)
    if not exposed:
        assert answer.status_code == 200
        return
    refused(answer, 403, "--api-auth", "blocktrain_api_open")
    assert not host.presets_path.exists()
    for method, path in every_route(client):
        if method != "GET" and path not in READING:
            refused(client.request(method, path), 403, "settings")
    opts.blocktrain_api_open = True  # the setting counts at once
    assert client.post("/presets", json=SAVE).status_code == 200


@pytest.mark.parametrize("changes", [{"listen": True}, {"share": True}, {"ngrok": "token"}, {"server_name": "0.0.0.0"}])
def test_a_setting_closes_an_exposed_server_without_a_password(serve, changes, refused):
    opts = SimpleNamespace(blocktrain_api_open=True)
    client = serve(webui_access(flags(**changes), opts))
    assert client.get("/presets").status_code == 200
    opts.blocktrain_api_closed = True  # it counts at once, and more than the other
    routes = every_route(client)
    assert len(routes) > 15
    for method, path in routes:
        if path in PUBLIC:  # of the WebUI's own page
            assert client.post(path, json=PUBLIC[path]).status_code == 200
        else:
            refused(client.request(method, path), 403, "blocktrain_api_closed", "--api-auth")


def test_the_setting_closes_nothing_else(serve):
    opts = SimpleNamespace(blocktrain_api_closed=True)
    assert serve(webui_access(flags(), opts)).post("/presets", json=SAVE).status_code == 200
    client = serve(webui_access(flags(listen=True, api_auth="anna:1"), opts))
    assert client.get("/presets", headers=basic("anna", "1")).status_code == 200


def test_the_document_says_who_may_draw():
    text = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text("utf-8")
    [row] = [line for line in text.splitlines() if line.startswith("| `--listen`")]
    assert row.split("|")[2].strip() == "**everyone**"
    assert "who may read and draw" in text
    assert "blocktrain_api_closed" in text


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("http://127.0.0.1:7861", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("https://friend.example", 200),
        ("https://a.team.example", 200),
        ("https://a.team.example.evil", 403),
    ],
)
def test_other_web_pages(serve, origin, status, refused):
    allowed = flags(cors_allow_origins="https://Friend.example", cors_allow_origins_regex=r"https://\w+\.team\.example")
    answer = serve(webui_access(allowed, SimpleNamespace())).post("/presets", json=SAVE, headers={"Origin": origin})
    assert answer.status_code == status
    if status == 403:
        refused(answer, 403, "web page")


def test_a_page_behind_a_proxy(serve):
    headers = {"Origin": "https://gpu.example", "X-Forwarded-Host": "gpu.example"}
    client = serve(Access(credentials=(("a", "b"),)))
    assert client.get("/presets", headers={**headers, **basic("a", "b")}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_name_that_was_made_to_point_here(serve, name, refused):
    """DNS rebinding: to the browser it is of one origin."""
    client = serve()
    refused(client.get("/presets", headers={"Host": name, "Origin": f"http://{name}"}), 403)
    refused(client.get("/presets", headers={"Host": name}), 403, "this machine alone")
    for own in ("127.0.0.1:7860", "localhost:1", "[::1]:7860", "LOCALHOST"):
        assert client.get("/presets", headers={"Host": own}).status_code == 200, own


def test_datasets_lie_anywhere_on_a_server_for_this_machine_alone(tmp_path):
    opts = SimpleNamespace(blocktrain_dataset_dirs="")
    assert webui_access(flags(), opts).dataset_dirs() is None
    assert webui_access(flags(listen=True), opts).dataset_dirs() == []
    opts.blocktrain_dataset_dirs = f"{tmp_path}\n\n"
    assert webui_access(flags(), opts).dataset_dirs() == [tmp_path]
