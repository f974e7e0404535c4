// The help of fields and buttons. A field's stands in the page beside its label (style.css shows it on demand); here it
// is tied to the field for screen readers. A button has no place for it: it gets a title.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    const INFO = "#blocktrain [data-testid=block-info] + :not(input):not(.wrap), #blocktrain .block > div:has(+ label > input[type=checkbox])";
    const waiting = new Map(); // id of a button that is not in the page yet -> its title
    let named = 0;

    function describe() {
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

    blocktrain.pageChanged ||= new Set();
    blocktrain.pageChanged.add(describe);
    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-titles", (element) => {
        for (const [name, title] of Object.entries(JSON.parse(element.dataset.titles))) {
            waiting.set(`blocktrain_${name}`, title);
        }
        describe();
    });
})();
