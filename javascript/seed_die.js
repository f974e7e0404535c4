// The die in Preview's seed: pressed, the seed is -1 and each drawing has a new one; released, it is the seed of the
// pictures that are shown.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const RANDOM = "-1";
    const SIDE = "M4 2.5h8A1.5 1.5 0 0 1 13.5 4v8a1.5 1.5 0 0 1-1.5 1.5H4A1.5 1.5 0 0 1 2.5 12V4A1.5 1.5 0 0 1 4 2.5Z";
    const PIPS = "M5.4 5.4h.01M10.6 5.4h.01M8 8h.01M5.4 10.6h.01M10.6 10.6h.01";
    const field = () => document.querySelector("#blocktrain_seed input");

    function toggle() {
        const shown = document.querySelector("#blocktrain_pictures .blocktrain-pictures")?.dataset.seed;
        const input = field();
        input.value = input.value === RANDOM ? shown || "0" : RANDOM;
        input.dispatchEvent(new Event("input", { bubbles: true }));
        look();
    }

    function look() {
        const input = field();
        if (!input) {
            return;
        }
        const block = document.getElementById("blocktrain_seed");
        let die = block.querySelector(".blocktrain-die");
        if (!die) {
            const { drawn, made } = blocktrain;
            const line = { fill: "none", stroke: "currentColor", "stroke-linecap": "round", "stroke-linejoin": "round" };
            const paths = [drawn("path", { d: SIDE, "stroke-width": 1.4, ...line }), drawn("path", { d: PIPS, "stroke-width": 1.8, ...line })];
            const sign = drawn("svg", { class: "blocktrain-ic", viewBox: "0 0 16 16", "aria-hidden": "true" }, ...paths);
            die = made("button", { type: "button", className: "blocktrain-die", title: "Random seed" }, sign);
            die.setAttribute("aria-label", "Random seed");
            die.addEventListener("click", toggle);
            block.append(die);
        }
        const pressed = String(input.value === RANDOM);
        if (die.getAttribute("aria-pressed") !== pressed) {
            die.setAttribute("aria-pressed", pressed);
        }
    }

    blocktrain.lookAtSeed = look;
})();
