// Lets the user paint a mask over a picture. The strokes, in fractions of the picture's sides, go into a text box that
// the server reads, or to a script. No canvas library is used: those redraw all the time.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const SIZES = { fine: 0.02, broad: 0.06, wide: 0.14 }; // radius, as a fraction of the picture's width
    const SIDE = 512; // pixels of the canvas

    const made = (...given) => blocktrain.made(...given);

    class MaskPainter {
        // Paints over the picture in `element`, or over `image`, which is moved there; `size` is the canvas's. The strokes
        // go to `changed`, without one into the box that `data-target` names. With `erases` there is an eraser. `strokes` are
        // those to go on from.
        constructor(element, { image = null, size = [SIDE, SIDE], changed = null, erases = false, strokes = [] } = {}) {
            this.box = changed ? null : document.querySelector(`#${element.dataset.target} :is(textarea, input)`);
            this.changed = changed;
            this.strokes = strokes; // [radius, x, y, x, y, …]; a negative radius erases
            this.radius = SIZES.broad;
            this.erasing = false;
            this.first = null; // the mask that was there before, as an image
            const picture = image || element.querySelector("img");
            this.canvas = made("canvas", { width: size[0], height: size[1], title: "Paint over the feature" });
            element.append(made("div", { className: "blocktrain-painter-stage" }, picture, this.canvas), this.tools(erases));
            this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
            this.canvas.addEventListener("pointermove", (event) => this.extend(event));
            this.canvas.addEventListener("pointerup", () => this.end());
            this.canvas.addEventListener("pointercancel", () => this.end());
            this.draw();
            this.send();
        }

        tools(erases) {
            const sizes = made("select", {});
            sizes.setAttribute("aria-label", "Width of the brush");
            for (const [name, radius] of Object.entries(SIZES)) {
                sizes.append(made("option", { value: radius, textContent: `${name} brush`, selected: radius === this.radius }));
            }
            sizes.addEventListener("change", () => (this.radius = Number(sizes.value)));
            const erase = made("button", { type: "button", textContent: "Erase" });
            erase.setAttribute("aria-pressed", "false");
            erase.addEventListener("click", () => {
                this.erasing = !this.erasing;
                erase.setAttribute("aria-pressed", String(this.erasing));
            });
            const undo = made("button", { type: "button", textContent: "Undo" });
            undo.addEventListener("click", () => this.replace(this.strokes.slice(0, -1)));
            const clear = made("button", { type: "button", textContent: "Clear" });
            clear.addEventListener("click", () => this.replace(this.first ? [[-2, 0.5, 0.5, 0.51, 0.5]] : []));
            return made("div", { className: "blocktrain-painter-tools" }, sizes, erases ? erase : null, undo, clear);
        }

        // Begin with a mask that is there, white on black; null is none.
        async begins(url) {
            if (!url) {
                this.first = null;
                this.draw();
                return;
            }
            const image = new Image();
            image.src = url;
            await image.decode();
            const { width, height } = this.canvas;
            const canvas = made("canvas", { width, height });
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0, width, height);
            const pixels = context.getImageData(0, 0, width, height);
            for (let at = 0; at < pixels.data.length; at += 4) {
                pixels.data[at + 3] = pixels.data[at]; // as opaque as it is white
                pixels.data.fill(255, at, at + 3);
            }
            context.putImageData(pixels, 0, 0);
            this.first = canvas;
            this.draw();
        }

        // The mask, white on black, as a PNG in a data URL.
        png() {
            const { width, height } = this.canvas;
            const canvas = made("canvas", { width, height });
            const context = canvas.getContext("2d");
            context.fillRect(0, 0, width, height);
            context.drawImage(this.canvas, 0, 0);
            return canvas.toDataURL("image/png");
        }

        begin(event) {
            event.preventDefault();
            this.canvas.setPointerCapture(event.pointerId);
            this.stroke = [this.erasing ? -this.radius : this.radius];
            this.strokes.push(this.stroke);
            this.extend(event);
            this.changed?.(this.strokes); // while it is drawn, too
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
            const { width, height } = this.canvas;
            context.globalCompositeOperation = "source-over";
            context.clearRect(0, 0, width, height);
            if (this.first) {
                context.drawImage(this.first, 0, 0);
            }
            Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
            for (const [radius, ...places] of this.strokes) {
                context.globalCompositeOperation = radius < 0 ? "destination-out" : "source-over";
                context.lineWidth = 2 * Math.abs(radius) * width;
                context.beginPath();
                context.moveTo(places[0] * width, places[1] * height);
                for (let n = 0; n < places.length; n += 2) {
                    context.lineTo(places[n] * width, places[n + 1] * height);
                }
                context.stroke();
            }
        }

        send() {
            if (this.changed) {
                this.changed(this.strokes);
                return;
            }
            this.box.value = this.strokes.length ? JSON.stringify(this.strokes) : "";
            this.box.dispatchEvent(new Event("input", { bubbles: true }));
        }
    }

    blocktrain.MaskPainter = MaskPainter;
    (blocktrain.components ||= new Map()).set("blocktrain-painter", (element) => new MaskPainter(element));
})();
