// The tags of a set, on the left of Pictures: a click filters; dragged into an order, by Alt and an arrow key too, which the
// captions can be given.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const MOST = 60; // shown at once
    const CUT = 26; // letters: a longer one may be cut off
    const orders = new Map(); // by set: all tags in the order that they were dragged into
    let root = null;
    let searched = "";
    let all = false;

    const made = (...given) => blocktrain.made(...given);

    // Lets a chip be moved among its siblings: `move(from, to)` by dragging, or with Alt and the arrow keys on `button`.
    let dragged = null; // {list, index}
    function movable(chip, button, list, index, count, move) {
        chip.draggable = true;
        button.setAttribute("aria-keyshortcuts", "Alt+ArrowLeft Alt+ArrowRight");
        chip.addEventListener("dragstart", (event) => {
            dragged = { list, index };
            event.dataTransfer?.setData("text/plain", chip.textContent); // Firefox drags nothing without data
        });
        chip.addEventListener("dragover", (event) => dragged?.list === list && event.preventDefault());
        chip.addEventListener("drop", (event) => {
            if (dragged?.list === list) {
                event.preventDefault();
                const from = dragged.index;
                dragged = null;
                move(from, index);
            }
        });
        chip.addEventListener("dragend", () => (dragged = null));
        button.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
            if (event.altKey && by) {
                event.preventDefault();
                event.stopPropagation();
                const to = index + by;
                to >= 0 && to < count && move(index, to);
            }
        });
    }

    function moved(items, from, to) {
        const rest = items.filter((_, other) => other !== from);
        rest.splice(to, 0, items[from]);
        return rest;
    }

    // The tags with their counts, in the order of the set's own, else by count.
    function tags() {
        const listed = dataset.state.listing?.tags || [];
        const order = orders.get(dataset.state.set);
        if (!order) {
            return listed;
        }
        const places = new Map(order.map((tag, index) => [tag, index]));
        return [...listed].sort(([one], [other]) => (places.get(one) ?? order.length) - (places.get(other) ?? order.length));
    }

    const order = () => tags().map(([tag]) => tag);

    function move(from, to, shown) {
        const names = order();
        const [tag, target] = [shown[from][0], shown[to][0]];
        orders.set(dataset.state.set, moved(names, names.indexOf(tag), names.indexOf(target)));
        draw();
        const chip = [...root.querySelectorAll(".blocktrain-tag")].find((one) => one.dataset.tag === tag);
        chip?.focus();
        root.querySelector("[data-moved]").textContent = `${tag}: place ${order().indexOf(tag) + 1} of ${names.length}`;
    }

    function draw() {
        const { state } = dataset;
        const known = tags();
        root.hidden = !known.length;
        const found = known.filter(([tag]) => tag.toLowerCase().includes(searched) || state.tags.has(tag));
        const shown = all ? found : found.slice(0, MOST);
        const chips = shown.map(([tag, count], index) => {
            const chip = made("button", { type: "button", className: "blocktrain-tag", title: "Drag it, or Alt and an arrow key, into an order" }, made("span", { textContent: tag, title: tag.length > CUT ? tag : "" }), made("em", { textContent: count }));
            chip.dataset.tag = tag;
            chip.classList.toggle("blocktrain-is-on", state.tags.has(tag));
            chip.setAttribute("aria-pressed", String(state.tags.has(tag)));
            chip.addEventListener("click", () => dataset.toggle("tags", tag));
            movable(chip, chip, "set", index, shown.length, (from, to) => move(from, to, shown));
            return chip;
        });
        if (shown.length < found.length) {
            const more = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: `and ${found.length - shown.length} more` });
            more.addEventListener("click", () => {
                all = true;
                draw();
            });
            chips.push(more);
        }
        root.querySelector(".blocktrain-tags").replaceChildren(...chips);
        root.querySelector("[data-clear]").hidden = !state.tags.size && !state.flags.size;
        root.querySelector("[data-order-of]").hidden = !orders.has(state.set);
    }

    function link(label, about, run) {
        const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: label, title: about });
        button.addEventListener("click", run);
        return button;
    }

    // Builds the section in `element`.
    function buildTags(element) {
        root = element;
        const clear = link("Clear", "Show all pictures", () => dataset.clearFilters());
        clear.dataset.clear = "";
        const search = made("input", { type: "search", placeholder: "Find a tag", autocomplete: "off", spellcheck: false });
        search.setAttribute("aria-label", "Find a tag");
        search.addEventListener("input", () => {
            searched = search.value.trim().toLowerCase();
            draw();
        });
        const ordered = made("p", { className: "blocktrain-line", hidden: true }, "In an order of your own. ");
        ordered.dataset.orderOf = "";
        ordered.append(link("Order the captions…", "Give all captions their tags in this order", () => dataset.changeCaptions("order")), " ", link("By count", "Back to the order by count", () => {
            orders.delete(dataset.state.set);
            draw();
        }));
        const told = made("p", { className: "blocktrain-unseen" });
        told.dataset.moved = "";
        told.setAttribute("role", "status");
        const head = made("div", { className: "blocktrain-sec-h" }, made("h2", { textContent: "Tags" }), made("span", { className: "blocktrain-sp" }), clear);
        root.append(head, made("label", { className: "blocktrain-search" }, dataset.icon("search"), search), ordered, made("div", { className: "blocktrain-tags" }), told);
    }

    Object.assign(dataset, { buildTags, drawTags: draw, tagOrder: order, movableTag: movable, movedTag: moved });
})();
