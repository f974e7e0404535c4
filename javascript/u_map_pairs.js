// Draws the pairs of blocks that replace or need each other as arcs on a U map. The element's `data-pairs` has two blocks
// and a number for each; below 0 they replace each other, above they need each other. Wider arcs are stronger.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const [THIN, WIDE] = [1.5, 5]; // pixels
    const BEND = 0.18; // of the distance

    function middle(block, field) {
        const [box, around] = [block.getBoundingClientRect(), field.getBoundingClientRect()];
        return [box.left + box.width / 2 - around.left, box.top + box.height / 2 - around.top];
    }

    function arc([x0, y0], [x1, y1]) {
        const [x, y] = [(x0 + x1) / 2 - BEND * (y1 - y0), (y0 + y1) / 2 + BEND * (x1 - x0)];
        return `M${x0} ${y0}Q${x} ${y} ${x1} ${y1}`;
    }

    function draw(element) {
        const field = element.parentElement;
        const pairs = JSON.parse(element.dataset.pairs);
        const strongest = Math.max(...pairs.map(([, , value]) => Math.abs(value)));
        const arcs = pairs.flatMap(([first, second, value]) => {
            const ends = [first, second].map((id) => field.querySelector(`[data-block="${id}"]`));
            if (ends.includes(null)) {
                return [];
            }
            return blocktrain.drawn("path", {
                class: value < 0 ? "blocktrain-u-replace" : "blocktrain-u-need",
                d: arc(...ends.map((end) => middle(end, field))),
                "stroke-width": THIN + ((WIDE - THIN) * Math.abs(value)) / strongest,
            });
        });
        element.replaceChildren(blocktrain.drawn("svg", { "aria-hidden": "true" }, ...arcs));
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-u-pairs", (element) => {
        new ResizeObserver(() => element.isConnected && draw(element)).observe(element);
    });
})();
