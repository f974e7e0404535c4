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

    window.blocktrainWebUI = { write, edit };
})();
