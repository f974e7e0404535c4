"""`javascript/localization.js` alone, in an empty page, with the Japanese translation: what it translates, and when."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = """<body><p id="theirs">Draw</p><div id="blocktrain"><button title="Draw the grid">Draw</button>
<p class="n">3 of 24 chosen</p><textarea>Draw</textarea><small>SD1 · rank 4 · 16 blocks · trained here</small>
<b aria-label="Zoom: Every block at 1"></b><i data-absent="no layers in this LoRA"></i></div></body>"""


def test_what_is_translated_and_when(browser):
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    words = (ROOT / "localizations" / "ja_JP.json").read_text("utf-8")
    page.set_content(PAGE)
    page.evaluate(f"window.localization = {words}")
    page.add_script_tag(content=(ROOT / "javascript" / "localization.js").read_text("utf-8"))
    page.wait_for_function("document.querySelector('#blocktrain button').textContent === '生成'")
    found = page.evaluate("""async () => {
        const one = (selector) => document.querySelector(`#blocktrain ${selector}`);
        const started = {
            theirs: document.getElementById("theirs").textContent, title: one("button").title,
            numbers: one(".n").textContent,
            typed: one("textarea").textContent, facts: one("small").textContent, label: one("b").ariaLabel,
            absent: one("i").dataset.absent,
        };
        one(".n").firstChild.data = "Adding 2 of 5 …"; // as gradio changes a text
        one("button").title = "Stops after the current step.";
        one("b").append(document.createComment("gradio's"), "Saved A in B");
        await new Promise((resolve) => setTimeout(resolve));
        let changes = 0;
        new MutationObserver((list) => (changes += list.length)).observe(document.body, {
            childList: true, characterData: true, attributes: true, subtree: true,
        });
        blocktrain.setText(one("button"), "Draw"); // it is there already, in the page's language
        await new Promise((resolve) => setTimeout(resolve, 50));
        return { ...started, changed: one(".n").textContent, hover: one("button").title, added: one("b").textContent,
            changes, unknown: blocktrain.localized("of nobody") };
    }""")
    page.close()
    japanese = json.loads(words)
    assert problems == []
    assert found == {
        "theirs": "Draw",
        "title": japanese["Draw the grid"],
        "numbers": "3枚を選択中(全24枚)",
        "typed": "Draw",
        "facts": "SD1 · ランク 4 · 16階層 · ここで学習",
        "label": "拡大: 全階層1",
        "absent": japanese["no layers in this LoRA"],
        "changed": "5件中2件を追加中 …",
        "hover": japanese["Stops after the current step."],
        "added": "AをBに保存しました",
        "changes": 0,
        "unknown": "of nobody",
    }
