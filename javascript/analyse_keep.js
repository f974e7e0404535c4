// Analyse: the slider that says how many blocks are kept, on the curve of what they keep, and the order of the bars.
//
// The element's `data-keep` has the blocks from the strongest down, and the share of A (and B) that each adds. Dragging
// asks nobody: figures, map and bars follow at once. The number that the server reads is set when the slider rests.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const percent = (share) => `${Math.round(100 * share)} %`;

    // The share that the first n blocks keep, for n from 0 to all.
    const cumulated = (start, shares) => shares.reduce((sums, share) => [...sums, sums.at(-1) + share], [start]);

    const made = (...given) => blocktrain.made(...given);

    function line(className, sums) {
        const at = (share, n) => `${(100 * n) / (sums.length - 1)},${100 - 100 * Math.min(Math.max(share, 0), 1)}`;
        return blocktrain.drawn("polyline", { class: className, points: sums.map(at).join(" ") });
    }

    class Keep {
        constructor(element) {
            this.element = element;
            const data = JSON.parse(element.dataset.keep);
            this.blocks = data.blocks;
            this.live = data.live;
            this.kept = new Set(data.kept);
            this.features = ["a", "b"].filter((letter) => data[letter]).map((letter) => ({
                letter,
                name: data[`${letter}Name`],
                sums: cumulated(data[`${letter}Start`], data[letter]),
            }));
            this.build();
            this.show();
        }

        build() {
            const all = this.blocks.length;
            const grid = blocktrain.drawn("path", { class: "blocktrain-keep-grid", d: "M0 0H100M0 50H100M0 100H100" });
            const lines = this.features.map(({ letter, sums }) => line(`blocktrain-keep-${letter}`, sums));
            const frame = { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" };
            const svg = blocktrain.drawn("svg", frame, grid, ...lines);
            const label = "Blocks to keep, the strongest first";
            this.range = made("input", { type: "range", min: 0, max: all, step: 1, disabled: !this.live });
            this.range.value = this.kept.size;
            this.range.setAttribute("aria-label", label);
            this.plot = made("div", { className: "blocktrain-keep-plot" }, svg, made("i"), this.range);
            this.figures = this.features.map(() => made("b"));
            const said = this.features.map(({ letter, name }, n) =>
                made(
                    "div",
                    { className: `blocktrain-keep-is-${letter}` },
                    made("small", { textContent: this.features.length > 1 ? `${letter.toUpperCase()}: ${name}` : name }),
                    this.figures[n],
                    made("span", { textContent: letter === "a" ? "kept" : "dropped" }),
                ),
            );
            this.count = made("b");
            const ends = made("p", { className: "blocktrain-keep-ends" });
            ends.classList.toggle("blocktrain-keep-live", this.live);
            ends.append(made("span", { textContent: "0 blocks" }), this.count, made("span", { textContent: `all ${all}` }));
            this.element.replaceChildren(this.plot, ends, made("div", { className: "blocktrain-keep-figures" }, ...said));
            this.range.addEventListener("input", () => {
                this.kept = new Set(this.blocks.slice(0, Number(this.range.value)));
                this.show();
                this.send();
            });
        }

        show() {
            const [n, all] = [this.kept.size, this.blocks.length];
            this.element.style.setProperty("--blocktrain-at", `${(100 * n) / Math.max(all, 1)}%`);
            this.count.textContent = this.live ? `${n} of ${all}` : `${n} of ${all}; the slider is for the strongest`;
            this.features.forEach(({ letter, sums }, at) => {
                const share = this.live ? sums[n] : this.shareOfKept(sums);
                this.figures[at].textContent = percent(letter === "a" ? share : 1 - share);
            });
            this.range.setAttribute("aria-valuetext", `${n} of ${all} blocks`);
            markKept(this.kept);
        }

        shareOfKept(sums) {
            return this.blocks.reduce((share, block, n) => share + (this.kept.has(block) ? sums[n + 1] - sums[n] : 0), sums[0]);
        }

        send() {
            const box = document.querySelector("#blocktrain_analyse_amount input");
            clearTimeout(this.waiting);
            this.waiting = setTimeout(() => {
                box.value = Math.max(Number(this.range.value), 1);
                box.dispatchEvent(new Event("input", { bubbles: true }));
            }, 150);
        }
    }

    function markKept(kept) {
        document.querySelectorAll("#blocktrain_analyse_bars li[data-block]").forEach((row) => {
            row.classList.toggle("blocktrain-is-kept", kept.has(row.dataset.block));
        });
    }

    // The order of the bars: by effect, or by place in the U.
    function order(button) {
        const list = button.closest(".blocktrain-prose, .prose, [id]").querySelector(".blocktrain-bars");
        const by = button.dataset.order;
        [...list.children].sort((one, other) => one.dataset[by] - other.dataset[by]).forEach((row) => list.append(row));
        button.parentElement.querySelectorAll("button").forEach((other) => {
            other.setAttribute("aria-pressed", String(other === button));
        });
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("#blocktrain [data-order]");
        if (button) {
            order(button);
        }
    });

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-keep", (element) => new Keep(element));
})();
