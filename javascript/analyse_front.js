// Analyse: the front that a search for weights has found, as a slider with a picture at each place.
//
// The element's `data-front` has the places, from all of A and B to the least of B: `a` is what is kept, `b` what is left
// (1 for the whole LoRA), `picture` a data URL. Dragging asks nobody; the number that the server reads is set when the
// slider rests.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const percent = (share) => `${Math.round(100 * share)} %`;
    const made = (...given) => blocktrain.made(...given);

    function line(letter, shares) {
        const last = Math.max(shares.length - 1, 1);
        const at = (share, n) => `${(100 * n) / last},${100 - 100 * Math.min(Math.max(share, 0), 1)}`;
        return blocktrain.drawn("polyline", { class: `blocktrain-keep-${letter}`, points: shares.map(at).join(" ") });
    }

    class Front {
        constructor(element) {
            const { places, chosen, aName, bName } = JSON.parse(element.dataset.front);
            this.places = places;
            const grid = blocktrain.drawn("path", { class: "blocktrain-keep-grid", d: "M0 0H100M0 50H100M0 100H100" });
            const frame = { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" };
            const lines = ["a", "b"].map((letter) => line(letter, places.map((place) => place[letter])));
            this.range = made("input", { type: "range", min: 0, max: places.length - 1, step: 1 });
            this.range.disabled = places.length < 2;
            this.range.value = chosen;
            this.range.setAttribute("aria-label", "From all of A and B to the least of B");
            const svg = blocktrain.drawn("svg", frame, grid, ...lines);
            this.plot = made("div", { className: "blocktrain-keep-plot" }, svg, made("i"), this.range);
            const ends = made("p", { className: "blocktrain-keep-ends" });
            ends.append(made("span", { textContent: "as it is" }), made("span", { textContent: "least of B" }));
            this.figures = { a: made("b"), b: made("b") };
            const said = [["a", aName, "kept"], ["b", bName, "dropped"]].map(([letter, name, what]) =>
                made(
                    "div",
                    { className: `blocktrain-keep-is-${letter}` },
                    made("small", { textContent: `${letter.toUpperCase()}: ${name}` }),
                    this.figures[letter],
                    made("span", { textContent: what }),
                ),
            );
            this.picture = made("img", { alt: "" });
            const curve = made("div", {}, this.plot, ends, made("div", { className: "blocktrain-keep-figures" }, ...said));
            element.replaceChildren(this.picture, curve);
            this.range.addEventListener("input", () => {
                this.show();
                this.send();
            });
            this.show();
        }

        show() {
            const n = Number(this.range.value);
            const { a, b, picture } = this.places[n];
            this.plot.style.setProperty("--blocktrain-at", `${(100 * n) / Math.max(this.places.length - 1, 1)}%`);
            this.figures.a.textContent = percent(a);
            this.figures.b.textContent = percent(1 - b);
            this.picture.hidden = !picture;
            if (picture) {
                this.picture.src = picture;
                this.picture.alt = `drawn with ${percent(a)} of A kept and ${percent(1 - b)} of B dropped`;
            }
            this.range.setAttribute("aria-valuetext", `${percent(a)} of A kept, ${percent(1 - b)} of B dropped`);
        }

        send() {
            const box = document.querySelector("#blocktrain_solve_place input");
            clearTimeout(this.waiting);
            this.waiting = setTimeout(() => {
                box.value = Number(this.range.value) + 1;
                box.dispatchEvent(new Event("input", { bubbles: true }));
            }, 150);
        }
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-front", (element) => new Front(element));
})();
