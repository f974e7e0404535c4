// The tag of a LoRA at the cursor, in the prompts of the WebUI's own page: what opens its editor (prompt_popover.js), what
// the server says of the tag (POST /blocktrain/v1/prompt/tag), and how its text is replaced. Not used by the standalone page.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const PROMPTS = ["txt2img_prompt", "img2img_prompt", "hires_prompt"].map((id) => `#${id} textarea`).join(", ");
    const KEY = "Alt+B";

    // A setting of the WebUI, as its page has it.
    function setting(name, otherwise) {
        const known = typeof window.opts === "object" && window.opts !== null ? window.opts[name] : undefined;
        return known === undefined ? otherwise : known;
    }

    // Whether an event is the key of a text such as "Alt+B"; by its place on the keyboard too, since Alt may change a letter.
    function isKey(event, text) {
        const words = String(text).toLowerCase().split("+").map((word) => word.trim());
        const key = words.pop();
        const held = { alt: event.altKey, ctrl: event.ctrlKey, shift: event.shiftKey, meta: event.metaKey };
        const wanted = Object.keys(held).every((name) => held[name] === words.includes(name));
        return Boolean(key) && wanted && (event.key.toLowerCase() === key || event.code.toLowerCase() === `key${key}`);
    }

    // Whether a position is in a tag of a LoRA, or touches one. What the tag says, the server reads.
    function inTag(text, position) {
        return [position - 1, position].some((from) => {
            const start = text.lastIndexOf("<", from);
            const end = text.indexOf(">", start);
            return start >= 0 && end >= position - 1 && /^<(lora|lyco):/.test(text.slice(start, start + 6));
        });
    }

    // What the server says of the tag at a position, with a change; null where there is none.
    async function ask(prompt, position, change) {
        let response;
        try {
            response = await fetch("./blocktrain/v1/prompt/tag", {
                method: "POST",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ prompt, position, ...(change ? { change } : {}) }),
            });
        } catch {
            throw new Error("the server does not answer");
        }
        const answer = await response.json().catch(() => ({}));
        if (!response.ok) {
            throw new Error(answer.detail || `the server answered ${response.status}`);
        }
        return answer.tag;
    }

    // Replace a part of a prompt as typing would, so that the browser's undo takes it back. The focus stays where it is.
    function replace(area, start, stop, text) {
        const focused = document.activeElement;
        const [mode, top] = [area.getAttribute("inputmode"), area.scrollTop];
        area.setAttribute("inputmode", "none"); // a phone would show its keyboard
        area.focus({ preventScroll: true });
        area.setSelectionRange(start, stop);
        // Another extension would take the browser's own event for typing, and complete the tag.
        const untold = (event) => event.stopImmediatePropagation();
        window.addEventListener("input", untold, true);
        try {
            if (!document.execCommand("insertText", false, text)) {
                area.setRangeText(text, start, stop, "end");
            }
        } finally {
            window.removeEventListener("input", untold, true);
        }
        area.dispatchEvent(new Event("input", { bubbles: true }));
        area.scrollTop = top;
        if (focused && focused !== area && focused !== document.body) {
            focused.focus({ preventScroll: true });
        }
        if (mode === null) {
            area.removeAttribute("inputmode");
        } else {
            area.setAttribute("inputmode", mode);
        }
    }

    function promptOf(element) {
        return element instanceof Element && element.matches(PROMPTS) ? element : null;
    }

    document.addEventListener("keydown", (event) => {
        const area = promptOf(event.target);
        if (area && isKey(event, setting("blocktrain_tag_key", KEY))) {
            event.preventDefault();
            event.stopPropagation();
            event.repeat || blocktrain.openTag(area);
        }
    }, true);

    // After the prompt's own listeners: another extension that answers a right click there keeps it.
    document.addEventListener("contextmenu", (event) => {
        const area = promptOf(event.target);
        const wanted = area && !event.defaultPrevented && !event.shiftKey && setting("blocktrain_tag_menu", true);
        if (wanted && inTag(area.value, area.selectionStart)) {
            event.preventDefault();
            blocktrain.openTag(area, { x: event.clientX, y: event.clientY });
        }
    });

    // A finger has neither: a button appears while the cursor is in a tag.
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "blocktrain-tag-chip";
    chip.textContent = "Block weights";
    let chosen = null;
    chip.addEventListener("pointerdown", (event) => event.preventDefault()); // the prompt keeps the focus
    chip.addEventListener("click", () => {
        chip.remove();
        if (chosen) {
            blocktrain.openTag(chosen);
        }
    });
    document.addEventListener("selectionchange", () => {
        const area = promptOf(document.activeElement);
        const finger = window.matchMedia("(pointer: coarse)").matches;
        if (!area || !finger || !inTag(area.value, area.selectionStart) || blocktrain.tagIsOpen()) {
            if (document.activeElement !== chip) {
                chip.remove();
            }
            return;
        }
        chosen = area;
        const box = area.getBoundingClientRect();
        document.body.append(chip);
        chip.style.left = `${Math.max(8, box.right - chip.offsetWidth - 8)}px`;
        chip.style.top = `${Math.min(window.innerHeight - chip.offsetHeight - 8, box.bottom + 4)}px`;
    });

    blocktrain.promptTag = { ask, replace };
})();
