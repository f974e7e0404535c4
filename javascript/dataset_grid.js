// The pictures of a set: as a grid, by buckets or as a list. Only those in sight are in the page, so that 500 are no more work
// than 30. Several are chosen with Shift and Ctrl; what the row above them does is done to the chosen ones.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const AROUND = 400; // pixels above and below the window that are drawn, too
    const NARROW = "(max-width: 599px)";
    const VIEWS = { grid: "Grid", buckets: "Buckets", list: "List" };
    let root, area, all, count, empty;
    let placed = { boxes: [], height: 0 };
    const cells = new Map(); // key -> its element
    let frame = null;

    const made = (...given) => blocktrain.made(...given);

    function link(text, title, run) {
        const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: text, title });
        button.addEventListener("click", run);
        return button;
    }

    // --- the row above ----------------------------------------------------------------------------------------------

    function buildHead() {
        const { state } = dataset;
        all = made("input", { type: "checkbox" });
        all.setAttribute("aria-label", "Choose all that are shown");
        all.addEventListener("change", () => dataset.chooseAll(all.checked));
        count = made("span", {});
        const chosen = () => [...state.chosen];
        const views = made("span", { className: "blocktrain-seg" });
        views.setAttribute("role", "group");
        views.setAttribute("aria-label", "How the pictures are shown");
        for (const [view, title] of Object.entries(VIEWS)) {
            const button = made("button", { type: "button" }, view === "grid" ? dataset.icon("grid") : null, title);
            button.dataset.view = view;
            button.addEventListener("click", () => dataset.set({ view }));
            views.append(button);
        }
        const size = made("input", { type: "range", min: 1, max: 3, step: 1, value: state.size, className: "blocktrain-size", title: "Size of the pictures" });
        size.setAttribute("aria-label", "Size of the pictures");
        size.addEventListener("input", () => dataset.set({ size: Number(size.value) }));
        const row = made("div", { className: "blocktrain-sec-h blocktrain-dataset-head" }, made("label", { className: "blocktrain-check" }, all, count), made("i", { className: "blocktrain-rule" }));
        row.append(
            link("Add tag…", "To the captions of the chosen pictures", () => dataset.changeCaptions("add tag", chosen())),
            link("Replace…", "In the captions of the chosen pictures", () => dataset.changeCaptions("replace", chosen())),
            link("Remove…", "A tag, from the captions of the chosen pictures", () => dataset.changeCaptions("remove tag", chosen())),
            made("span", { className: "blocktrain-sp" }), views, size
        );
        return row;
    }

    function drawHead() {
        const { state } = dataset;
        const shown = dataset.shown().length;
        all.checked = shown > 0 && state.chosen.size === shown;
        all.indeterminate = state.chosen.size > 1 && !all.checked;
        count.textContent = `${state.chosen.size} of ${shown} chosen`;
        root.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === state.view)));
        root.querySelector(".blocktrain-dataset-head").hidden = !dataset.pictures().length;
        root.querySelector(".blocktrain-size").value = state.size;
        root.querySelector(".blocktrain-size").hidden = state.view === "list";
    }

    // --- what is in sight -------------------------------------------------------------------------------------------

    const keyOf = (box) => (box.one ? box.one.picture : box.drop ? "\n drop" : `\n ${box.head.title} ${box.head.larger}`);

    function place() {
        const { state } = dataset;
        const list = dataset.shown();
        const none = dataset.pictures().length && !list.length;
        empty.hidden = !none;
        area.hidden = Boolean(none) || state.sets === null;
        const width = area.clientWidth;
        if (!width) {
            return;
        }
        placed = dataset.layout(state.view, list, width, state.size, matchMedia(NARROW).matches);
        area.style.height = `${placed.height}px`;
        area.className = `blocktrain-pics blocktrain-in-${state.view}`;
        draw();
    }

    function draw() {
        frame = null;
        if (!area.offsetParent) {
            return;
        }
        const top = area.getBoundingClientRect().top;
        const [from, to] = [-top - AROUND, innerHeight - top + AROUND];
        const needed = new Set();
        for (const box of placed.boxes) {
            if (box.y + box.h < from || box.y > to) {
                continue;
            }
            const key = keyOf(box);
            needed.add(key);
            let cell = cells.get(key);
            if (!cell || cell.dataset.kind !== dataset.state.view) {
                cell?.remove();
                cell = dataset.cell(box, dataset.state.view);
                cell.dataset.kind = dataset.state.view;
                cells.set(key, cell);
                area.append(cell);
            }
            cell.style.transform = `translate(${box.x}px, ${box.y}px)`;
            cell.style.width = `${box.w}px`;
            cell.style.height = `${box.h}px`;
            dataset.fillCell(cell, box);
        }
        for (const [key, cell] of cells) {
            if (!needed.has(key) && !cell.contains(document.activeElement)) {
                cell.remove();
                cells.delete(key);
            }
        }
    }

    function drawSoon() {
        frame ??= requestAnimationFrame(draw);
    }

    const boxOf = (key) => placed.boxes.find((box) => box.one?.picture === key);

    // Bring a picture into sight, below the header and the bar.
    function reveal(key) {
        const box = boxOf(key);
        if (!box || !area.offsetParent) {
            return;
        }
        const top = area.getBoundingClientRect().top + box.y;
        const [least, most] = innerWidth < 900 ? [100, innerHeight - 130] : [110, innerHeight - 12];
        if (top < least) {
            scrollBy(0, top - least);
        } else if (top + box.h > most) {
            scrollBy(0, top + box.h - most);
        }
        draw();
    }

    // --- mouse and keyboard -----------------------------------------------------------------------------------------

    function click(event) {
        const cell = event.target.closest(".blocktrain-pic");
        const key = cell?.dataset.key;
        if (!key) {
            return;
        }
        if (event.target.matches("input[type=checkbox]")) {
            dataset.choose(key, event.shiftKey ? "range" : "toggle");
        } else if (event.target.closest(".blocktrain-pic-b")) {
            const several = event.ctrlKey || event.metaKey;
            dataset.choose(key, event.shiftKey ? "range" : several ? "toggle" : "one");
            if (!several && !event.shiftKey) {
                blocktrain.segment?.("pictures", "chosen"); // on a phone
            }
        }
    }

    function keydown(event) {
        const key = event.target.closest(".blocktrain-pic-b")?.closest(".blocktrain-pic").dataset.key;
        if (!key) {
            return;
        }
        const box = boxOf(key);
        if (event.key.startsWith("Arrow") && box && !event.altKey) {
            const to = dataset.beside(placed.boxes, box, event.key);
            event.preventDefault();
            if (to) {
                go(to.one.picture, event.shiftKey ? "range" : "one");
            }
        } else if (event.key === " ") {
            event.preventDefault();
            dataset.choose(key, "toggle");
        } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
            event.preventDefault();
            dataset.editCaption();
        } else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            dataset.chooseAll(true);
        } else if (event.key === "Escape" && dataset.state.chosen.size > 1) {
            dataset.choose(key);
        }
    }

    function go(key, how) {
        dataset.choose(key, how);
        reveal(key);
        cells.get(key)?.querySelector(".blocktrain-pic-b")?.focus({ preventScroll: true });
    }

    // --- set-up -----------------------------------------------------------------------------------------------------

    (blocktrain.components ||= new Map()).set("blocktrain-dataset-pictures", (element) => {
        dataset.recall();
        root = made("section", { className: "blocktrain-sec" });
        area = made("div", { className: "blocktrain-pics" });
        area.setAttribute("role", "group");
        area.setAttribute("aria-label", "Pictures of the set");
        const clear = link("Show all", "Without filters", dataset.clearFilters);
        empty = made("p", { className: "blocktrain-line", hidden: true }, "No picture has all of what is filtered. ", clear);
        root.append(buildHead(), empty, area);
        element.append(root);
        area.addEventListener("click", click);
        area.addEventListener("keydown", keydown);
        addEventListener("scroll", drawSoon, { passive: true, capture: true });
        new ResizeObserver(place).observe(root);
        dataset.listeners.add((what) => {
            drawHead();
            if (what === "chosen" || what === "draft" || what === "worth") {
                draw();
            } else {
                place();
            }
        });
        drawHead();
        place();
    });
    Object.assign(dataset, { reveal });
})();
