// The table of sliders below a U map: a row each for the blocks, drawn by style.css from what this script sets on it.
// The bar goes from 0 to the weight (`--blocktrain-from`, `--blocktrain-to`), a tick stands where the preset is
// (`--blocktrain-at`), and `data-blocktrain` has the row's states. A block that is chosen, or has the pointer or the
// keyboard, is marked here and in the map.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});

    class WeightRows {
        constructor(map) {
            this.map = map;
            this.prefix = map.element.dataset.sliders;
            this.ending = new AbortController();
            const options = { signal: this.ending.signal };
            document.addEventListener("pointerover", (event) => this.point(this.idAt(event.target)), options);
            document.addEventListener("focusin", (event) => this.focus(this.idAt(event.target)), options);
            document.addEventListener("focusout", () => this.focus(undefined), options);
            document.addEventListener("click", (event) => this.click(event), options);
        }

        detach() {
            this.ending.abort();
        }

        row(id) {
            return this.map.sliders.input(id)?.closest(".block");
        }

        // The block whose row an element is in.
        idAt(element) {
            const id = element.closest?.(`[id^="${this.prefix}"]`)?.id.slice(this.prefix.length);
            return this.map.blocks.has(id) ? id : undefined;
        }

        point(id) {
            this.pointed = id;
            this.mark();
        }

        focus(id) {
            this.focused = id;
            this.mark();
        }

        mark() {
            const id = this.pointed ?? this.focused;
            if (this.map.pointed !== id) {
                this.map.pointed = id;
                this.map.draw();
            }
        }

        // A click on a block's name chooses it, as one on the map does.
        click(event) {
            const id = event.target.closest?.("label") && this.idAt(event.target);
            if (id && !this.map.blocks.get(id).dataset.absent) {
                event.preventDefault();
                this.map.hands.choose(id, event);
            }
        }

        draw() {
            const { map } = this;
            const [low, high] = map.sliders.range();
            const at = (value) => ((Math.min(high, Math.max(low, value)) - low) / (high - low)).toFixed(4);
            const changed = new Set(map.diff ? blocktrain.presetBase.changes(map) : []);
            const base = blocktrain.presetBase.of(map);
            for (const id of [...map.ids, ...this.missing()]) {
                const row = this.row(id);
                if (!row) {
                    continue;
                }
                const block = map.blocks.get(id);
                const absent = block ? block.dataset.absent : "model";
                const weight = map.weight(id);
                const states = {
                    gone: !block, // the loaded model has no such block
                    absent: Boolean(absent),
                    minus: weight < 0,
                    over: weight > 1,
                    changed: changed.has(id),
                    chosen: map.selection.has(id),
                    pointed: [map.under, map.focused].includes(id),
                };
                const state = Object.keys(states).filter((name) => states[name]).join(" ");
                const preset = base?.weights[id] ?? weight;
                const drawn = [state, absent, weight, preset, low, high].join("|");
                if (row.drawn === drawn && row.dataset.blocktrain === state) {
                    continue;
                }
                row.drawn = drawn;
                row.dataset.blocktrain = state;
                row.dataset.absent = absent;
                row.style.setProperty("--blocktrain-from", at(Math.min(0, weight)));
                row.style.setProperty("--blocktrain-to", at(Math.max(0, weight)));
                row.style.setProperty("--blocktrain-at", at(preset));
            }
        }

        // The sliders of blocks that the loaded model does not have.
        missing() {
            const rows = document.querySelectorAll(`#blocktrain_weights [id^="${this.prefix}"]`);
            return [...rows].map((row) => row.id.slice(this.prefix.length)).filter((id) => !this.map.blocks.has(id));
        }
    }

    blocktrain.WeightRows = WeightRows;

    // Weights by kind of layer or over the steps, from a tag or a preset: their fold opens, since the sliders do not show
    // them. They count as a change from the preset.
    let changes = "";
    (blocktrain.pageChanged ||= new Set()).add(() => {
        const fold = document.querySelector("#blocktrain_changing");
        const text = fold?.querySelector("textarea")?.value ?? changes;
        if (text && !changes && document.activeElement !== fold.querySelector("textarea")) {
            fold.querySelector(".label-wrap:not(.open)")?.click();
        }
        if (text !== changes) {
            changes = text;
            const map = blocktrain.uMap.find("blocktrain_u_weights");
            map?.settle();
            map?.draw();
        }
    });
})();
