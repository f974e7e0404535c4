// Preset cards, which `lib_blocktrain/ui/preset_cards.py` makes: search, Copy and Use, without a request to the server.
// When the server sends new ones, the menu of presets and the accordion's follow.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const FEEDBACK = 1500; // ms for which a button shows what it has done

    function say(button, text) {
        const before = button.textContent;
        button.textContent = text;
        button.disabled = true;
        setTimeout(() => {
            button.textContent = before;
            button.disabled = false;
        }, FEEDBACK);
    }

    // Shows the cards that have all the words and, where one is chosen, the grade.
    function search(element) {
        const words = element.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
        const grade = element.querySelector("select").value;
        const cards = [...element.querySelectorAll(".blocktrain-card")];
        for (const card of cards) {
            const fits = words.every((word) => card.dataset.words.includes(word));
            card.hidden = !fits || (grade !== "" && card.dataset.grade !== grade);
        }
        const shown = cards.filter((card) => !card.hidden).length;
        element.querySelector("[role=status]").textContent = `${shown} of ${cards.length}`;
    }

    async function press(element, button) {
        if (button.dataset.copy) {
            const copied = await blocktrain.copy(button.dataset.copy);
            say(button, copied === false ? "no clipboard" : "copied");
        } else if ("use" in button.dataset) {
            const { weights, changes, name } = button.closest("li").dataset;
            blocktrain.uMap.apply(element.dataset.uMap, { name, weights: JSON.parse(weights), changes });
            say(button, "in use");
        }
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-cards", (element) => {
        element.addEventListener("input", () => search(element));
        element.addEventListener("click", (event) => {
            const button = event.target.closest("button");
            if (button) {
                press(element, button);
            }
        });
        search(element);
        setTimeout(() => {
            blocktrain.presetMenu.list();
            blocktrain.presetBase.presetsChanged();
            blocktrain.presetsInWebUI?.([...element.querySelectorAll(".blocktrain-card")].map((card) => card.dataset.name));
        });
    });
})();
