// Shows two pictures of a comparison in one place: with a movable divider, or as their difference, which can be saved.
// It uses the pictures already in the page, without any request. The choice of pictures is kept for the next comparison.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const chosen = { left: null, right: null, at: 50 };
    let shown = null; // that of the last comparison
    const GAIN = 4; // brightens the difference, which would be dark otherwise
    const CHANGED = 20; // of 255: LoRA Block Weight counts pixels that differ by more

    const made = (...given) => blocktrain.made(...given);

    // Draws |a - b|, brightened, on a canvas; returns the mean difference (of 255) and the share of changed pixels.
    function drawDifference(canvas, a, b) {
        const [width, height] = [b.naturalWidth, b.naturalHeight];
        const pixels = (picture) => {
            const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
            context.drawImage(picture, 0, 0, width, height);
            return context.getImageData(0, 0, width, height);
        };
        const [first, second] = [pixels(a), pixels(b).data];
        let [sum, changed] = [0, 0];
        for (let n = 0; n < second.length; n += 4) {
            let largest = 0;
            for (let c = n; c < n + 3; c++) {
                const difference = Math.abs(first.data[c] - second[c]);
                sum += difference;
                largest = Math.max(largest, difference);
                first.data[c] = Math.min(255, GAIN * difference);
            }
            changed += largest > CHANGED;
        }
        Object.assign(canvas, { width, height }).getContext("2d").putImageData(first, 0, 0);
        return { mean: sum / (3 * width * height), changed: changed / (width * height) };
    }

    class Swipe {
        constructor(element) {
            this.figures = new Map();
            for (const figure of element.querySelectorAll("figure[data-arm]")) {
                this.figures.set(figure.dataset.arm, figure);
            }
            const arms = [...this.figures.keys()];
            if (arms.length < 2) {
                return;
            }
            const known = (arm, otherwise) => (this.figures.has(arm) ? arm : otherwise);
            this.left = this.menu("Left picture", known(chosen.left, arms[Math.max(0, arms.length - 2)]));
            this.right = this.menu("Right picture", known(chosen.right, arms[arms.length - 1]));
            this.under = made("img", { alt: "" });
            this.over = made("img", { alt: "" });
            this.range = made("input", { type: "range", min: 0, max: 100, step: 1, value: chosen.at });
            this.range.setAttribute("aria-label", "Border between the two pictures, in percent from the left");
            this.stage = made("div", { className: "blocktrain-swipe-stage" }, this.under, this.over, this.range);
            this.canvas = made("canvas", {});
            this.canvas.setAttribute("role", "img");
            this.said = made("span", {});
            const save = made("button", { type: "button", textContent: "Save the difference" });
            save.addEventListener("click", () => this.save());
            const foot = made("div", { className: "blocktrain-swipe-foot" }, this.said, save);
            this.difference = made("div", { className: "blocktrain-swipe-difference" }, this.canvas, foot);
            const label = (text, menu) => made("label", { textContent: text }, menu);
            const parts = [label("Left ", this.left), label("Right ", this.right)];
            const menus = made("div", { className: "blocktrain-swipe-menus" }, ...parts);
            this.element = made("div", { className: "blocktrain-swipe" }, menus, this.stage, this.difference);
            menus.addEventListener("change", () => this.draw());
            this.range.addEventListener("input", () => this.draw());
            element.append(this.element);
            shown = this;
            this.draw();
        }

        menu(label, arm) {
            const menu = made("select", {});
            menu.setAttribute("aria-label", label);
            for (const [name, figure] of this.figures) {
                menu.append(made("option", { value: name, textContent: figure.querySelector("figcaption b").textContent }));
            }
            menu.value = arm;
            return menu;
        }

        draw() {
            const view = blocktrain.pictures?.view();
            Object.assign(chosen, { left: this.left.value, right: this.right.value, at: Number(this.range.value) });
            const picture = (menu) => this.figures.get(menu.value).querySelector("img");
            const [left, right] = [picture(this.left), picture(this.right)];
            const both = Boolean(left && right);
            this.element.classList.toggle("blocktrain-swipe-none", !both);
            this.stage.classList.toggle("blocktrain-swipe-empty", !both || view !== "swipe");
            this.difference.classList.toggle("blocktrain-swipe-empty", !both || view !== "difference");
            if (both && view === "difference") {
                this.drawDifference(left, right);
            } else if (both && view === "swipe") {
                this.under.src = right.src;
                this.over.src = left.src;
                this.stage.style.setProperty("--blocktrain-at", `${chosen.at}%`);
                const shares = `${chosen.at} % ${this.left.selectedOptions[0].text}, ${100 - chosen.at} % ${this.right.selectedOptions[0].text}`;
                this.range.setAttribute("aria-valuetext", shares);
            }
        }

        // Decode the pictures first: a new one has no pixels yet.
        async drawDifference(left, right) {
            await Promise.all([left.decode(), right.decode()]);
            const { mean, changed } = drawDifference(this.canvas, left, right);
            const share = `${(100 * changed).toFixed(changed < 0.1 ? 1 : 0)} % of the pixels differ by more than ${CHANGED} of 255`;
            this.said.textContent = `${share}, ${mean.toFixed(1)} on average; shown ${GAIN} times as strong`;
            const names = `${this.left.selectedOptions[0].text} and ${this.right.selectedOptions[0].text}`;
            this.canvas.setAttribute("aria-label", `Difference of ${names}: ${share}`);
        }

        save() {
            this.canvas.toBlob((png) => blocktrain.download(png, `difference-${this.left.value}-${this.right.value}.png`));
        }
    }

    const built = new WeakSet(); // the components' own set has each element once, for pictures_history.js
    (blocktrain.pageChanged ||= new Set()).add(() => {
        for (const element of document.querySelectorAll("#blocktrain .blocktrain-pictures.blocktrain-shots")) {
            if (!built.has(element)) {
                built.add(element);
                new Swipe(element);
            }
        }
    });
    document.addEventListener("blocktrain:view", () => shown?.element?.isConnected && shown.draw());
})();
