// Draws the pairs of blocks that replace or need each other as arcs on a U map. The element's `data-pairs` has two blocks
// and a number for each; below 0 they replace each other, above they need each other. Wider arcs are stronger.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const [THIN, WIDE] = [1.5, 5]; // pixels
    const SAG = 22; // pixels that an arc between two blocks of a row hangs down

    // From the lower edge of the upper block to the upper edge of the other one; in a row from lower edge to lower edge.
    function arc(first, second, field) {
        const around = field.getBoundingClientRect();
        const [upper, lower] = [first, second]
            .map((block) => block.getBoundingClientRect())
            .sort((one, other) => one.top - other.top);
        const row = lower.top - upper.top < upper.height;
        const [x0, x1] = [upper, lower].map((box) => box.left + box.width / 2 - around.left);
        const [y0, y1] = [upper.bottom - around.top, (row ? lower.bottom : lower.top) - around.top];
        const [down, up] = row ? [y0 + SAG, y1 + SAG] : [(y0 + y1) / 2 + SAG / 2, (y0 + y1) / 2 - SAG / 2];
        return `M${x0} ${y0}C${x0} ${down} ${x1} ${up} ${x1} ${y1}`;
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
                d: arc(...ends, field),
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
