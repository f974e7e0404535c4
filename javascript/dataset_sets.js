// The left side of Pictures: the sets and how to make or open one, and what to look at; what the set is worth and its tags
// are in dataset_worth.js and dataset_tags.js.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const WORDS = {
        "no caption": ["No caption", ""],
        small: ["Smaller than the training size", ""],
        "odd aspect": ["Odd aspect", ""],
        duplicate: ["Duplicates", "No duplicates"],
        problem: ["Cannot be read", ""],
        unsaved: ["Caption not saved", ""],
        masked: ["With a mask", ""],
    };
    const parts = {}; // the sections, by name
    let making = ""; // the form that is open: "new", "open" or none

    const made = (...given) => blocktrain.made(...given);

    function quiet(sign, label, run) {
        const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-icon blocktrain-is-quiet", title: label });
        button.setAttribute("aria-label", label);
        button.append(dataset.icon(sign));
        button.addEventListener("click", run);
        return button;
    }

    // --- sets -------------------------------------------------------------------------------------------------------

    function setRow(one) {
        const image = one.cover ? made("img", { alt: `A picture of ${one.name}`, loading: "lazy" }) : made("i", {});
        if (one.cover) {
            dataset.show(image, one.set, { picture: one.cover, version: "" }, 256);
        }
        const repeats = one.repeats === null ? "" : ` · ${dataset.many(one.repeats, "repeat")}`;
        const words = one.problem || `${dataset.many(one.pictures, "picture")}${repeats}`;
        const row = made("button", { type: "button", className: "blocktrain-set", title: one.folder }, image);
        row.append(made("span", {}, made("b", { textContent: one.name }), made("small", { textContent: words })));
        row.classList.toggle("blocktrain-is-on", one.set === dataset.state.set);
        row.classList.toggle("blocktrain-is-bad", Boolean(one.problem));
        row.setAttribute("aria-pressed", String(one.set === dataset.state.set));
        row.dataset.set = one.set;
        row.addEventListener("click", () => dataset.attempt(() => dataset.open(one.set)));
        const item = made("li", {}, row);
        if (one.kind !== "own") {
            item.append(quiet("x", `Take ${one.name} out of this list; its folder stays as it is`, () => dataset.attempt(() => closed(one.set))));
        }
        return item;
    }

    async function closed(key) {
        await dataset.ask("close", { set: key });
        await dataset.loadSets();
        if (!dataset.openSet()) {
            await dataset.open(dataset.state.sets[0]?.set || "");
        }
    }

    // A form of one field under the heading; `run` gets the field's text, and its error stands at the field.
    function form(label, placeholder, go, run) {
        const input = made("input", { type: "text", className: "blocktrain-in", placeholder, autocomplete: "off", spellcheck: false });
        input.setAttribute("aria-label", label);
        const wrong = made("p", { className: "blocktrain-failure", hidden: true });
        wrong.setAttribute("role", "alert");
        const sure = made("button", { type: "submit", className: "blocktrain-btn blocktrain-is-strong", textContent: go });
        const shown = made("form", { className: "blocktrain-dataset-form" }, input, sure, wrong);
        shown.addEventListener("submit", async (event) => {
            event.preventDefault();
            sure.disabled = true;
            try {
                await run(input.value);
                making = "";
                drawSets();
            } catch (error) {
                wrong.textContent = error.message;
                wrong.hidden = false;
                input.setAttribute("aria-invalid", "true");
                input.focus();
            }
            sure.disabled = false;
        });
        shown.addEventListener("keydown", (event) => {
            if (event.key === "Escape") {
                event.stopPropagation();
                making = "";
                drawSets();
            }
        });
        setTimeout(() => input.focus());
        return shown;
    }

    // Make a new set of this name, and open it.
    async function create(name) {
        const { set } = await dataset.ask("create", { name });
        await dataset.loadSets();
        await dataset.open(set.set);
        return set;
    }

    async function openFolder(path) {
        const { set } = await dataset.ask("open", { path });
        await dataset.loadSets();
        await dataset.open(set.set);
    }

    function make(what) {
        making = making === what ? "" : what;
        drawSets();
    }

    function drawSets() {
        const all = dataset.state.sets || [];
        const head = made("div", { className: "blocktrain-sec-h" }, made("h2", { textContent: "Sets" }), made("span", { className: "blocktrain-sp" }));
        head.append(quiet("plus", "New set", () => make("new")));
        const list = made("ul", { className: "blocktrain-sets" }, ...all.map(setRow));
        const another = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: "Open a folder or a .toml…" });
        another.addEventListener("click", () => make("open"));
        const shown = {
            new: () => form("Name of the new set", "Name, such as robot", "Make", create),
            open: () => form("Path of a folder or of sd-scripts' .toml", "Path on the server", "Open", openFolder),
        }[making];
        const first = all.length || making ? null : made("p", { className: "blocktrain-foot", textContent: "A set is the pictures of one subject or style." });
        parts.sets.replaceChildren(...[head, making === "new" ? shown() : null, first, list, making === "open" ? shown() : another, notices()].filter(Boolean));
    }

    // What of a .toml is not understood, and which files are no pictures.
    function notices() {
        const listing = dataset.state.listing;
        const lines = [...(dataset.openSet()?.notices || []).map((line) => `Not understood: ${line}`), ...(listing?.left_out || []).map((line) => `Left out: ${line}`)];
        if (!lines.length) {
            return null;
        }
        const list = made("ul", {}, ...lines.map((line) => made("li", { textContent: line })));
        const fold = made("details", { className: "blocktrain-fold" }, made("summary", { textContent: dataset.many(lines.length, "notice") }), list);
        fold.open = Boolean(dataset.openSet()?.notices.length);
        return fold;
    }

    // --- to look at -------------------------------------------------------------------------------------------------

    function drawFlags() {
        const { state } = dataset;
        const listing = state.listing;
        parts.flags.hidden = !listing?.pictures.length;
        if (parts.flags.hidden) {
            return;
        }
        const count = (flag) => (flag === "unsaved" ? dataset.unsaved().length : listing.pictures.filter((one) => dataset.hasFlag(one, flag)).length);
        const rows = [];
        let warnings = 0;
        for (const flag of dataset.FLAGS) {
            const found = count(flag);
            const hashing = flag === "duplicate" && listing.hashed < listing.pictures.length;
            const none = flag === "duplicate" ? (hashing ? "Looking for duplicates …" : WORDS[flag][1]) : flag === "no caption" ? "All have a caption" : "";
            if (!found && !none) {
                continue;
            }
            const sized = flag === "small" && dataset.openSet()?.kind !== "toml"; // a .toml has sizes of its own
            const words = sized ? `Smaller than ${listing.size} px` : WORDS[flag][0];
            const good = !found || flag === "masked";
            warnings += good ? 0 : found;
            const row = made("button", { type: "button", className: "blocktrain-wl" }, dataset.icon(flag === "masked" ? "mask" : good ? "good" : "warn"), found ? words : none);
            row.classList.toggle("blocktrain-is-good", !found && !hashing);
            row.classList.toggle("blocktrain-is-mask", flag === "masked" || hashing);
            row.disabled = !found;
            row.dataset.flag = flag;
            row.setAttribute("aria-pressed", String(state.flags.has(flag)));
            if (found) {
                row.append(made("em", { textContent: found }));
                row.addEventListener("click", () => dataset.toggle("flags", flag));
            }
            rows.push(row);
        }
        const head = made("div", { className: "blocktrain-sec-h" }, made("h2", { textContent: "To look at" }), made("span", { className: "blocktrain-of", textContent: warnings || "" }));
        parts.flags.replaceChildren(head, made("div", { className: "blocktrain-warns" }, ...rows));
    }

    function draw(what) {
        if (["sets", "set", "listing"].includes(what) && !parts.sets.contains(document.activeElement?.closest?.("form") || null)) {
            drawSets();
        }
        if (what !== "view" && what !== "chosen") {
            drawFlags();
            dataset.drawTags();
            dataset.drawWorth();
        }
    }

    (blocktrain.components ||= new Map()).set("blocktrain-dataset-sets", (root) => {
        for (const name of ["sets", "flags", "worth", "tags"]) {
            parts[name] = made("section", { className: "blocktrain-sec", hidden: name !== "sets" });
            root.append(parts[name]);
        }
        dataset.buildWorth(parts.worth);
        dataset.buildTags(parts.tags);
        drawSets();
        dataset.listeners.add(draw);
    });
    Object.assign(dataset, { createSet: create, makeSet: make });
})();
