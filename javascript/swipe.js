// Two pictures of a comparison in one place, with a border between them that is swiped. The pictures are those that
// the server has put into the page; no request is made. What was chosen outlives the next preview.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    const chosen = { open: false, left: null, right: null, at: 50 };

    function made(tag, properties, ...children) {
        const element = Object.assign(document.createElement(tag), properties);
        element.append(...children);
        return element;
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
            const menus = made("div", { className: "blocktrain-swipe-menus" }, this.left, this.right);
            const summary = made("summary", { textContent: "Swipe between two pictures" });
            const folded = made("details", { className: "blocktrain-swipe", open: chosen.open }, summary, menus, this.stage);
            folded.addEventListener("toggle", () => this.draw(folded.open));
            menus.addEventListener("change", () => this.draw(folded.open));
            this.range.addEventListener("input", () => this.draw(folded.open));
            element.append(folded);
            this.draw(folded.open);
        }

        menu(label, arm) {
            const menu = made("select", {});
            menu.setAttribute("aria-label", label);
            for (const [name, figure] of this.figures) {
                menu.append(made("option", { value: name, textContent: figure.querySelector("figcaption").firstChild.textContent }));
            }
            menu.value = arm;
            return menu;
        }

        draw(open) {
            Object.assign(chosen, { open, left: this.left.value, right: this.right.value, at: Number(this.range.value) });
            const picture = (menu) => this.figures.get(menu.value).querySelector("img");
            const [left, right] = [picture(this.left), picture(this.right)];
            this.stage.classList.toggle("blocktrain-swipe-empty", !(left && right));
            if (open && left && right) {
                this.under.src = right.src;
                this.over.src = left.src;
                this.stage.style.setProperty("--blocktrain-at", `${chosen.at}%`);
                const shares = `${chosen.at} % ${this.left.selectedOptions[0].text}, ${100 - chosen.at} % ${this.right.selectedOptions[0].text}`;
                this.range.setAttribute("aria-valuetext", shares);
            }
        }
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-pictures", (element) => new Swipe(element));
})();
