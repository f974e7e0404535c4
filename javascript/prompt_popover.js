// The editor of the tag at the cursor, over the WebUI's own page: strength, preset, the blocks in the U's order, steps. Every
// change is written into the tag at once (prompt_tag.js); it closes with Esc, and with a press elsewhere.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const SETTLE = 250; // milliseconds after the last key on a slider
    const EDGE = 8; // pixels to the window's edge
    let open = null; // the editor that is shown: its area, tag and parts

    function element(name, attributes = {}, ...children) {
        const made = document.createElement(name);
        for (const [key, value] of Object.entries(attributes)) {
            made.setAttribute(key, value);
        }
        made.append(...children);
        return made;
    }

    function slider(label, low, high, step) {
        const input = element("input", { type: "range", min: low, max: high, step, "aria-label": label });
        return { input, output: element("output") };
    }

    function show({ input, output }, value) {
        input.min = Math.min(Number(input.min), value); // a weight outside of the slider's range is shown, not changed
        input.max = Math.max(Number(input.max), value);
        input.value = value;
        paint({ input, output }, value);
    }

    function paint({ input, output }, value = Number(input.value)) {
        const share = (number) => (100 * (number - input.min)) / (input.max - input.min);
        const [from, to] = [share(0), share(value)].sort((one, other) => one - other);
        input.style.setProperty("--blocktrain-from", `${from}%`);
        input.style.setProperty("--blocktrain-to", `${to}%`);
        input.classList.toggle("blocktrain-tag-minus", value < 0);
        output.textContent = String(Number(value.toFixed(3)));
    }

    // The U: IN down the left side, OUT up the right one, M00 at its foot; the text encoder beside it.
    function order(ids) {
        const ins = ids.filter((id) => id.startsWith("IN"));
        const outs = ids.filter((id) => id.startsWith("OUT")).reverse();
        const rows = ins.flatMap((id, index) => [id, outs[index]]);
        return [...rows, "BASE", "M00"].filter((id) => ids.includes(id));
    }

    function build(area) {
        const parts = { blocks: {} };
        const close = element("button", { type: "button", "aria-label": "Close", class: "blocktrain-tag-close" }, "✕");
        close.addEventListener("click", () => shut(true));
        parts.title = element("b");
        parts.strength = slider("Strength", -1, 2, 0.05);
        parts.preset = element("select", { "aria-label": "Preset" });
        parts.u = element("div", { class: "blocktrain-tag-u", role: "group", "aria-label": "Block weights" });
        parts.first = element("input", { type: "number", min: 1, step: 1, "aria-label": "From step" });
        parts.end = element("input", { type: "number", min: 1, step: 1, "aria-label": "Until before step", placeholder: "end" });
        parts.problem = element("p", { role: "alert" });
        parts.notices = element("p", { role: "status" });
        const row = (label, ...rest) => element("div", { class: "blocktrain-tag-row" }, element("span", {}, label), ...rest);
        parts.box = element(
            "div",
            { class: "blocktrain-tag-pop", role: "dialog", "aria-label": "Block weights of the tag", tabindex: "-1" },
            element("header", {}, parts.title, close),
            row("Strength", parts.strength.input, parts.strength.output),
            row("Preset", parts.preset),
            parts.u,
            row("Steps", parts.first, element("span", {}, "until before"), parts.end),
            parts.problem,
            parts.notices,
        );
        const editor = { area, parts, tag: null, waiting: null, busy: false, timer: 0, held: null };
        slides(editor, parts.strength, () => ({ strength: Number(parts.strength.input.value) }));
        parts.preset.addEventListener("change", () => commit(editor, { weights: parts.preset.value }));
        parts.first.addEventListener("change", () => commit(editor, { first: Number(parts.first.value) || 1 }));
        parts.end.addEventListener("change", () => commit(editor, { end: Number(parts.end.value) || 0 }));
        parts.box.addEventListener("keydown", (event) => keys(event, editor));
        return editor;
    }

    // A slider writes when it is let go, or a moment after the last key.
    function slides(editor, one, change) {
        one.input.addEventListener("input", () => {
            paint(one);
            clearTimeout(editor.timer);
        });
        one.input.addEventListener("pointerdown", () => (editor.held = one.input));
        one.input.addEventListener("change", () => {
            clearTimeout(editor.timer);
            if (editor.held) {
                editor.held = null;
                commit(editor, change());
            } else {
                editor.timer = setTimeout(() => commit(editor, change()), SETTLE);
            }
        });
    }

    function keys(event, editor) {
        if (event.key === "Escape") {
            event.preventDefault();
            shut(true);
        }
        event.stopPropagation(); // the WebUI's own keys are for its page
        if (event.target.matches?.("input[type=number], select") || !event.target.matches?.("input[type=range]")) {
            return;
        }
        const to = { 0: 0, 1: 1, "-": -Number(event.target.value) }[event.key];
        if (to !== undefined && !event.ctrlKey && !event.altKey && !event.metaKey) {
            event.preventDefault();
            editor.held = null;
            event.target.value = to;
            event.target.dispatchEvent(new Event("input"));
            event.target.dispatchEvent(new Event("change"));
        }
    }

    function fillBlocks(editor) {
        const { parts, tag } = editor;
        const ids = Object.keys(tag.values || {});
        if (Object.keys(parts.blocks).join() !== order(ids).join()) {
            parts.blocks = {};
            parts.u.replaceChildren();
            for (const id of order(ids)) {
                const one = (parts.blocks[id] = slider(id, -1, 2, 0.05));
                parts.u.append(element("label", { "data-block": id }, element("span", {}, id), one.input, one.output));
                slides(editor, one, () => ({ values: valuesOf(editor) }));
            }
        }
        for (const [id, one] of Object.entries(parts.blocks)) {
            const lacks = tag.lacks.includes(id);
            one.input.disabled = lacks;
            one.input.parentElement.title = lacks ? `${id}: no layers in this LoRA` : "";
            if (one.input !== editor.held) {
                one.value = tag.values[id];
                show(one, tag.values[id]);
            }
        }
    }

    // The weights of all blocks; one that was not moved keeps its exact value, which a slider's step would round.
    function valuesOf(editor) {
        const values = {};
        for (const [id, one] of Object.entries(editor.parts.blocks)) {
            const moved = Number(one.input.value);
            values[id] = Math.abs(moved - one.value) < Number(one.input.step) / 2 ? one.value : moved;
        }
        return values;
    }

    function fill(editor) {
        const { parts, tag } = editor;
        parts.title.textContent = tag.name;
        parts.strength.input.disabled = Boolean(tag.fixed);
        parts.strength.input.title = tag.fixed;
        if (parts.strength.input !== editor.held) {
            show(parts.strength, tag.strength);
        }
        const exact = tag.presets.includes(tag.weights) ? tag.weights : null;
        const written = exact === null && tag.weights ? [element("option", { value: tag.weights }, tag.weights)] : [];
        const none = element("option", { value: "" }, "no block weights");
        parts.preset.replaceChildren(...written, none, ...tag.presets.map((name) => element("option", { value: name }, name)));
        parts.preset.value = tag.weights;
        fillBlocks(editor);
        parts.first.value = tag.first;
        parts.end.value = tag.end || "";
        parts.problem.textContent = tag.problem;
        parts.notices.textContent = tag.notices.join("; ");
        place(editor);
    }

    // Below the prompt, or at the pointer; on a narrow page at its foot, where CSS puts it.
    function place(editor) {
        const { box } = editor.parts;
        const at = editor.at || { x: editor.area.getBoundingClientRect().left, y: editor.area.getBoundingClientRect().bottom + 4 };
        box.style.left = `${Math.max(EDGE, Math.min(at.x, window.innerWidth - box.offsetWidth - EDGE))}px`;
        box.style.top = `${Math.max(EDGE, Math.min(at.y, window.innerHeight - box.offsetHeight - EDGE))}px`;
    }

    // Write a change into the tag; changes that come meanwhile follow in one.
    async function commit(editor, change) {
        const { weights, values, ...rest } = { ...editor.waiting, ...change };
        const latest = change.weights !== undefined ? { weights } : change.values !== undefined ? { values } : { weights, values };
        editor.waiting = { ...rest, ...latest };
        if (editor.busy) {
            return;
        }
        editor.busy = true;
        try {
            while (editor.waiting && editor === open) {
                const asked = editor.waiting;
                editor.waiting = null;
                const sent = editor.area.value;
                const found = await blocktrain.promptTag.ask(sent, editor.tag.start + 1, asked);
                if (editor !== open) {
                    return;
                }
                if (editor.area.value !== sent) { // typed meanwhile
                    editor.waiting = { ...asked, ...editor.waiting };
                    continue;
                }
                take(editor, found);
            }
        } catch (error) {
            editor.parts.problem.textContent = error.message;
            editor.waiting = null;
        } finally {
            editor.busy = false;
        }
    }

    function take(editor, found) {
        if (!found) {
            shut(false);
            return;
        }
        if (editor.area.value.slice(found.start, found.stop) !== found.text) {
            editor.writing = true;
            blocktrain.promptTag.replace(editor.area, found.start, found.stop, found.text);
            editor.writing = false;
        }
        editor.tag = { ...found, stop: found.start + found.text.length };
        fill(editor);
    }

    // The prompt was changed by others: the tag may be another one, or gone.
    async function reread(editor) {
        const position = Math.min(editor.area.selectionStart, editor.area.value.length);
        const found = await blocktrain.promptTag.ask(editor.area.value, position, null).catch(() => null);
        if (editor === open && !editor.busy) {
            take(editor, found);
        }
    }

    let asked = 0; // how often the editor was asked for: the last time counts, whichever answer comes last

    blocktrain.openTag = async (area, at = null) => {
        shut(false);
        const mine = ++asked;
        const [sent, position] = [area.value, area.selectionStart];
        let found = null, problem = "";
        try {
            found = await blocktrain.promptTag.ask(sent, position, null);
        } catch (error) {
            problem = error.message;
        }
        if (mine !== asked || area.value !== sent || (!found && !problem)) {
            return;
        }
        const editor = (open = Object.assign(build(area), { at }));
        document.body.append(editor.parts.box);
        if (found) {
            take(editor, found);
        } else {
            editor.parts.box.classList.add("blocktrain-tag-failed");
            editor.parts.title.textContent = "This tag cannot be read";
            editor.parts.problem.textContent = problem;
            place(editor);
        }
        const first = editor.parts.strength.input;
        (found && !first.disabled ? first : editor.parts.box).focus({ preventScroll: true });
    };

    blocktrain.tagIsOpen = () => open !== null;

    // Close; by the keyboard the cursor goes back to the end of the tag.
    function shut(back) {
        const editor = open;
        if (!editor) {
            return;
        }
        open = null;
        clearTimeout(editor.timer);
        editor.parts.box.remove();
        if (back) {
            editor.area.focus({ preventScroll: true });
            if (editor.tag) {
                editor.area.setSelectionRange(editor.tag.stop, editor.tag.stop);
            }
        }
    }

    document.addEventListener("pointerdown", (event) => {
        if (open && !open.parts.box.contains(event.target)) {
            shut(false);
        }
    }, true);
    document.addEventListener("keydown", (event) => {
        if (open && event.key === "Escape" && !open.parts.box.contains(event.target)) {
            event.stopPropagation();
            shut(true);
        }
    }, true);
    document.addEventListener("input", (event) => {
        if (open && event.target === open.area && !open.writing) {
            reread(open);
        }
    });
    window.addEventListener("resize", () => open && place(open));
})();
