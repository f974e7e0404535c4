"""Accessibility of the tab: contrast, names, keyboard, and a stable layout."""

from __future__ import annotations

import json

import pytest
from journeys import Opened

pytestmark = pytest.mark.long

PLACES = ("Preview", "Analyse", "Pictures", "Train", "Runs")
# The contrast of every visible text with what lies behind it, ancestors' opacity included (WCAG 2.2, 1.4.3); what is
# disabled is exempt, and behind a gradient the worse end counts.
LOW_CONTRAST = """() => {
    const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
        .getContext("2d", { willReadFrequently: true });
    const parsed = new Map();
    const parse = (text) => {
        if (!parsed.has(text)) {
            context.clearRect(0, 0, 1, 1);
            context.fillStyle = "#000";
            context.fillStyle = text;
            context.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
            parsed.set(text, [r, g, b, a / 255]);
        }
        return parsed.get(text);
    };
    const over = (top, under, opacity = 1) => {
        const alpha = top[3] * opacity;
        return [...[0, 1, 2].map((c) => top[c] * alpha + under[c] * (1 - alpha)), 1];
    };
    const light = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
    const ratio = (a, b) => {
        const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
        return (high + 0.05) / (low + 0.05);
    };
    // every ground that may lie behind an element: one a colour stop of the nearest gradient
    const grounds = (element) => {
        if (!element) return [[255, 255, 255, 1]];
        const style = getComputedStyle(element);
        const stops = style.backgroundImage.match(/(rgba?|color|oklab)\\([^()]*\\)/g);
        if (style.backgroundImage.includes("gradient") && stops) {
            return stops.flatMap((stop) => grounds(element.parentElement).map((under) => over(parse(stop), under)));
        }
        const own = parse(style.backgroundColor);
        return own[3] >= 0.999 ? [own] : grounds(element.parentElement).map((under) => over(own, under));
    };
    const found = [];
    const walker = document.createTreeWalker(document.getElementById("blocktrain"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const words = walker.currentNode.textContent.trim();
        if (!words || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        if (element.closest("script, style, :disabled, [aria-disabled=true], .sr-only")) continue;
        if (element.closest(".block:has(input:disabled), [data-absent]:not([data-absent=''])")) continue;
        const style = getComputedStyle(element);
        let opacity = 1;
        for (let at = element; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
        const ink = parse(element instanceof SVGElement ? style.fill : style.color);
        const worst = Math.min(...grounds(element).map((ground) => ratio(over(ink, ground, opacity), ground)));
        const size = parseFloat(style.fontSize);
        const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
        const where = `${words.slice(0, 40)} (${element.className})`;
        if (worst < needed) found.push(`${worst.toFixed(2)} of ${needed}: ${where}`);
    }
    return [...new Set(found)];
}"""
NAMELESS = """() => {
    const named = (element) => {
        const by = (element.getAttribute("aria-labelledby") || "").split(/\\s+/).filter(Boolean);
        const texts = [element.getAttribute("aria-label"), element.title, element.alt];
        texts.push(...by.map((id) => document.getElementById(id)?.textContent));
        texts.push(...[...(element.labels || [])].map((label) => label.textContent));
        if (element.matches("button, summary, a, [role=tab]")) texts.push(element.textContent);
        if (element.matches("svg")) texts.push(element.querySelector(":scope > title")?.textContent);
        return texts.some((text) => text && String(text).trim());
    };
    const wanted = "button, input:not([type=hidden]), textarea, select, summary, a[href], img, svg[role=img], canvas,"
        + "fieldset, [role=slider], [role=listbox], [role=img], [tabindex='0']";
    return [...document.querySelectorAll(`#blocktrain :is(${wanted})`)]
        .filter((element) => element.checkVisibility() && !named(element))
        .map((element) => element.outerHTML.slice(0, 160));
}"""
ON_TOP = """help => {
    const { x, y } = help.getBoundingClientRect();
    return document.elementFromPoint(x + 9, y + 9)?.className === help.className;
}"""
SHIFTS = """() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
            const moved = entry.sources.map(({ node }) => node?.id || node?.className || node?.nodeName);
            window.shifts.push([entry.value, entry.hadRecentInput, String(moved)]);
        }
    }).observe({ type: "layout-shift", buffered: false });
}"""


@pytest.fixture(params=["light", "dark"])
def themed(opened, request) -> Opened:
    opened.page.evaluate("dark => document.body.classList.toggle('dark', dark)", request.param == "dark")
    opened.active("robot")
    return opened


def test_words_stand_out_and_everything_has_a_name(themed):
    low, nameless = {}, {}
    for place in PLACES:
        themed.go(place)
        themed.page.wait_for_timeout(300)
        low[place] = themed.page.evaluate(LOW_CONTRAST)
        nameless[place] = themed.page.evaluate(NAMELESS)
    assert not any(low.values()), json.dumps(low, indent=1, ensure_ascii=False)
    assert not any(nameless.values()), json.dumps(nameless, indent=1, ensure_ascii=False)


def test_every_field_says_what_it_is_for(opened):
    """The help is shown at a field that has the focus, above it and within the window; a button has a title."""
    page = opened.page
    for place, field, words in (("Preview", "seed", "With -1 a new seed"), ("Train", "train_network_rank", "8 to 32")):
        opened.go(place)
        box = page.locator(f"#blocktrain_{field} input").first
        assert not page.locator(f"#blocktrain_{field} .blocktrain-help").is_visible()
        mark = page.locator(f"#blocktrain_{field} .has-info")
        opacity = "(label) => getComputedStyle(label, '::after').opacity"
        assert mark.evaluate(opacity) == "0"  # a mark at every label at once is noise
        box.focus()
        assert mark.evaluate(opacity) == "1"
        shown = page.locator(f"#blocktrain_{field} .blocktrain-help")
        shown.wait_for()
        assert words in shown.inner_text()
        assert box.get_attribute("aria-describedby") == shown.get_attribute("id")
        page.wait_for_timeout(700)  # it appears after half a second
        assert shown.evaluate(ON_TOP), "cut off, or behind something"
        where = shown.bounding_box()
        assert where["x"] >= 0
        assert where["x"] + where["width"] <= 1280
    assert "queue" in page.locator(opened.button("train_start")).get_attribute("title")


def test_nothing_moves_while_pictures_are_drawn(opened):
    opened.small()
    opened.page.evaluate(SHIFTS)
    opened.type("seed", 77)
    opened.preview()
    shifts = opened.page.evaluate("window.shifts")
    assert sum(value for value, by_hand, _ in shifts if not by_hand) < 0.02, shifts
