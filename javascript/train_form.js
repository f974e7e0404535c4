// Train: an error that names an entry of run.json ("optimizer.lr = 'x': expected …") is shown at its field, too; what is
// set in the folded groups stands beside their titles; what the menu of presets says where the weights are those of none.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const ENTRY = /^([a-z_0-9]+(?:\.[a-z_0-9]+)*)(?:\[\S+)?(?: = |: | is empty)/;
    const PLACES = ["#blocktrain_train_message", "#blocktrain_train_estimate"];
    let shown = "";

    function fieldOf(text) {
        const path = ENTRY.exec(text)?.[1];
        const name = path?.replaceAll(".", "_");
        const whole = name && document.getElementById(`blocktrain_train_${name}`);
        return whole || (name ? document.querySelector(`[id^="blocktrain_train_"][id$="_${name}"]`) : null);
    }

    function mark(field, wrong) {
        field.classList.toggle("blocktrain-wrong", wrong);
        field.querySelectorAll("input, textarea").forEach((box) => {
            wrong ? box.setAttribute("aria-invalid", "true") : box.removeAttribute("aria-invalid");
        });
    }

    function showErrors() {
        const failures = PLACES.map((place) => document.querySelector(`${place} .blocktrain-failure`)?.textContent ?? "");
        const now = failures.join("\n");
        if (now === shown) {
            return;
        }
        shown = now;
        document.querySelectorAll("#blocktrain .blocktrain-wrong").forEach((field) => mark(field, false));
        failures.forEach((text, place) => {
            const field = fieldOf(text);
            if (field) {
                mark(field, true);
                if (place === 0) {
                    field.scrollIntoView({ block: "center" }); // the start was refused: go where it can be put right
                }
            }
        });
    }

    function fillFolds() {
        document.querySelectorAll("#blocktrain_train_folds [data-fold]").forEach((set) => {
            const title = document.querySelector(`#blocktrain_train_fold_${set.dataset.fold} > .label-wrap > span:not(.icon)`);
            const said = set.textContent.trim();
            if (title && (title.dataset.said ?? "") !== said) {
                said ? (title.dataset.said = said) : delete title.dataset.said;
            }
        });
    }

    function namePlace() {
        const menu = document.querySelector("#blocktrain_train_preset input");
        if (menu && !menu.placeholder) {
            menu.placeholder = blocktrain.localized("none of the presets");
        }
    }

    (blocktrain.pageChanged ||= new Set()).add(showErrors).add(fillFolds);
    (blocktrain.pageSettled ||= new Set()).add(namePlace);
})();
