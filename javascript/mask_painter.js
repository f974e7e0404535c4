// Lets the user paint a mask over a picture. The strokes, in fractions of the picture's sides, go into a text box that
// the server reads. No canvas library is used: those redraw all the time.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const SIZES = { fine: 0.02, broad: 0.06, wide: 0.14 }; // radius, as a fraction of the picture's width

    const made = (...given) => blocktrain.made(...given);

    class MaskPainter {
        constructor(element) {
            this.box = document.querySelector(`#${element.dataset.target} :is(textarea, input)`);
            this.strokes = [];
            this.radius = SIZES.broad;
            const picture = element.querySelector("img");
            this.canvas = made("canvas", { width: 512, height: 512, title: "Paint over the feature" });
            element.append(made("div", { className: "blocktrain-painter-stage" }, picture, this.canvas), this.tools());
            this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
            this.canvas.addEventListener("pointermove", (event) => this.extend(event));
            this.canvas.addEventListener("pointerup", () => this.end());
            this.canvas.addEventListener("pointercancel", () => this.end());
            this.send();
        }

        tools() {
            const sizes = made("select", {});
            sizes.setAttribute("aria-label", "Width of the brush");
            for (const [name, radius] of Object.entries(SIZES)) {
                sizes.append(made("option", { value: radius, textContent: `${name} brush`, selected: radius === this.radius }));
            }
            sizes.addEventListener("change", () => (this.radius = Number(sizes.value)));
            const undo = made("button", { type: "button", textContent: "Undo" });
            undo.addEventListener("click", () => this.replace(this.strokes.slice(0, -1)));
            const clear = made("button", { type: "button", textContent: "Clear" });
            clear.addEventListener("click", () => this.replace([]));
            return made("div", { className: "blocktrain-painter-tools" }, sizes, undo, clear);
        }

        begin(event) {
            event.preventDefault();
            this.canvas.setPointerCapture(event.pointerId);
            this.stroke = [this.radius];
            this.strokes.push(this.stroke);
            this.extend(event);
        }

        extend(event) {
            if (!this.stroke) {
                return;
            }
            const { left, top, width, height } = this.canvas.getBoundingClientRect();
            const part = (at, from, side) => Math.round(Math.min(1, Math.max(0, (at - from) / side)) * 1000) / 1000;
            this.stroke.push(part(event.clientX, left, width), part(event.clientY, top, height));
            this.draw();
        }

        end() {
            if (this.stroke) {
                this.stroke = null;
                this.send();
            }
        }

        replace(strokes) {
            this.strokes = strokes;
            this.draw();
            this.send();
        }

        draw() {
            const context = this.canvas.getContext("2d");
            const side = this.canvas.width;
            context.clearRect(0, 0, side, side);
            Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
            for (const [radius, ...places] of this.strokes) {
                context.lineWidth = 2 * radius * side;
                context.beginPath();
                context.moveTo(places[0] * side, places[1] * side);
                for (let n = 0; n < places.length; n += 2) {
                    context.lineTo(places[n] * side, places[n + 1] * side);
                }
                context.stroke();
            }
        }

        send() {
            this.box.value = this.strokes.length ? JSON.stringify(this.strokes) : "";
            this.box.dispatchEvent(new Event("input", { bubbles: true }));
        }
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-painter", (element) => new MaskPainter(element));
})();
