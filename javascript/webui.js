// The accordion's buttons in a WebUI's own page. The standalone page has neither accordion nor prompt of that kind.
(() => {
    "use strict";

    const TAG = /<(lora|lyco):([^>]+)>/g;

    function box(id) {
        return gradioApp().querySelector(`#${id} textarea, #${id} input`);
    }

    function put(field, text) {
        field.value = text;
        field.dispatchEvent(new Event("input", { bubbles: true }));
    }

    // One line for all LoRAs, or NAME: weights for each, as the accordion's help says.
    function weightsOf(name, names, lines) {
        let all = null;
        for (const line of lines) {
            const colon = line.indexOf(":");
            const head = colon < 0 ? "" : line.slice(0, colon).trim();
            if (head === name) {
                return line.slice(colon + 1).trim();
            }
            if (!names.includes(head)) {
                all = colon < 0 ? line : line.slice(colon + 1).trim();
            }
        }
        return all;
    }

    function write(place, text) {
        const field = box(`${place}_prompt`);
        const lines = (text || "").split("\n").map((line) => line.trim()).filter(Boolean);
        if (!field || !lines.length) {
            return;
        }
        const names = [...field.value.matchAll(TAG)].map((found) => found[2].split(":")[0]);
        const written = field.value.replace(TAG, (tag, kind, inside) => {
            const items = inside.split(":").filter((item) => !/^l?bw=/.test(item));
            const weights = weightsOf(items[0], names, lines);
            return weights === null ? tag : `<${kind}:${[...items, `bw=${weights}`].join(":")}>`;
        });
        put(field, written);
    }

    function edit(title, text) {
        const buttons = [...gradioApp().querySelectorAll("#tabs > .tab-nav > button")];
        const button = buttons.find((candidate) => candidate.textContent.trim() === title);
        if (button) {
            button.click();
        }
        const field = box("blocktrain_paste");
        if (field && text) {
            put(field, text.split("\n")[0]);
        }
    }

    // What the parameters below the picture say of it: {NAME: values}.
    function madeWith(place) {
        const text = gradioApp().querySelector(`#html_info_${place}`)?.innerText || "";
        const found = text.match(/\bBlock weights: ("(?:[^"\\]|\\.)*"|[^,\n]*)/);
        const value = found ? (found[1].startsWith('"') ? JSON.parse(found[1]) : found[1]) : "";
        const entries = [...value.matchAll(/(?:^|; )([^:]+): ([^:;]*)/g)];
        return Object.fromEntries(entries.map((entry) => [entry[1], entry[2].trim()]));
    }

    // The WebUI sends the prompt as it was typed: values drawn at random would be drawn again, from another seed.
    function fix(place, target, until) {
        const typed = box(`${place}_prompt`).value;
        const values = madeWith(place);
        const fixed = typed.replace(TAG, (tag, kind, inside) => {
            const [name, ...items] = inside.split(":");
            const weights = items.find((item) => /^l?bw=/.test(item)) || "";
            if (!(name in values) || !/(^|[=,\s])[RU]([,\s]|$)/.test(weights)) {
                return tag;
            }
            const drawn = items.map((item) => (item === weights ? `bw=${values[name]}` : item));
            return `<${kind}:${[name, ...drawn].join(":")}>`;
        });
        if (fixed === typed) {
            return;
        }
        const field = box(`${target}_prompt`);
        const wait = setInterval(() => {
            if (field.value === typed) {
                put(field, fixed);
            }
            if (field.value === fixed || Date.now() > until) {
                clearInterval(wait);
            }
        }, 100);
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("[id$=_send_to_img2img], [id$=_send_to_inpaint]");
        const place = button?.id.split("_send_to_")[0];
        if (place === "txt2img" || place === "img2img") {
            fix(place, "img2img", Date.now() + 30000);
        }
    }, true);

    window.blocktrainWebUI = { write, edit };
})();
