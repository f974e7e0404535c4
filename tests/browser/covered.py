"""Asserts that nothing in a page overflows its box, covers what can be pressed, or leaves the screen."""

from __future__ import annotations

# What may lie over the page: menus, dialogs, the open library, help at a field.
POPOVERS = (
    ".blocktrain-pop",
    "dialog",
    ".blocktrain-is-open .blocktrain-library",
    ".blocktrain-help",
    "ul.options",
    "[role=tooltip]",
)
FAULTS = """([popovers, allowed]) => {
    const root = document.getElementById("blocktrain");
    const name = (element) => {
        const near = element.closest("[id]");
        const kind = element.tagName.toLowerCase() + "." + String(element.className).split(" ")[0];
        const own = element.id ? "#" + element.id : kind;
        const text = (element.getAttribute("aria-label") || element.textContent || "").trim().slice(0, 30);
        return `${own} in #${near?.id} “${text}”`;
    };
    const shown = (element) => {
        const box = element.getBoundingClientRect();
        const seen = { opacityProperty: true, visibilityProperty: true };
        return box.width > 1 && box.height > 1 && element.checkVisibility(seen);
    };
    const excused = (element) => [...popovers, ...allowed].some((selector) => element.closest(selector));
    const scrolls = (style) => /(auto|scroll)/.test(style);
    const faults = [];
    // 1. The page does not scroll sideways, and nothing stands beside the screen.
    const wide = document.documentElement.scrollWidth - innerWidth;
    if (wide > 1) faults.push(`the page is ${wide} px wider than the screen`);
    const all = [...root.querySelectorAll("*")].filter(
        (element) => !(element instanceof SVGElement && element.ownerSVGElement) && shown(element) && !excused(element)
    );
    for (const element of all) {
        const box = element.getBoundingClientRect();
        let clip = { left: 0, right: innerWidth };
        let cut = false;
        for (let at = element.parentElement; at && at !== document.body; at = at.parentElement) {
            const style = getComputedStyle(at);
            if (style.overflowX !== "visible") {
                const around = at.getBoundingClientRect();
                cut ||= scrolls(style.overflowX) || style.overflowX === "hidden" || style.overflowX === "clip";
                clip = { left: Math.max(clip.left, around.left), right: Math.min(clip.right, around.right) };
            }
        }
        if (!cut && (box.right > innerWidth + 1 || box.left < -1)) {
            faults.push(`leaves the screen (${Math.round(box.left)} to ${Math.round(box.right)}): ${name(element)}`);
        }
        // 2. What is in an element is no larger than the element, unless that scrolls or cuts its text with dots.
        const style = getComputedStyle(element);
        const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        const dots = style.textOverflow === "ellipsis" || style.webkitLineClamp !== "none";
        const field = /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName);
        if (text && !field && !dots && style.display !== "inline") {
            if (element.scrollWidth > element.clientWidth + 2 && !scrolls(style.overflowX)) {
                faults.push(`overflows by ${element.scrollWidth - element.clientWidth} px sideways: ${name(element)}`);
            }
            const below = element.scrollHeight - element.clientHeight;
            if (below > 4 && !scrolls(style.overflowY) && style.overflowY !== "visible") {
                faults.push(`overflows by ${below} px below: ${name(element)}`);
            }
        }
    }
    // 3. What can be pressed is on top where it stands.
    const pressable = "button, input:not([type=hidden]):not([type=file]), textarea, select, summary, a[href],"
        + "[role=tab], [role=option]";
    for (const element of root.querySelectorAll(pressable)) {
        if (!shown(element) || excused(element)) continue;
        const box = element.getBoundingClientRect();
        const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
        let within = x >= 0 && x < innerWidth && y >= 0 && y < innerHeight;
        for (let at = element.parentElement; at && within; at = at.parentElement) {
            const style = getComputedStyle(at);
            if (style.overflowX !== "visible" || style.overflowY !== "visible") {
                const around = at.getBoundingClientRect();
                within = x >= around.left && x <= around.right && y >= around.top && y <= around.bottom;
            }
        }
        const top = within && document.elementFromPoint(x, y);
        if (!top || element.contains(top) || top.contains(element) || excused(top)) continue;
        const label = top.closest("label");
        const sticky = top.closest(".blocktrain-head, .blocktrain-bar");
        if (label?.contains(element) || label?.control === element || sticky) continue; // scrolled below a sticky bar
        faults.push(`${name(element)} is covered by ${name(top)}`);
    }
    return [...new Set(faults)];
}"""


def faults(page, allowed: tuple[str, ...] = ()) -> list[str]:
    """What is wrong, as sentences; ``allowed`` are selectors of elements that may be so."""
    return page.evaluate(FAULTS, [list(POPOVERS), list(allowed)])


def nothing_covered(page, step: str = "", allowed: tuple[str, ...] = ()) -> None:
    """Raise AssertionError if something overflows its box, is covered, or leaves the screen."""
    found = faults(page, allowed)
    assert not found, f"{step}: " + "\n".join(found[:12])
