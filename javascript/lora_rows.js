// The LoRAs in use, above the library: a row each, with strength, mute and remove. The weights below are those of the
// active row; a click on a row makes it active.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const PATIENCE = 20000; // ms since the page was opened
    const [LOW, HIGH] = [-2, 2]; // as workspace/lora_selection.py has them
    const SIGNS = {
        shown: '<path d="M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8Z"/><circle cx="8" cy="8" r="2"/>',
        muted: '<path d="M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8ZM2.5 13.5l11-11"/>',
        remove: '<path d="m3.5 3.5 9 9m0-9-9 9"/>',
    };

    function element(tag, className, text = "") {
        const made = document.createElement(tag);
        made.className = className;
        made.textContent = text;
        return made;
    }

    function button(sign, label, act) {
        const made = element("button", "blocktrain-btn blocktrain-icon blocktrain-is-quiet");
        made.type = "button";
        made.title = label;
        made.setAttribute("aria-label", label);
        made.innerHTML = `<svg class="blocktrain-sign" viewBox="0 0 16 16" aria-hidden="true">${SIGNS[sign]}</svg>`;
        made.addEventListener("click", act);
        return made;
    }

    const shown = (number) => String(Math.round(number * 100) / 100);

    // Whether the server has listed the files and brought back what this browser remembers, or takes too long for that.
    const settled = () => blocktrain.loras.store.received && (blocktrain.restored("preview") || performance.now() > PATIENCE);

    // What the list will show once the server has answered, so that nothing below it moves then: what this browser
    // remembers, or else the LoRA that the page starts with.
    function expected(list) {
        const stored = blocktrain.recall?.("preview")?.loras;
        const first = list.closest("[data-first]")?.dataset.first;
        return Array.isArray(stored)
            ? stored.map((one) => ({ key: String(one.lora), strength: Number(one.strength), muted: Boolean(one.muted) }))
            : first ? [{ key: first, strength: 1, muted: false }] : [];
    }

    function facts(file) {
        if (!file) {
            return blocktrain.loras.store.received ? "not in the folders" : "reading …";
        }
        if (!file.known) {
            return "reading …";
        }
        const reason = blocktrain.loras.why(file);
        return reason || [file.rank, `${file.blocks} blocks`, file.algorithm].filter(Boolean).join(" · ");
    }

    function strength(one, name) {
        const range = element("input", "blocktrain-strength");
        Object.assign(range, { type: "range", min: LOW, max: HIGH, step: 0.05, value: one.strength });
        range.setAttribute("aria-label", `Strength of ${name}`);
        const box = element("input", "blocktrain-num");
        Object.assign(box, { type: "number", min: LOW, max: HIGH, step: 0.05, value: shown(one.strength) });
        box.setAttribute("aria-label", `Strength of ${name}, number`);
        const draw = (value) => {
            const [zero, at] = [0, value].map((number) => (number - LOW) / (HIGH - LOW));
            range.style.setProperty("--f", Math.min(zero, at));
            range.style.setProperty("--t", Math.max(zero, at));
            range.style.setProperty("--p", at);
            range.classList.toggle("blocktrain-is-negative", value < 0);
        };
        const use = (value) => {
            if (!Number.isFinite(value)) {
                box.value = shown(one.strength);
                return;
            }
            blocktrain.loras.set(one.key, { strength: Math.min(Math.max(value, LOW), HIGH) });
        };
        draw(one.strength);
        range.addEventListener("input", () => {
            box.value = shown(Number(range.value));
            draw(Number(range.value));
        });
        range.addEventListener("change", () => use(Number(range.value)));
        range.addEventListener("dblclick", () => use(1));
        box.addEventListener("change", () => use(box.value === "" ? NaN : Number(box.value)));
        return [range, box];
    }

    function row(one) {
        const { store } = blocktrain.loras;
        const file = store.files.get(one.key);
        const name = file?.name || one.key.split("/").at(-1);
        const made = element("li", "blocktrain-lora blocktrain-is-on");
        made.dataset.key = one.key;
        made.classList.toggle("blocktrain-is-active", one.key === store.active);
        made.classList.toggle("blocktrain-is-muted", one.muted);
        made.classList.toggle("blocktrain-is-no", Boolean(blocktrain.loras.why(file)));
        const title = element("button", "blocktrain-lora-t");
        title.type = "button";
        title.title = `${one.key}\nShow its weights`;
        title.setAttribute("aria-pressed", String(one.key === store.active));
        const words = [one.muted ? "muted" : "", facts(file)].filter(Boolean).join(" · ");
        title.append(element("b", "", name), element("small", "", words));
        title.addEventListener("click", () => one.key !== store.active && blocktrain.loras.activate(one.key));
        const mute = button(one.muted ? "muted" : "shown", one.muted ? `Unmute ${name}` : `Mute ${name}`, () =>
            blocktrain.loras.set(one.key, { muted: !one.muted })
        );
        mute.setAttribute("aria-pressed", String(one.muted));
        mute.dataset.act = "mute";
        const remove = button("remove", `Remove ${name}`, () => blocktrain.loras.remove(one.key));
        remove.dataset.act = "remove";
        made.append(blocktrain.loras.thumbnail(one.key, file), title, ...strength(one, name), mute, remove);
        return made;
    }

    const place = (node, list) => {
        const inside = node.closest("li")?.dataset.key;
        const parts = [...(node.closest("li")?.querySelectorAll("button, input") || [])];
        return list.contains(node) && inside ? [inside, parts.indexOf(node)] : null;
    };

    // Draws the rows; the focus stays where it was.
    function draw(list) {
        const focus = document.activeElement && place(document.activeElement, list);
        list.inert = !settled();
        list.replaceChildren(...(list.inert ? expected(list) : blocktrain.loras.store.loras).map(row));
        list.hidden = !list.children.length;
        const active = list.querySelector(".blocktrain-is-active");
        if (active && active.dataset.key !== list.dataset.active) {
            const above = active.offsetTop - list.offsetTop;
            list.scrollTop = Math.min(Math.max(list.scrollTop, above + active.offsetHeight - list.clientHeight), above);
        }
        list.dataset.active = active?.dataset.key || "";
        if (focus) {
            const again = [...list.children].find((one) => one.dataset.key === focus[0]) || list.firstElementChild;
            again?.querySelectorAll("button, input")[focus[1]]?.focus();
        }
    }

    // Puts the list of rows after an element; it is drawn anew when the LoRAs in use change, or what is known of them.
    blocktrain.loraRows = (place) => {
        const list = element("ul", "blocktrain-loras");
        list.setAttribute("aria-label", "LoRAs in use");
        let drawn = "";
        const update = () => {
            const { loras, active, files, architecture, received } = blocktrain.loras.store;
            const known = loras.map((one) => files.get(one.key));
            const now = JSON.stringify([loras, active, architecture, received, settled(), known]);
            if (now !== drawn) {
                drawn = now;
                draw(list);
            }
        };
        blocktrain.loras.listen(update);
        blocktrain.pageChanged.add(() => list.inert && update());
        place.after(list);
        draw(list);
    };
})();
