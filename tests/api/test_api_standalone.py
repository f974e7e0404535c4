"""The API of the standalone server: in front of the page, behind the server's own guard."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from fastapi.testclient import TestClient

from lib_blocktrain.server.app import application, build

PORT = 7870
OWN, FOREIGN = f"http://127.0.0.1:{PORT}", "http://evil.example"


def test_the_page_and_the_api_behind_the_guard(host):
    blocks, tab = build(host)
    try:
        client = TestClient(application(blocks, tab, PORT), base_url=OWN)
        assert "text/html" in client.get("/").headers["content-type"]
        assert client.get("/blocktrain/v1/progress").json()["busy"] is False
        assert "/blocktrain/v1/preview" in client.get("/blocktrain/v1/openapi.json").json()["paths"]
        body = {"name": "MINE", "weights": "ALL", "architecture": "sd1"}
        for headers in ({"Host": "evil.example"}, {"Origin": FOREIGN}, {"Host": f"127.0.0.1:{PORT + 1}"}):
            assert client.post("/blocktrain/v1/presets", json=body, headers=headers).status_code == 403
        assert not host.presets_path.exists()
        assert client.post("/blocktrain/v1/presets", json=body, headers={"Origin": OWN}).status_code == 200
    finally:
        tab.close()
        tab.runner.close()
