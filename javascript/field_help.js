// Help texts and accessible names of fields and buttons. A field's help is in the page beside its label (style.css
// shows it on demand); it is linked to the field here, for screen readers. A button's help becomes its title. Elements that
// gradio leaves without a name (the number input of a slider in gradio 3, groups, icons) get the name of their label.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const INFO = "#blocktrain [data-testid=block-info] + :not(input):not(.wrap), #blocktrain .block > div:has(+ label > input[type=checkbox])";
    const waiting = new Map(); // id of a button that is not in the page yet -> its title
    let named = 0;

    function name() {
        for (const block of document.querySelectorAll("#blocktrain .block:is(fieldset, :has(.head input[type=number]))")) {
            const label = block.querySelector("[data-testid=block-info]")?.textContent.trim();
            const target = block.matches("fieldset") ? block : block.querySelector(".head input[type=number]");
            if (label && target.getAttribute("aria-label") !== label) {
                target.setAttribute("aria-label", label);
            }
        }
        for (const field of document.querySelectorAll("#blocktrain .block :is(textarea, input):not([aria-label], [type=file])")) {
            const label = field.closest(".block").querySelector("[data-testid=block-info]")?.textContent.trim();
            if (label && !field.labels?.length) {
                field.setAttribute("aria-label", label); // gradio's own label may name its copy button
            }
        }
        for (const icon of document.querySelectorAll("#blocktrain button:not([aria-label]):not([title]):has(> svg)")) {
            if (!icon.textContent.trim()) {
                icon.setAttribute("aria-label", "Copy");
            }
        }
        for (const file of document.querySelectorAll("#blocktrain input[type=file]:not([aria-label])")) {
            const block = file.closest(".block");
            file.setAttribute("aria-label", block?.querySelector("label")?.textContent.trim() || "File");
        }
    }

    function describe() {
        name();
        for (const info of document.querySelectorAll(INFO)) {
            if (info.classList.contains("blocktrain-help") || !info.textContent.trim()) {
                continue;
            }
            info.classList.add("blocktrain-help");
            info.id ||= `blocktrain_help_${(named += 1)}`;
            const block = info.closest(".block");
            for (const field of block.querySelectorAll("input, textarea, [role=listbox]")) {
                field.setAttribute("aria-describedby", info.id);
            }
        }
        for (const [id, title] of waiting) {
            const button = document.querySelector(`button#${id}, #${id} button`);
            if (button) {
                button.title = title;
                waiting.delete(id);
            }
        }
    }

    (blocktrain.pageSettled ||= new Set()).add(describe);
    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-titles", (element) => {
        for (const [name, title] of Object.entries(JSON.parse(element.dataset.titles))) {
            waiting.set(`blocktrain_${name}`, title);
        }
    });
})();
