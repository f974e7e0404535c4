// Switches a U map between the values on its buttons, as Analyse's between A, B and their difference. The choice outlasts
// the map: the server sends a new one whenever what is kept changes.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const chosen = new Map(); // place among the buttons, by the id of the map

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-u-views", (views) => {
        const map = views.closest(".blocktrain-u");
        const buttons = [...views.children];
        const show = (place) => {
            chosen.set(map.id, place);
            buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(n === place)));
            const { values, title } = buttons[place].dataset;
            map.dataset.valuesTitle = title;
            map.dataset.values = values;
        };
        buttons.forEach((button, place) => button.addEventListener("click", () => show(place)));
        show(chosen.get(map.id) ?? 0);
    });
})();
